"""The pace of loads: the policy in numbers, the shell with real bytes, loads under batches."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inference_service import staging as staging_module
from inference_service.policy.staging_rate import (
    ALONE_S,
    LEAST_SAMPLES,
    MIB,
    MOST_RATE,
    MOST_SLOW,
    STEP,
    StagingRate,
)
from inference_service.staging import AT_ONCE, LONGEST_S, PART_BYTES, Paced, Staging
from model_store.digests import digest
from tests.inference_service.follower import Follower
from tests.inference_service.line import expected
from tests.inference_service.served_replica import ServedReplica

FLOOR = 16 * MIB
CALM_S = 0.002
EVERY_S = 0.005
# What the machine manages between two batches, and thus in a second.
MOST_PARTS = 16
MACHINE = MOST_PARTS * MIB / EVERY_S


class Clock:
    """A replica in virtual time: batches come and parts are staged, both evenly."""

    def __init__(self, *, calm: int = 100) -> None:
        self.rate = StagingRate(floor=FLOOR)
        self.now = 100.0
        for _ in range(calm):
            self.batch(CALM_S)
        self.rate.on_begin(now=self.now)

    def batch(self, seconds: float) -> None:
        self.now += EVERY_S
        self.rate.on_batch(seconds, now=self.now)

    def stage(self, spans: list[float]) -> int:
        """Bytes staged while batches take `spans`, one after another."""
        staged = 0
        for seconds in spans:
            self.batch(seconds)
            for _ in range(MOST_PARTS):
                if not self.rate.take(MIB, now=self.now):
                    break
                staged += MIB
        return staged

    @property
    def bytes_per_s(self) -> float:
        return self.rate.snapshot().rate


def test_nothing_is_held_back_while_batches_stay_calm():
    clock = Clock()
    assert clock.stage([CALM_S] * 250) == 250 * MOST_PARTS * MIB
    assert clock.bytes_per_s == MOST_RATE


def test_a_load_that_few_batches_feel_is_not_held_back():
    clock = Clock(calm=10_000)
    few = int(10_000 * MOST_SLOW / 2)
    assert clock.stage([CALM_S * 4] * few) == few * MOST_PARTS * MIB
    assert clock.rate.snapshot().decreases == 0


def test_batches_that_get_slower_halve_it_down_to_the_floor():
    clock = Clock()
    clock.stage([CALM_S * 4] * LEAST_SAMPLES)
    assert clock.bytes_per_s == pytest.approx(MACHINE / 2, rel=0.1)
    assert clock.rate.snapshot().calm_p99_s == CALM_S
    clock.stage([CALM_S * 4] * 2000)
    assert clock.bytes_per_s == FLOOR


def test_short_loads_that_follow_each_other_are_one():
    clock = Clock()
    for _ in range(LEAST_SAMPLES):
        clock.stage([CALM_S * 4] * 2)
        clock.rate.on_end(now=clock.now)
        for _ in range(20):
            clock.batch(CALM_S)
        clock.rate.on_begin(now=clock.now)
    assert clock.rate.snapshot().decreases > 0
    assert clock.bytes_per_s < MACHINE


def test_the_floor_is_staged_however_slow_the_batches():
    clock = Clock()
    clock.stage([1.0] * 2000)
    began = clock.now
    staged = clock.stage([1.0] * 2000)
    assert staged >= 0.9 * FLOOR * (clock.now - began)
    assert staged <= 1.1 * FLOOR * (clock.now - began)


def test_it_recovers_step_by_step_when_they_are_calm_again():
    clock = Clock()
    clock.stage([CALM_S * 4] * 400 + [CALM_S] * 100)
    low = clock.bytes_per_s
    clock.stage([CALM_S] * 50)
    assert clock.bytes_per_s == low + STEP
    clock.stage([CALM_S] * 750)
    assert clock.bytes_per_s > low + 5 * STEP


def test_nothing_is_held_back_again_once_most_batches_were_calm():
    clock = Clock()
    clock.stage([CALM_S * 4] * 100)
    assert clock.bytes_per_s < MACHINE
    clock.rate.on_end(now=clock.now)
    for _ in range(40_000):
        clock.batch(CALM_S)
    clock.rate.on_begin(now=clock.now)
    assert clock.bytes_per_s == MOST_RATE


def test_batches_that_are_slow_without_a_load_too_are_no_reason():
    clock = Clock(calm=1000)
    clock.rate.on_end(now=clock.now)
    # Some are, but not so many that they are the p99.
    mixed = ([CALM_S] * 199 + [CALM_S * 4] * 1) * 10
    for seconds in mixed:
        clock.batch(seconds)
    clock.rate.on_begin(now=clock.now)
    clock.stage(mixed)
    assert clock.bytes_per_s == MOST_RATE
    assert clock.rate.snapshot().decreases == 0


def test_one_burst_counts_once():
    clock = Clock()
    clock.stage([CALM_S * 4] * LEAST_SAMPLES + [CALM_S] * 100)
    assert clock.rate.snapshot().decreases == 1


def test_without_batches_nothing_is_held_back():
    clock = Clock()
    clock.stage([CALM_S * 4] * 400)
    clock.now += ALONE_S + 0.1
    for _ in range(1000):
        assert clock.rate.take(1024 * MIB, now=clock.now)


def test_what_was_taken_is_not_waited_for_once_nobody_feels_it():
    clock = Clock()
    clock.stage([CALM_S * 4] * 400)
    while not clock.rate.take(2**14 * MIB, now=clock.now):
        clock.now = clock.rate.next_wakeup()
    assert not clock.rate.take(MIB, now=clock.now)
    far = clock.rate.next_wakeup()
    clock.rate.on_end(now=clock.now)
    for _ in range(60_000):
        clock.batch(CALM_S)
    assert clock.rate.take(MIB, now=clock.now)
    assert clock.now < far


def test_a_wait_asks_again_before_long(monkeypatch):
    now, slept = [100.0], []

    def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(
        staging_module, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep)
    )
    rate = StagingRate(floor=MIB)
    staging = Paced(rate)
    for _ in range(LEAST_SAMPLES):
        now[0] += EVERY_S
        staging.on_batch(CALM_S)
    with staging.during():
        for _ in range(LEAST_SAMPLES):
            now[0] += EVERY_S
            staging.on_batch(1.0)
        staging.wait(1)
        staging.wait(64 * MIB)
        staging.wait(MIB)
    assert slept
    assert max(slept) <= LONGEST_S


def test_what_was_slow_before_the_load_is_no_reason():
    clock = Clock(calm=0)
    clock.rate.on_end(now=clock.now)
    for _ in range(100):
        clock.batch(CALM_S * 4)
    clock.rate.on_begin(now=clock.now)
    clock.stage([CALM_S * 4] * 400)
    assert clock.rate.snapshot().decreases == 0


def test_the_rate_shown_is_of_a_load_only():
    clock = Clock()
    assert clock.bytes_per_s == MOST_RATE
    clock.rate.on_end(now=clock.now)
    assert clock.bytes_per_s == 0
    assert clock.rate.next_wakeup() is None


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["batch", "take", "begin", "end"]),
            st.floats(0, 3),
            st.floats(0, 0.5),
            st.integers(1, 64 * MIB),
        ),
        max_size=200,
    )
)
def test_progress(events):
    """Drained at `now`, the next wakeup is later, and no further than the floor allows."""
    rate, now, active = StagingRate(floor=FLOOR), 0.0, 0
    for kind, seconds, later, size in events:
        now += later
        if kind == "batch":
            rate.on_batch(seconds, now=now)
        elif kind == "begin":
            rate.on_begin(now=now)
            active += 1
        elif kind == "end" and active:
            rate.on_end(now=now)
            active -= 1
        elif active:
            for _ in range(50):
                if not rate.take(size, now=now):
                    assert now < rate.next_wakeup() <= now + size / FLOOR + 4
                    break


def paced() -> Paced:
    """One that is in use: batches have just been answered."""
    staging = Paced(StagingRate(floor=2**40))
    staging.on_batch(0.001)
    return staging


@pytest.mark.parametrize("make", [Staging, lambda: Paced(StagingRate(floor=FLOOR)), paced])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (PART_BYTES // 4 * 2 + 5,), (1025, 1024)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parts_make_the_whole(make, shape, dtype):
    staging = make()
    source = torch.randn(shape)
    target = torch.empty(shape, dtype=dtype)
    with staging.during():
        staging.copy(source, target)
        content = source.reshape(-1).view(torch.uint8).numpy().data
        assert staging.digest(content) == digest(content)
    assert torch.equal(target, source.to(dtype))
    turned = torch.randn(700, 800).t()
    target = torch.empty(800, 700)
    staging.copy(turned, target)
    assert torch.equal(target, turned)


async def test_loads_finish_under_batches_that_never_stop(line, store_url):
    """At the floor, with a replica that answers all the time."""
    x = np.ones((2, 4), np.float32)
    line.publish(1.0)
    async with ServedReplica(store_url, staging_floor_bytes_s=MIB) as replica:
        await replica.wait_ready()
        done = False

        async def ask() -> None:
            while not done:
                version, y = await replica.infer(x)
                np.testing.assert_array_equal(y, expected(float(version), x))

        async with asyncio.TaskGroup() as load:
            for _ in range(4):
                load.create_task(ask())
            for weight in range(2, 12):
                await replica.wait_serving(line.publish(float(weight)))
            done = True
        status = await replica.status()
        assert status.staging.calm_p99_ms > 0
        assert status.staging.bytes_per_s == 0


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priorities of their own")
def test_a_thread_that_loads_gives_way_and_no_other():
    found = {}

    def load(name, staging):
        staging.give_way()
        found[name] = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    usual = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    rate = StagingRate(floor=MIB)
    for name, staging in {
        "nice": Paced(rate, nice=7),
        "as before": Paced(rate),
        "at once": AT_ONCE,
    }.items():
        thread = threading.Thread(target=load, args=(name, staging))
        thread.start()
        thread.join()
    assert found == {"nice": usual + 7, "as before": usual, "at once": usual}
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == usual


def test_a_loader_gives_way_once_a_version_serves(line, store_url, monkeypatch):
    gave_way = []
    monkeypatch.setattr(Staging, "give_way", lambda _: gave_way.append(threading.current_thread()))
    with Follower(store_url) as follower:
        follower.wait_serving(line.publish(1.0))
        assert gave_way == []
        for weight in (2.0, 3.0):
            follower.wait_serving(line.publish(weight))
        assert [thread.name for thread in gave_way] == ["load-affine"]


async def test_pacing_can_be_switched_off(line, store_url):
    line.publish(1.0)
    async with ServedReplica(store_url, pace_staging=False) as replica:
        await replica.wait_ready()
        await replica.infer(np.ones((2, 4), np.float32))
        assert (await replica.status()).staging.calm_p99_ms == 0
