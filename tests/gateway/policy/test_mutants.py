"""Each law that the policies keep is one that the property tests would see broken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from gateway.policy.balance import Balance
from gateway.policy.batching import Backlog
from gateway.policy.lane import Lane, QueueKey
from gateway.policy.schedule import Schedule
from gateway.policy.sequences import Sequences
from tests.gateway.policy import test_batching, test_schedule, test_sequences

# Found within so many tries or not at all; which of the failing runs is shortest is no question.
TRIES = settings(
    max_examples=500,
    stateful_step_count=40,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)

Mutate = Callable[[pytest.MonkeyPatch], None]


def after(owner: Any, name: str, change: Callable[..., Any]) -> Mutate:
    """`change(result, *arguments)` instead of what the method returns."""
    original = getattr(owner, name)

    def mutate(monkeypatch: pytest.MonkeyPatch) -> None:
        def changed(*arguments: Any, **named: Any) -> Any:
            return change(original(*arguments, **named), *arguments, **named)

        monkeypatch.setattr(owner, name, changed)

    return mutate


def instead(owner: Any, name: str, value: Any) -> Mutate:
    """Something else in the place of the method."""
    return lambda monkeypatch: monkeypatch.setattr(owner, name, value)


def mix_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QueueKey, "__eq__", lambda key, other: key.model == other.model)
    monkeypatch.setattr(QueueKey, "__hash__", lambda key: hash(key.model))


def keep_what_was_taken(self: Lane[Any], count: int) -> list[Any]:
    return [request for _, _, request in self.entries[:count]]


def take_more(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Backlog.take
    monkeypatch.setattr(Backlog, "take", lambda self, key, rows: original(self, key, 4 * rows))


def forget_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Backlog._released

    def released(self: Backlog[Any], queue: Any, gone: Any) -> None:
        held = self._bytes
        original(self, queue, gone)
        self._bytes = held

    monkeypatch.setattr(Backlog, "_released", released)


def newest_first(self: Lane[Any], request: Any) -> None:
    self.entries.insert(0, self._entry(request))
    self.rows += request.rows
    self.earliest = min(self.earliest, request.due_at)


def any_time(self: Balance, model: str, version: int, avoid: Any) -> Any:
    return iter([(seat.inflight, address) for address, seat in self._seats.items()])


# What is broken, how, and whose property it is.
MUTANTS: dict[str, tuple[type[RuleBasedStateMachine], Mutate]] = {
    "a request is lost": (
        test_schedule.Life,
        after(Backlog, "take", lambda taken, *_: taken[:1] if len(taken) < 3 else taken[:-1]),
    ),
    "a request is answered twice": (
        test_schedule.Life,
        after(Backlog, "take", lambda taken, *_: [*taken, *taken[:1]]),
    ),
    "a batch mixes versions": (test_schedule.Life, mix_versions),
    "a batch is too large": (test_schedule.Life, take_more),
    "a request is sent after its deadline": (
        test_schedule.Life,
        instead(Backlog, "prune", lambda *_: []),
    ),
    "an endpoint without room is asked": (test_schedule.Life, instead(Balance, "open", any_time)),
    "nobody is asked any more": (test_schedule.Life, instead(Schedule, "next", lambda *_: None)),
    "no wake-up for a batch that waits": (
        test_schedule.Life,
        instead(Schedule, "next_wakeup", lambda *_: None),
    ),
    "an answer frees no endpoint": (
        test_schedule.Life,
        instead(Balance, "on_ended", lambda *_: None),
    ),
    "a wake-up finds nothing to do": (
        test_schedule.Life,
        after(Schedule, "next_wakeup", lambda at, *_: 0.0 if at is not None else None),
    ),
    "what is late stays": (test_batching.Life, instead(Lane, "pop_due", lambda *_: [])),
    "what was taken stays": (test_batching.Life, instead(Lane, "pop_first", keep_what_was_taken)),
    "bytes are forgotten": (test_batching.Life, forget_bytes),
    "the last one is first": (test_batching.Life, instead(Lane, "add", newest_first)),
    "the highest class is evicted": (
        test_batching.Life,
        instead(Backlog, "_evictable", lambda *_: True),
    ),
    "two requests of a sequence are under way": (
        test_sequences.Life,
        instead(Sequences, "held", lambda *_: False),
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_breaks_a_law(mutant, monkeypatch):
    machine, mutate = MUTANTS[mutant]
    mutate(monkeypatch)
    # A law is an assertion, or a request that the test looks for in vain.
    with pytest.raises((AssertionError, LookupError, ValueError)):
        run_state_machine_as_test(machine, settings=TRIES)


@pytest.mark.parametrize("machine", list(dict.fromkeys(machine for machine, _ in MUTANTS.values())))
def test_what_is_not_mutated_breaks_none(machine):
    run_state_machine_as_test(machine, settings=settings(TRIES, max_examples=100))
