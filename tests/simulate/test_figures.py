"""The main figures hold in the simulator, and each rule of the policies is what holds one of them.

Simulated time and seeds are fixed, so that every run of these tests decides the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from benchmarks.simulate.gateway import Headrace
from gateway.policy import latency
from gateway.policy.balance import Balance
from gateway.policy.batching import Backlog
from gateway.policy.fairness import Shares
from gateway.policy.latency import BatchLatency
from gateway.policy.pacing import Pace
from gateway.policy.queue import Queue
from gateway.policy.retry import RetryPolicy, Verdict
from gateway.policy.schedule import Schedule
from gateway.policy.speed import Speeds
from tests.simulate import figures

FIGURES: dict[str, Callable[[], bool]] = {
    "goodput at 1x": partial(figures.goodput_holds, 1.0, 2.5),
    "goodput at 2x": partial(figures.goodput_holds, 2.0, 1.2),
    "goodput at 5x": partial(figures.goodput_holds, 5.0, 0.8),
    "goodput at 10x": partial(figures.goodput_holds, 10.0, 0.6),
    "late, with noise": figures.little_is_late_in_spite_of_noise,
    "all used, with noise": figures.noise_makes_nobody_slow,
    "refusals": figures.refusals_come_at_once,
    "idle": figures.answers_are_quick_when_idle,
    "tail": figures.tail_is_short_at_half_load,
    "flood": figures.top_class_is_safe_in_a_flood,
    "tenants": figures.tenants_get_their_shares,
    "slow replica": figures.slow_replica_hurts_nobody,
    "kill": figures.kill_fails_nobody,
    "stop": figures.stop_costs_one_batch,
    "amplification": figures.retries_do_not_multiply_the_load,
    "learning": figures.slower_replicas_are_learned_anew,
    "deadline of retries": figures.retries_keep_their_deadline,
    "recovery": figures.recovery_takes_no_longer_than_an_objective,
}


@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_is_reached(figure):
    assert FIGURES[figure]()


def instead(owner: Any, name: str, value: Any) -> Callable[[pytest.MonkeyPatch], None]:
    """A mutation that puts something else in the place of a method or constant."""
    return lambda monkeypatch: monkeypatch.setattr(owner, name, value)


def reverse_classes(monkeypatch):
    original = Queue.add

    def add(self, request):
        original(self, request)
        self.order.sort(reverse=True)

    monkeypatch.setattr(Queue, "add", add)


def keep_no_margin(monkeypatch):
    monkeypatch.setattr(latency, "LEAST_MARGIN", 1.0)
    monkeypatch.setattr(latency, "MOST_MARGIN", 1.0)


def forget_deadlines(monkeypatch):
    original = Headrace._goes_again

    def goes_again(self, delivery):
        for request in delivery.requests:
            request.due_at += 0.05
        return original(self, delivery)

    monkeypatch.setattr(Headrace, "_goes_again", goes_again)


def slow_at_one_row(self, model, latency):
    fastest = self._fastest.get(model)
    return fastest is not None and latency.predict(1) > 3 * fastest.predict(1) + 0.002


def bind_early(monkeypatch):
    def in_turn(self, model, version, avoid):
        self._turn = getattr(self, "_turn", 0) + 1
        seats = list(self._seats.items())
        address, _ = seats[self._turn % len(seats)]
        return iter([(0, address)])

    monkeypatch.setattr(Balance, "open", in_turn)
    monkeypatch.setattr(Speeds, "stuck_at", lambda *_: float("inf"))


# What is wrong, and the figure that tells.
MUTANTS = {
    "no early drop": ("goodput at 2x", instead(Queue, "trim", lambda self, fit, target: [])),
    "nothing learned": ("goodput at 2x", instead(BatchLatency, "_learn", lambda *_: None)),
    "no margin": ("late, with noise", keep_no_margin),
    "compared at one row": (
        "all used, with noise",
        instead(Speeds, "_is_slow", slow_at_one_row),
    ),
    "no admission": ("refusals", instead(Backlog, "_late", lambda *_: None)),
    "no pace": ("tail", instead(Pace, "next_at", lambda self, *_: self.dispatched_at)),
    "always a full batch": ("idle", instead(Schedule, "_until", lambda *_: float("inf"))),
    "classes reversed": ("flood", reverse_classes),
    "no charge": ("tenants", instead(Shares, "charge", lambda self, name, *_: self.clock(name))),
    "slow replicas asked": ("slow replica", instead(Speeds, "slow", lambda *_: False)),
    "no retries": ("kill", instead(RetryPolicy, "decide", lambda *_, **__: Verdict.GIVE_UP)),
    "batches wait at replicas": ("stop", bind_early),
    "no retry budget": (
        "amplification",
        instead(RetryPolicy, "decide", lambda *_, **__: Verdict.RETRY),
    ),
    "no change noticed": ("learning", instead(latency, "_direction", lambda ratio: 0)),
    "deadline forgotten": ("deadline of retries", forget_deadlines),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_of_the_policies_misses_a_figure(mutant, monkeypatch):
    figure, mutate = MUTANTS[mutant]
    mutate(monkeypatch)
    assert not FIGURES[figure]()
