"""Sequences: one request at a time, bound once begun, lost with their place, gone when idle."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.policy.batching import Reject
from gateway.policy.retry import Fault
from gateway.policy.sequences import Place, SequenceKey, Sequences

HERE, THERE = Place("a", 1), Place("b", 2)


def core(**changes) -> Sequences:
    return Sequences(**{"max_sequences": 8, "idle_s": 10.0, "origin": 5} | changes)


def key(sequence_id: int | str = 1, caller: str = "", model: str = "m") -> SequenceKey:
    return SequenceKey(caller, model, sequence_id)


def begun(sequences: Sequences, *, now: float = 0.0, version: int = 7) -> int:
    """A run whose start was answered."""
    number = sequences.offer(key(), start=True, end=False)
    sequences.on_sent(number, HERE)
    sequences.on_answered(number, version=version, end=False, now=now)
    return number


def step(sequences: Sequences, *, start: bool = False, end: bool = False) -> int | Reject:
    return sequences.offer(key(), start=start, end=end)


def test_ids_of_another_kind_model_or_caller_are_other_sequences():
    sequences = core()
    keys = [key(1), key("1"), key(1, caller="eve"), key(1, model="n")]
    numbers = [sequences.offer(each, start=True, end=False) for each in keys]
    assert len(set(numbers)) == 4
    names = [sequences.wire_id(number) for number in numbers]
    assert len(set(names)) == 4
    assert [type(name) for name in names] == [int, str, int, int]
    assert [sequences.id(number) for number in numbers] == [1, "1", 1, 1]


def test_wire_ids_of_two_gateways_differ_and_fit_an_int64():
    most = 2**31 - 1
    ids = []
    for origin in (1, most):
        sequences = core(origin=origin)
        ids.append(sequences.wire_id(sequences.offer(key(), start=True, end=False)))
    assert ids[0] != ids[1]
    assert all(0 < each < 2**63 for each in ids)


def test_nothing_continues_what_has_not_begun():
    sequences = core()
    assert step(sequences) == Reject("SEQUENCE_NOT_STARTED")
    assert step(sequences, end=True) == Reject("SEQUENCE_NOT_STARTED")
    assert len(sequences) == 0


def test_one_request_at_a_time_at_one_place_on_one_version():
    sequences = core()
    number = step(sequences, start=True)
    assert step(sequences) == number
    assert not sequences.held(number) and sequences.place(number) is None
    sequences.on_sent(number, HERE)
    assert sequences.held(number)
    sequences.on_answered(number, version=7, end=False, now=1.0)
    assert not sequences.held(number)
    assert (sequences.place(number), sequences.version(number)) == (HERE, 7)
    assert not sequences.may_move(number)


def test_an_end_ends_it_once_answered():
    sequences = core()
    number = begun(sequences)
    assert step(sequences, end=True) == number
    assert step(sequences) == Reject("SEQUENCE_NOT_STARTED"), "it is about to end"
    sequences.on_sent(number, HERE)
    sequences.on_answered(number, version=7, end=True, now=1.0)
    assert len(sequences) == 0


def test_an_end_that_is_not_answered_ends_nothing():
    sequences = core()
    number = begun(sequences)
    step(sequences, end=True)
    sequences.on_left(number, start=False, end=True, now=1.0)
    assert step(sequences, end=True) == number
    sequences.on_sent(number, HERE)
    assert sequences.on_failed(number, Fault.INPUT, "BAD_SHAPE", end=True, now=2.0) == ""
    assert step(sequences) == number


def test_a_start_begins_anew_after_what_waits_and_keeps_its_room_at_the_replica():
    sequences = core()
    old = begun(sequences)
    assert step(sequences) == old
    new = step(sequences, start=True)
    assert new != old
    assert sequences.wire_id(new) == sequences.wire_id(old)
    assert (sequences.place(new), sequences.version(new)) == (HERE, 0)
    assert sequences.held(new) and not sequences.held(old)
    sequences.on_sent(old, HERE)
    sequences.on_answered(old, version=7, end=False, now=1.0)
    assert not sequences.held(new)
    assert sequences.may_move(new)
    assert len(sequences) == 1


def test_a_start_moves_on_when_its_place_goes_and_a_begun_one_is_lost():
    sequences = core()
    number = step(sequences, start=True)
    sequences.on_sent(number, HERE)
    sequences.on_place_gone(number)
    assert sequences.place(number) == HERE, "the request under way will tell"
    sequences.on_sent(number, THERE)
    sequences.on_answered(number, version=7, end=False, now=0.0)
    sequences.on_place_gone(number)
    assert "gone" in sequences.loss(number)
    assert step(sequences) == Reject("SEQUENCE_LOST")
    again = step(sequences, start=True)
    assert sequences.loss(again) == "" and sequences.place(again) is None


def test_which_failures_lose_a_sequence():
    fates = {
        (Fault.BROKEN, "REPLICA_LOST"): True,
        (Fault.REFUSED, "VERSION_NOT_LOADED"): True,
        (Fault.INPUT, "SEQUENCE_NOT_STARTED"): True,
        (Fault.REFUSED, "SEQUENCE_LOST"): True,
        (Fault.INPUT, "UNSUPPORTED_VALUE"): False,
        (Fault.BUSY, "QUEUE_FULL"): False,
        (Fault.DEFECT, "INTERNAL"): False,
        (Fault.FINAL, "DEADLINE_EXCEEDED"): False,
    }
    for (fault, reason), lost in fates.items():
        sequences = core()
        number = begun(sequences)
        step(sequences)
        sequences.on_sent(number, HERE)
        why = sequences.on_failed(number, fault, reason, end=False, now=1.0)
        assert bool(why) is lost, (fault, reason)
        assert bool(sequences.loss(number)) is lost


def test_a_start_that_fails_begins_nothing_unless_its_input_alone_was_at_fault():
    for fault, lost in ((Fault.INPUT, False), (Fault.BROKEN, True), (Fault.DEFECT, True)):
        sequences = core()
        number = step(sequences, start=True)
        sequences.on_sent(number, HERE)
        assert bool(sequences.on_failed(number, fault, "X", end=False, now=1.0)) is lost
        assert step(sequences) == (Reject("SEQUENCE_LOST") if lost else number)


def test_a_start_that_left_unsent_takes_what_waits_behind_it_along():
    sequences = core()
    number = step(sequences, start=True)
    assert step(sequences) == number
    sequences.on_left(number, start=True, end=False, now=1.0)
    assert "first request" in sequences.loss(number)


def test_idle_ones_are_forgotten_busy_ones_are_not():
    sequences = core(idle_s=10.0)
    number = begun(sequences, now=5.0)
    assert sequences.next_wakeup() == 15.0
    step(sequences)
    assert sequences.next_wakeup() is None
    sequences.expire(100.0)
    assert len(sequences) == 1
    sequences.on_left(number, start=False, end=False, now=100.0)
    sequences.expire(109.0)
    assert step(sequences) == number
    sequences.on_left(number, start=False, end=False, now=110.0)
    sequences.expire(120.0)
    assert step(sequences) == Reject("SEQUENCE_NOT_STARTED")


def test_the_bound_refuses_new_ones_but_not_a_new_start_of_an_idle_one():
    sequences = core(max_sequences=1)
    begun(sequences)
    other = key("other")
    assert sequences.offer(other, start=True, end=False) == Reject("TOO_MANY_SEQUENCES")
    number = step(sequences, start=True)
    assert isinstance(number, int)
    assert step(sequences, start=True) == Reject("TOO_MANY_SEQUENCES"), "the one before is busy"


def test_a_start_waits_for_the_run_before_even_where_one_between_left():
    sequences = core(idle_s=4.0)
    first = step(sequences, start=True)
    sequences.on_sent(first, HERE)
    second = step(sequences, start=True)
    third = step(sequences, start=True)
    sequences.on_left(second, start=True, end=False, now=0.0)
    assert sequences.held(third)
    sequences.on_left(third, start=True, end=False, now=0.0)
    sequences.expire(100.0)
    fourth = step(sequences, start=True)
    assert sequences.held(fourth)
    sequences.on_answered(first, version=1, end=True, now=100.0)
    assert not sequences.held(fourth)


class Life(RuleBasedStateMachine):
    """Against a plain list: order kept, one under way a sequence, the books balance."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.core = core(max_sequences=5, idle_s=4.0)
        # Requests admitted and not ended: (key, run, start, end), in order of arrival.
        self.waiting: list[tuple[SequenceKey, int, bool, bool]] = []
        self.flying: dict[int, tuple[SequenceKey, int, bool, bool]] = {}
        self.places: dict[int, Place] = {}
        self.answered: set[int] = set()

    @rule(at=st.integers(0, 3), start=st.booleans(), end=st.booleans())
    def offer(self, at, start, end):
        wanted = key(at)
        number = self.core.offer(wanted, start=start, end=end)
        if isinstance(number, int):
            self.waiting.append((wanted, number, start, end))
        else:
            assert number.reason != "TOO_MANY_SEQUENCES" or start

    @precondition(lambda self: self.waiting)
    @rule(at=st.integers(0, 20), place=st.sampled_from([HERE, THERE]))
    def send(self, at, place):
        wanted, number, *_ = self.waiting[at % len(self.waiting)]
        first = next(item for item in self.waiting if item[1] == number)
        if self.core.held(number) or self.core.loss(number):
            return
        assert not any(key == wanted for key, *_ in self.flying.values()), "one at a time"
        older = [n for key, n, *_ in self.waiting if key == wanted and n < number]
        assert not older, "the run before has requests left"
        bound = self.core.place(number)
        if number in self.answered:
            assert bound == self.places[number], "it sticks"
        assert first[2] or number in self.answered, "nothing goes before its start"
        self.places[number] = bound or place
        self.core.on_sent(number, self.places[number])
        self.waiting.remove(first)
        self.flying[number] = first

    @precondition(lambda self: self.flying)
    @rule(at=st.integers(0, 4))
    def answer(self, at):
        number = list(self.flying)[at % len(self.flying)]
        _, _, _, end = self.flying.pop(number)
        self.answered.add(number)
        self.core.on_answered(number, version=3, end=end, now=self.now)

    @precondition(lambda self: self.flying)
    @rule(at=st.integers(0, 4), fault=st.sampled_from(list(Fault)))
    def fail(self, at, fault):
        number = list(self.flying)[at % len(self.flying)]
        _, _, _, end = self.flying.pop(number)
        if not self.core.on_failed(number, fault, "X", end=end, now=self.now):
            self.answered.add(number)

    @precondition(lambda self: self.waiting)
    @rule(at=st.integers(0, 20))
    def leave(self, at):
        item = self.waiting.pop(at % len(self.waiting))
        _, number, start, end = item
        self.core.on_left(number, start=start, end=end, now=self.now)

    @precondition(lambda self: self.waiting)
    @rule(at=st.integers(0, 20))
    def lose(self, at):
        number = self.waiting[at % len(self.waiting)][1]
        self.core.on_place_gone(number)
        if self.core.loss(number):
            for item in [item for item in self.waiting if item[1] == number]:
                self.waiting.remove(item)
                self.core.on_left(number, start=item[2], end=item[3], now=self.now)

    @rule(span=st.floats(0.1, 3.0))
    def progress(self, span):
        """After draining at `now`, the next wake-up is None or later."""
        self.now += span
        self.core.expire(self.now)
        wakeup = self.core.next_wakeup()
        assert wakeup is None or wakeup > self.now

    @invariant()
    def the_books_balance(self):
        snapshot = self.core.snapshot()
        assert snapshot.pending == len(self.waiting) + len(self.flying)
        busy = {number for _, number, *_ in self.waiting} | self.flying.keys()
        assert snapshot.runs == len(self.core) == len(busy) + snapshot.idle <= 5


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
