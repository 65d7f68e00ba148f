"""The backlog: nothing lost, nothing twice, no bound passed, order kept, no wake-up in the past."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.policy.batching import ADMIT, Admit, Backlog, Reject
from gateway.policy.lane import QueueKey
from gateway.policy.quote import Quote


def key(model: str = "m", version: int = 0, max_rows: int = 8) -> QueueKey:
    return QueueKey(model, version, (), (), max_rows)


@dataclass(eq=False)
class Item:
    key: QueueKey
    rows: int = 1
    size_bytes: int = 10
    due_at: float = 100.0
    arrived_at: float = 0.0
    priority: int = 2
    tenant: str = ""
    order: int = 0


def place(item: Item) -> tuple[float, ...]:
    """By which the requests of one queue and tenant leave, lowest first."""
    if item.key.sequence:
        return (item.order,)
    return (item.priority, item.due_at, item.order)


def backlog(**changes) -> Backlog[Item]:
    return Backlog(**{"max_requests": 100, "max_bytes": 10_000} | changes)


def filled(*items: Item, **changes) -> Backlog[Item]:
    core = backlog(**changes)
    for item in items:
        assert core.offer(item, item.arrived_at) is ADMIT
    return core


def test_equal_deadlines_leave_in_order_of_arrival_and_earlier_ones_first():
    items = [Item(key(), due_at=due_at) for due_at in (50.0, 50.0, 20.0, 50.0, 30.0)]
    taken = filled(*items).take(key(), 8)
    assert taken == [items[2], items[4], items[0], items[1], items[3]]


def test_the_highest_priority_leaves_first_whatever_its_deadline():
    low, high, middle, urgent = (
        Item(key(), due_at=due_at, priority=priority)
        for priority, due_at in ((3, 10.0), (1, 90.0), (2, 50.0), (2, 20.0))
    )
    waiting = filled(low, high, middle, urgent)
    assert waiting.take(key(), 2) == [high, urgent]
    assert waiting.take(key(), 8) == [middle, low]


def test_what_is_late_goes_whatever_its_class():
    high, low, lower = (
        Item(key(), priority=level, due_at=due_at)
        for level, due_at in ((1, 90.0), (2, 10.0), (3, 5.0))
    )
    waiting = filled(high, low, lower)
    assert waiting.next_wakeup(0.0) == 5.0
    assert waiting.prune(5.0) == [lower]
    assert waiting.next_wakeup(5.0) == 10.0
    assert waiting.prune(20.0) == [low]
    assert waiting.next_wakeup(20.0) == 90.0


def test_requests_of_a_sequence_leave_one_by_one_in_order_of_arrival():
    own = key()._replace(sequence=7)
    items = [
        Item(own, priority=level, due_at=due_at)
        for level, due_at in ((2, 50.0), (1, 40.0), (3, 5.0), (2, 60.0))
    ]
    waiting = filled(*items)
    assert waiting.take(own, 8) == [items[0]]
    assert waiting.prune(10.0) == [items[2]]
    assert waiting.next_wakeup(10.0) == 40.0
    assert [waiting.take(own, 8) for _ in range(2)] == [[items[1]], [items[3]]]


def test_a_batch_takes_no_request_out_of_turn():
    first, big, small = Item(key(), rows=5), Item(key(), rows=4), Item(key(), rows=1)
    waiting = filled(first, big, small)
    assert waiting.take(key(), 8) == [first]
    assert waiting.take(key(), 8) == [big, small]


def test_a_batch_goes_on_with_the_next_class_where_the_first_is_empty():
    high, low, lower = (Item(key(), priority=level, rows=3) for level in (1, 2, 3))
    waiting = filled(lower, low, high)
    assert waiting.take(key(), 7) == [high, low]


def test_a_model_without_batches_gets_one_request_at_a_time():
    whole = key(max_rows=0)
    items = [Item(whole), Item(whole)]
    assert filled(*items).take(whole, 0) == [items[0]]


def test_a_batch_is_bounded_in_bytes_too():
    waiting = filled(*(Item(key(), size_bytes=10) for _ in range(3)), max_batch_bytes=25)
    assert len(waiting.take(key(), 8)) == 2


@pytest.mark.parametrize(
    ("limits", "item", "reason"),
    [
        ({"max_requests": 1}, Item(key()), "QUEUE_FULL"),
        ({"max_bytes": 19}, Item(key()), "QUEUE_BYTES_FULL"),
        ({"class_requests": {2: 1}}, Item(key("other")), "QUEUE_FULL"),
        ({}, Item(key(), due_at=1.0), "DEADLINE_EXCEEDED"),
    ],
)
def test_refusals(limits, item, reason):
    waiting = filled(Item(key("other")), **limits)
    assert waiting.offer(item, 1.0) == Reject(reason)
    assert waiting.snapshot().requests == 1


def test_room_returns_when_requests_leave():
    first = Item(key())
    waiting = filled(first, max_requests=1)
    assert waiting.withdraw(first)
    assert not waiting.withdraw(first)
    assert waiting.offer(Item(key()), 0.0) is ADMIT


def test_a_full_backlog_evicts_the_lowest_class_that_is_due_last():
    middle = Item(key())
    soon, late = Item(key(), priority=3, due_at=50.0), Item(key(), priority=3, due_at=90.0)
    waiting = filled(soon, middle, late, max_requests=3)
    assert waiting.offer(Item(key(), priority=3), 0.0) == Reject("QUEUE_FULL")
    assert waiting.offer(Item(key("other"), priority=2), 0.0) == Admit((late,))
    assert waiting.offer(Item(key(), priority=1), 0.0) == Admit((soon,))
    assert waiting.offer(Item(key(), priority=2), 0.0) == Reject("QUEUE_FULL")
    assert len(waiting) == 3


def test_bytes_are_made_room_for_with_as_many_as_it_takes():
    low = [Item(key(), priority=3, size_bytes=10, due_at=90.0 - at) for at in range(4)]
    waiting = filled(*low, max_bytes=45)
    assert waiting.offer(Item(key(), size_bytes=46, priority=1), 0.0).reason == "QUEUE_BYTES_FULL"
    assert waiting.offer(Item(key(), size_bytes=20, priority=1), 0.0) == Admit((low[0], low[1]))


def test_nobody_is_evicted_from_a_sequence():
    own = key()._replace(sequence=7)
    waiting = filled(Item(own, priority=3), max_requests=1)
    assert waiting.offer(Item(key(), priority=1), 0.0) == Reject("QUEUE_FULL")


QUOTE = Quote(first_s=2.0, more_s=0.5, best=1, batch_s=0.5, until=1000.0)


def test_what_would_be_late_is_refused_and_told_when_it_would_not_be():
    waiting = backlog()
    waiting.quote("m", QUOTE)
    for _ in range(4):
        assert waiting.offer(Item(key(), due_at=10.0), 0.0) is ADMIT
    # Four rows before it take 2 s, a batch 2 s more.
    assert waiting.offer(Item(key(), due_at=10.0), 5.9) is ADMIT
    assert waiting.offer(Item(key(), due_at=10.0), 6.0) == Reject("WOULD_BE_LATE", 0.5)
    assert waiting.offer(Item(key(), due_at=8.0), 6.1) == Reject("DEADLINE_TOO_SHORT")
    assert waiting.offer(Item(key("unknown"), due_at=6.3), 6.1) is ADMIT


def test_a_request_rides_with_what_leaves_just_before_it():
    quote = Quote(first_s=1.0, more_s=0.1, best=4, batch_s=1.5, free_at=10.0)
    ends = [quote.ends_at(ahead, 1, 4, 9.0) for ahead in (0, 1, 3, 4, 9)]
    assert ends == pytest.approx([11.0, 11.1, 11.3, 12.5, 14.1])
    ends = [quote.ends_at(ahead, 1, 6, 9.0) for ahead in (3, 4, 5, 6)]
    assert ends == pytest.approx([11.3, 11.4, 11.5, 12.7]), "a larger batch, if it may be"
    assert quote.ends_at(0, 3, 4, 20.0) == pytest.approx(21.2)


def test_only_what_leaves_before_a_request_counts_against_it():
    waiting = backlog()
    waiting.quote("m", QUOTE)
    lower = [Item(key(), priority=3, due_at=50.0) for _ in range(40)]
    later = [Item(key(), due_at=90.0) for _ in range(40)]
    for item in (*lower, *later):
        waiting.offer(item, 0.0)
    assert waiting.offer(Item(key(), due_at=3.0), 0.0) is ADMIT
    assert waiting.offer(Item(key(), priority=3, due_at=20.0), 0.0).reason == "WOULD_BE_LATE"


def test_nobody_is_refused_for_a_tenant_that_floods():
    waiting = backlog(max_requests=1000)
    waiting.quote("m", QUOTE)
    for _ in range(40):
        waiting.offer(Item(key(), tenant="loud", due_at=30.0), 0.0)
    assert waiting.offer(Item(key(), tenant="loud", due_at=20.0), 0.0) is ADMIT
    assert waiting.offer(Item(key(), tenant="loud", due_at=22.0), 0.0) is ADMIT
    quiet = Item(key(), tenant="quiet", due_at=4.0)
    assert waiting.offer(quiet, 0.0) is ADMIT
    assert quiet in waiting.take(key(), 8)


def test_an_old_quote_refuses_nobody():
    waiting = backlog()
    waiting.quote("m", Quote(first_s=2.0, best=1, batch_s=0.5, until=10.0))
    assert waiting.offer(Item(key(), due_at=11.0), 10.0) == Reject("DEADLINE_TOO_SHORT")
    assert waiting.offer(Item(key(), due_at=11.0), 10.1) is ADMIT
    assert waiting.prune(10.2) == []


def test_what_one_batch_would_answer_too_late_is_pruned():
    tight, loose = Item(key(), due_at=10.0), Item(key(), due_at=20.0)
    waiting = filled(loose, tight)
    waiting.quote("m", Quote(first_s=6.0, until=1000.0))
    assert waiting.next_wakeup(0.0) == 4.0
    assert waiting.prune(4.0) == [tight]
    assert waiting.next_wakeup(4.0) == 14.0


def test_those_that_waited_long_enough_are_given_up():
    old, young = Item(key(), arrived_at=0.0), Item(key(), arrived_at=3.0)
    waiting = filled(old, young)
    assert waiting.give_up(key(), waited_s=5.0, now=5.0) == [old]
    assert waiting.oldest_at(key()) == 3.0
    assert waiting.give_up(key("unknown"), waited_s=5.0, now=5.0) == []


def test_an_outline_tells_of_the_first_request():
    waiting = filled(Item(key(), rows=3, due_at=9.0), Item(key(), rows=2, due_at=7.0, arrived_at=1))
    outline = waiting.outline(key())
    assert (outline.rows, outline.requests, outline.priority) == (5, 2, 2)
    assert (outline.due_at, outline.budget_s, outline.oldest_at) == (7.0, 9.0, 0.0)
    assert waiting.outline(key("unknown")) is None
    assert waiting.arrived("m") == 5


class Life(RuleBasedStateMachine):
    """A backlog against a list: every request is in exactly one place at any time."""

    MAX_REQUESTS = 12
    MAX_BYTES = 150

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.core = backlog(max_requests=self.MAX_REQUESTS, max_bytes=self.MAX_BYTES)
        self.waiting: list[Item] = []
        self.ended: list[Item] = []

    def _end(self, items) -> None:
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
        tenant=st.sampled_from(["", "x", "y"]),
    )
    def offer(self, model, version, rows, size, timeout, priority, sequence, tenant):
        own = key(model, version)._replace(sequence=sequence)
        item = Item(own, rows, size, self.now + timeout, self.now, priority, tenant)
        verdict = self.core.offer(item, self.now)
        if isinstance(verdict, Admit):
            assert all(each.priority > priority for each in verdict.evicted)
            assert not any(each.key.sequence for each in verdict.evicted)
            self._end(verdict.evicted)
            self.waiting.append(item)
            return
        if verdict.reason == "DEADLINE_EXCEEDED":
            assert timeout == 0
        if verdict.reason == "QUEUE_FULL":
            assert len(self.waiting) == self.MAX_REQUESTS
        if verdict.reason == "QUEUE_BYTES_FULL":
            assert sum(each.size_bytes for each in self.waiting) + size > self.MAX_BYTES

    @rule(model=st.sampled_from("ab"), first=st.floats(0, 2), more=st.floats(0, 0.5))
    def quote(self, model, first, more):
        quote = Quote(first, more, best=4, batch_s=more, free_at=self.now, until=self.now + 3.0)
        self.core.quote(model, quote)

    @rule(span=st.floats(0.1, 3.0))
    def pass_time(self, span):
        self.now += span

    @rule()
    def prune(self):
        self._end(self.core.prune(self.now))
        assert all(item.due_at > self.now for item in self.waiting)
        wakeup = self.core.next_wakeup(self.now)
        assert (wakeup is None) == (not self.waiting)
        assert wakeup is None or wakeup > self.now

    @precondition(lambda self: self.waiting)
    @rule(at=st.integers(0, 20), room=st.integers(0, 9), wish=st.integers(1, 8))
    def trim(self, at, room, wish):
        chosen = self.waiting[at % len(self.waiting)].key
        self._end(self.core.trim(chosen, lambda due_at: room, wish))
        if chosen.sequence == 0 and room >= wish:
            assert self.core.trim(chosen, lambda due_at: room, wish) == []

    @precondition(lambda self: self.waiting)
    @rule(rows=st.integers(0, 12), at=st.integers(0, 20))
    def take(self, rows, at):
        chosen = self.waiting[at % len(self.waiting)].key
        taken = self.core.take(chosen, rows)
        assert taken
        assert {tuple(item.key) for item in taken} == {tuple(chosen)}
        assert len(taken) == 1 or sum(item.rows for item in taken) <= rows
        left = [item for item in self.waiting if item.key == chosen and item not in taken]
        for tenant in {item.tenant for item in taken}:
            last = max(place(item) for item in taken if item.tenant == tenant)
            assert all(place(item) > last for item in left if item.tenant == tenant)
        if not chosen.sequence:
            lowest = max(item.priority for item in taken)
            assert all(item.priority >= lowest for item in left)
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
            assert all(item.arrived_at + waited <= self.now + 1e-9 for item in dropped)
            self._end(dropped)

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
        waiting = {name: tenant.waiting for name, tenant in snapshot.tenants.items()}
        for name in waiting:
            assert waiting[name] == sum(item.tenant == name for item in self.waiting)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.lists(st.integers(1, 8), min_size=1, max_size=40), st.integers(8, 16))
@settings(max_examples=60, deadline=None)
def test_draining_a_queue_yields_every_request_once_in_order(row_counts, limit):
    items = [Item(key(), rows=rows) for rows in row_counts]
    waiting = filled(*items, max_requests=1000, max_bytes=10**6)
    batches = []
    while waiting.waiting():
        batches.append(waiting.take(key(), limit))
    assert [item for batch in batches for item in batch] == items
    assert all(sum(item.rows for item in batch) <= limit for batch in batches)


@given(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=60),
    st.dictionaries(st.sampled_from("abc"), st.floats(0.5, 4.0)),
)
@settings(max_examples=60, deadline=None)
def test_tenants_lose_nobody_and_share_by_weight_while_all_wait(tenants, weights):
    items = [Item(key(), tenant=tenant) for tenant in tenants]
    waiting = filled(*items, max_requests=1000, max_bytes=10**6, weights=weights)
    left = {tenant: tenants.count(tenant) for tenant in set(tenants)}
    served = dict.fromkeys(left, 0)
    while waiting.waiting():
        for item in waiting.take(key(), 1):
            served[item.tenant] += 1
            left[item.tenant] -= 1
        if all(left.values()):
            turns = {each: served[each] / weights.get(each, 1.0) for each in left}
            slack = max(1 / weights.get(each, 1.0) for each in left)
            assert max(turns.values()) - min(turns.values()) <= slack + 1e-9
    assert not any(left.values())
