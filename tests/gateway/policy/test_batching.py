"""The backlog: nothing lost, nothing twice, no bound passed, order kept, no wake-up in the past."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.policy.batching import ADMIT, Backlog, Reject
from gateway.policy.queue import QueueKey


def key(model: str = "m", version: int = 0, max_rows: int = 8) -> QueueKey:
    return QueueKey(model, version, (), (), max_rows)


@dataclass(eq=False)
class Item:
    key: QueueKey
    rows: int = 1
    size_bytes: int = 10
    deadline: float = 100.0
    arrived_at: float = 0.0
    priority: int = 2
    order: int = 0


def place(item: Item) -> tuple[float, ...]:
    """By which the requests of one queue leave, lowest first."""
    if item.key.sequence:
        return (item.order,)
    return (item.priority, item.deadline, item.order)


def alive(now: float):
    return lambda deadline: 1 if deadline > now else 0


def backlog(**changes) -> Backlog[Item]:
    return Backlog(**{"max_requests": 100, "max_bytes": 10_000} | changes)


def test_equal_deadlines_leave_in_order_of_arrival_and_earlier_ones_first():
    waiting = backlog()
    items = [Item(key(), deadline=deadline) for deadline in (50.0, 50.0, 20.0, 50.0, 30.0)]
    for item in items:
        assert waiting.offer(item, 0.0) is ADMIT
    taken = waiting.take(key(), 8, 0.0)
    assert taken == [items[2], items[4], items[0], items[1], items[3]]


def test_the_highest_priority_leaves_first_whatever_its_deadline():
    waiting = backlog()
    low, high, middle, urgent = (
        Item(key(), deadline=deadline, priority=priority)
        for priority, deadline in ((3, 10.0), (1, 90.0), (2, 50.0), (2, 20.0))
    )
    for item in (low, high, middle, urgent):
        waiting.offer(item, 0.0)
    assert waiting.take(key(), 2, 0.0) == [high, urgent]
    assert waiting.take(key(), 8, 0.0) == [middle, low]


def test_between_queues_priority_counts_before_the_deadline():
    waiting = backlog()
    for model, priority, deadline in (("a", 3, 5.0), ("b", 1, 50.0), ("c", 1, 40.0)):
        waiting.offer(Item(key(model), priority=priority, deadline=deadline), 0.0)
    assert [each.model for each in waiting.due(0.0)] == ["c", "b", "a"]


def test_a_late_request_of_a_low_level_is_found_behind_a_high_one():
    waiting = backlog()
    high, low, lower = (
        Item(key(), priority=level, deadline=deadline)
        for level, deadline in ((1, 90.0), (2, 10.0), (3, 5.0))
    )
    for item in (high, low, lower):
        waiting.offer(item, 0.0)
    assert waiting.next_wakeup() == 5.0
    assert waiting.prune(5.0, alive(5.0)) == [lower]
    assert waiting.next_wakeup() == 10.0
    assert waiting.prune(20.0, alive(20.0)) == [low]
    assert waiting.next_wakeup() == 90.0


def test_a_prune_without_a_late_request_looks_at_one_deadline_a_queue():
    waiting = backlog(max_requests=1000, max_bytes=10**6)
    for number in range(500):
        waiting.offer(Item(key(), priority=1 + number % 3, deadline=100.0 + number), 0.0)
    asked = []
    assert waiting.prune(1.0, lambda deadline: asked.append(deadline) or 1) == []
    assert asked == [100.0]


def test_requests_of_a_sequence_leave_one_by_one_in_order_of_arrival():
    waiting = backlog(delay_s=9.0)
    own = key()._replace(sequence=7)
    items = [
        Item(own, priority=level, deadline=deadline)
        for level, deadline in ((2, 50.0), (1, 40.0), (3, 5.0), (2, 60.0))
    ]
    for item in items:
        waiting.offer(item, 0.0)
    assert waiting.due(0.0) == [own], "no delay: nothing can join it"
    assert waiting.worth_following(own)
    assert waiting.take(own, 8, 0.0) == [items[0]]
    assert waiting.prune(10.0, alive(10.0)) == [items[2]]
    assert waiting.next_wakeup() == 40.0
    assert [waiting.take(own, 8, 10.0) for _ in range(2)] == [[items[1]], [items[3]]]


def test_a_batch_takes_no_request_out_of_turn():
    waiting = backlog()
    first, big, small = Item(key(), rows=5), Item(key(), rows=4), Item(key(), rows=1)
    for item in (first, big, small):
        waiting.offer(item, 0.0)
    assert waiting.take(key(), 8, 0.0) == [first]
    assert waiting.take(key(), 8, 0.0) == [big, small]


def test_a_model_without_batches_gets_one_request_at_a_time():
    waiting = backlog()
    whole = key(max_rows=0)
    items = [Item(whole), Item(whole)]
    for item in items:
        waiting.offer(item, 0.0)
    assert waiting.due(0.0) == [whole]
    assert waiting.take(whole, 0, 0.0) == [items[0]]


def test_a_batch_is_bounded_in_bytes_too():
    waiting = backlog(max_batch_bytes=25)
    for _ in range(3):
        waiting.offer(Item(key(), size_bytes=10), 0.0)
    assert len(waiting.take(key(), 8, 0.0)) == 2


@pytest.mark.parametrize(
    ("limits", "item", "reason"),
    [
        ({"max_requests": 1}, Item(key()), "QUEUE_FULL"),
        ({"max_bytes": 19}, Item(key()), "QUEUE_BYTES_FULL"),
        ({}, Item(key(), deadline=1.0), "DEADLINE_EXCEEDED"),
    ],
)
def test_refusals(limits, item, reason):
    waiting = backlog(**limits)
    assert waiting.offer(Item(key("other")), 0.0) is ADMIT
    assert waiting.offer(item, 1.0) == Reject(reason)
    assert waiting.snapshot().requests == 1


def test_room_returns_when_requests_leave():
    waiting = backlog(max_requests=1)
    first = Item(key())
    waiting.offer(first, 0.0)
    assert waiting.withdraw(first)
    assert not waiting.withdraw(first)
    assert waiting.offer(Item(key()), 0.0) is ADMIT


def test_a_delay_holds_a_batch_until_it_is_full_or_old():
    waiting = backlog(delay_s=2.0)
    waiting.offer(Item(key(), rows=3, arrived_at=1.0), 1.0)
    assert waiting.due(1.0) == []
    assert waiting.next_wakeup() == 3.0
    assert waiting.due(3.0) == [key()]
    waiting.offer(Item(key("full"), rows=8, arrived_at=3.0), 3.0)
    assert set(waiting.due(3.0)) == {key(), key("full")}


def test_half_a_batch_is_worth_sending_behind_a_running_one():
    waiting = backlog()
    assert not waiting.worth_following(key())
    waiting.offer(Item(key(), rows=3), 0.0)
    assert not waiting.worth_following(key())
    waiting.offer(Item(key(), rows=1), 0.0)
    assert waiting.worth_following(key())
    waiting.offer(Item(key(max_rows=0)), 0.0)
    assert waiting.worth_following(key(max_rows=0))


def test_the_most_urgent_queue_is_due_first():
    waiting = backlog()
    for model, deadline in (("a", 30.0), ("b", 10.0), ("c", 20.0)):
        waiting.offer(Item(key(model), deadline=deadline), 0.0)
    assert [each.model for each in waiting.due(0.0)] == ["b", "c", "a"]


def test_those_that_waited_long_enough_are_given_up():
    waiting = backlog()
    old, young = Item(key(), arrived_at=0.0), Item(key(), arrived_at=3.0)
    for item in (old, young):
        waiting.offer(item, item.arrived_at)
    assert waiting.give_up(key(), waited_s=5.0, now=5.0) == [old]
    assert waiting.oldest_at(key()) == 3.0
    assert waiting.give_up(key("unknown"), waited_s=5.0, now=5.0) == []


def test_a_fit_can_drop_what_no_batch_can_answer_in_time():
    waiting = backlog()
    tight, loose = Item(key(), deadline=10.0), Item(key(), deadline=20.0)
    for item in (loose, tight):
        waiting.offer(item, 0.0)
    assert waiting.prune(5.0, lambda deadline: int((deadline - 5.0) // 6.0)) == [tight]


class Life(RuleBasedStateMachine):
    """A backlog against a list: every request is in exactly one place at any time."""

    MAX_REQUESTS = 12
    MAX_BYTES = 150
    DELAY_S = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.core = backlog(
            max_requests=self.MAX_REQUESTS, max_bytes=self.MAX_BYTES, delay_s=self.DELAY_S
        )
        self.waiting: list[Item] = []
        self.ended: list[Item] = []

    def _end(self, items: list[Item]) -> None:
        for item in items:
            self.waiting.remove(item)
            assert item not in self.ended
            self.ended.append(item)

    @rule(
        model=st.sampled_from("ab"),
        version=st.sampled_from([0, 7]),
        rows=st.integers(1, 8),
        size=st.integers(0, 60),
        timeout=st.sampled_from([0.0, 1.0, 5.0, 5.0]),
        priority=st.sampled_from([1, 2, 2, 3]),
        sequence=st.sampled_from([0, 0, 1]),
    )
    def offer(self, model, version, rows, size, timeout, priority, sequence):
        own = key(model, version)._replace(sequence=sequence)
        item = Item(own, rows, size, self.now + timeout, self.now, priority)
        verdict = self.core.offer(item, self.now)
        held_bytes = sum(each.size_bytes for each in self.waiting)
        if verdict is ADMIT:
            self.waiting.append(item)
        else:
            assert verdict.reason == (
                "DEADLINE_EXCEEDED"
                if timeout == 0
                else "QUEUE_FULL"
                if len(self.waiting) == self.MAX_REQUESTS
                else "QUEUE_BYTES_FULL"
            )
            if verdict.reason == "QUEUE_BYTES_FULL":
                assert held_bytes + size > self.MAX_BYTES

    @rule(span=st.floats(0.1, 3.0))
    def pass_time(self, span):
        self.now += span

    @rule()
    def prune(self):
        late = self.core.prune(self.now, alive(self.now))
        assert all(item.deadline <= self.now for item in late)
        self._end(late)
        assert all(item.deadline > self.now for item in self.waiting)

    @rule(rows=st.integers(0, 12), at=st.integers(0, 3))
    def take_due(self, rows, at):
        due = self.core.due(self.now)
        if not due:
            return
        heads = [min((i for i in self.waiting if i.key == queue), key=place) for queue in due]
        urgency = [(head.priority, head.deadline, head.order) for head in heads]
        assert urgency == sorted(urgency)
        chosen = due[at % len(due)]
        taken = self.core.take(chosen, rows, self.now)
        assert taken
        assert {item.key for item in taken} == {chosen}
        assert len(taken) == 1 or sum(item.rows for item in taken) <= rows
        left = [item for item in self.waiting if item.key == chosen and item not in taken]
        last = max(map(place, taken))
        assert all(place(item) > last for item in left)
        self._end(taken)

    @precondition(lambda self: self.waiting)
    @rule(at=st.integers(0, 20))
    def withdraw(self, at):
        item = self.waiting[at % len(self.waiting)]
        assert self.core.withdraw(item)
        self._end([item])

    @rule(waited=st.floats(0.5, 4.0))
    def give_up(self, waited):
        for queue in self.core.waiting():
            dropped = self.core.give_up(queue, waited, self.now)
            assert all(item.arrived_at + waited <= self.now for item in dropped)
            self._end(dropped)

    @rule()
    def progress(self):
        """After draining at `now`, the next wake-up is None or later."""
        self._end(self.core.prune(self.now, alive(self.now)))
        for queue in self.core.due(self.now):
            self._end(self.core.take(queue, 8, self.now))
        self.core.due(self.now)
        wakeup = self.core.next_wakeup()
        assert wakeup is None or wakeup > self.now
        assert (wakeup is None) == (not self.waiting)

    @rule()
    def progress_without_an_endpoint(self):
        """Also where due batches find no endpoint: they wait for one, not for time."""
        self._end(self.core.prune(self.now, alive(self.now)))
        self.core.due(self.now)
        wakeup = self.core.next_wakeup()
        assert wakeup is None or wakeup > self.now

    @invariant()
    def the_books_balance(self):
        snapshot = self.core.snapshot()
        assert snapshot.requests == len(self.waiting) == len(self.core) <= self.MAX_REQUESTS
        assert snapshot.size_bytes == sum(item.size_bytes for item in self.waiting)
        assert snapshot.size_bytes <= self.MAX_BYTES
        assert sum(queue.rows for queue in snapshot.queues) == sum(
            item.rows for item in self.waiting
        )
        assert {queue.key for queue in snapshot.queues} == {item.key for item in self.waiting}


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.lists(st.integers(1, 8), min_size=1, max_size=40), st.integers(8, 16))
@settings(max_examples=60, deadline=None)
def test_draining_a_queue_yields_every_request_once_in_order(row_counts, limit):
    waiting = backlog(max_requests=1000, max_bytes=10**6)
    items = [Item(key(), rows=rows) for rows in row_counts]
    for item in items:
        waiting.offer(item, 0.0)
    batches = []
    while waiting.due(0.0):
        batches.append(waiting.take(key(), limit, 0.0))
    assert [item for batch in batches for item in batch] == items
    assert all(sum(item.rows for item in batch) <= limit for batch in batches)
