"""What pacing does for batches and to loads, on a simulated device: no clock but the simulation's.

Batches come at an even pace and take `CALM_S`, jitter aside, and `drag` times as much more while a
copy runs beside them for all of their time; a copy alone goes at `BANDWIDTH`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from inference_service.device.pinned_staging import CHUNK_BYTES
from inference_service.policy.staging_rate import MIB, StagingRate
from inference_service.staging import PART_BYTES

FLOOR = 32 * MIB
BANDWIDTH = 8 * 1024 * MIB
CALM_S = 0.004
PERIOD_S = 0.005


@dataclass
class Device:
    """`drag` may be changed while it runs; `paced` is whether the policy is asked."""

    drag: float
    paced: bool = True
    part: int = CHUNK_BYTES
    loads: int = 1
    now: float = 50.0
    staged: int = 0
    spans: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rate = StagingRate(floor=FLOOR)
        self.chance = random.Random(7)
        self.copied_until = 0.0

    def calm(self, seconds: float) -> None:
        """Batches alone."""
        for _ in range(round(seconds / PERIOD_S)):
            self.batch(0)

    def load(self, seconds: float = float("inf"), size: float = float("inf")) -> float:
        """Batches beside `loads` loads for so long, or until `size` bytes are staged; seconds."""
        for _ in range(self.loads):
            self.rate.on_begin(now=self.now)
        began, target = self.now, self.staged + size
        self.copied_until = self.now
        while self.now - began < seconds and self.staged < target:
            before = self.staged
            self.copy(self.now + PERIOD_S)
            self.batch(self.staged - before)
        for _ in range(self.loads):
            self.rate.on_end(now=self.now)
        return self.now - began

    def copy(self, until: float) -> None:
        while self.copied_until < until:
            if not self.paced or self.rate.take(self.part, now=self.copied_until):
                self.staged += self.part
                self.copied_until += self.part / BANDWIDTH
                continue
            wakeup = self.rate.next_wakeup()
            assert wakeup is not None and wakeup > self.copied_until
            self.copied_until = wakeup

    def batch(self, staged: int) -> None:
        """One, beside which so many bytes were copied."""
        self.now += PERIOD_S
        share = min(1.0, staged / (PERIOD_S * BANDWIDTH))
        jitter = 1 + abs(self.chance.gauss(0, 0.03))
        self.spans.append(CALM_S * jitter * (1 + self.drag * share))
        self.rate.on_batch(self.spans[-1], now=self.now)


def p99(spans: list[float]) -> float:
    return sorted(spans)[(len(spans) - 1) * 99 // 100]


def beside(device: Device, what: Callable[[Device], object]) -> float:
    """p99 of the batches beside `what`, over that of calm ones."""
    device.calm(5)
    calm = p99(device.spans)
    device.spans.clear()
    what(device)
    return p99(device.spans) / calm


def long_load(device: Device) -> None:
    device.load(10)
    device.spans.clear()
    device.load(20)


@pytest.mark.parametrize("drag", [1.0, 3.0, 8.0])
@pytest.mark.parametrize("part", [PART_BYTES, CHUNK_BYTES])
def test_batches_feel_a_fraction_of_what_they_would(drag, part):
    unpaced = beside(Device(drag, paced=False, part=part), long_load)
    device = Device(drag, part=part)
    paced = beside(device, long_load)
    assert unpaced == pytest.approx(1 + drag, rel=0.05)
    # The policy's own mark is a quarter and half a millisecond; it goes past that to see it, and a
    # batch beside a single part feels that one.
    assert paced < max(1.6, 1.05 + drag * part / (PERIOD_S * BANDWIDTH))
    assert device.staged > 20 * FLOOR


def test_copies_that_disturb_nobody_are_never_held_back():
    device = Device(0.0)
    assert beside(device, lambda d: d.load(10)) < 1.1
    assert device.staged == pytest.approx(10 * BANDWIDTH, rel=0.01)
    assert device.rate.snapshot().decreases == 0


def test_loads_without_a_pause_are_held_back_for_as_long_as_they_last():
    unpaced, paced = Device(8.0, paced=False), Device(8.0)
    for device in (unpaced, paced):
        device.calm(5)
        for _ in range(10):
            device.load(60)
        device.spans.clear()
        device.load(60)
    assert p99(paced.spans) < 0.3 * p99(unpaced.spans)


def test_a_load_that_comes_seldom_is_felt_by_fewer_than_one_in_a_hundred():
    device = Device(8.0)
    device.calm(70)
    calm = p99(device.spans)
    device.spans.clear()
    seconds = []
    for _ in range(20):
        seconds.append(device.load(size=64 * MIB))
        device.calm(10)
    assert p99(device.spans) < 1.1 * calm
    assert max(seconds) < 0.05


def test_the_more_they_disturb_the_slower_they_go():
    staged = []
    for drag in (1.0, 3.0, 8.0, 40.0):
        device = Device(drag)
        beside(device, long_load)
        staged.append(device.staged)
    assert staged == sorted(staged, reverse=True)


def test_a_load_ends_however_much_it_disturbs():
    device = Device(1000.0)
    device.calm(5)
    assert device.load(size=256 * MIB) <= 256 * MIB / FLOOR + 1


def test_without_batches_a_load_goes_at_the_devices_speed():
    device = Device(3.0)
    device.rate.on_begin(now=device.now)
    device.copied_until = device.now
    device.copy(device.now + 1)
    assert device.staged == pytest.approx(BANDWIDTH, rel=0.01)


def test_it_gives_way_when_the_device_gets_busier_and_comes_back():
    device = Device(1.0)
    device.calm(5)
    device.load(15)
    rates = []
    for drag in (30.0, 1.0):
        device.drag = drag
        device.load(20)
        before = device.staged
        seconds = device.load(5)
        rates.append((device.staged - before) / seconds)
    assert rates[1] > 2 * rates[0]


def test_several_loads_share_what_one_would_have():
    one, three = Device(3.0), Device(3.0, loads=3)
    for device in (one, three):
        beside(device, long_load)
    assert three.staged == pytest.approx(one.staged, rel=0.1)
