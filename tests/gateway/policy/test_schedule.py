"""The schedule against a world of its own: who is asked, when, with how much; always progress."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from gateway.policy.balance import Balance
from gateway.policy.batching import Admit, Backlog, Fit
from gateway.policy.lane import QueueKey
from gateway.policy.schedule import Order, Schedule, Tuning
from gateway.policy.speed import Speeds
from tests.gateway.policy.test_batching import Item, key

ALPHA_S, BETA_S = 0.1, 0.01
VERSIONS = frozenset({1})


class World:
    """A backlog, endpoints that take l(b), and what became of each request."""

    def __init__(self, *addresses: str, tuning: Tuning | None = None, inflight: int = 1) -> None:
        self.now = 0.0
        self.inflight = inflight
        self.backlog: Backlog[Item] = Backlog(max_requests=1000, max_bytes=10**9)
        self.balance = Balance(max_inflight=inflight)
        self.schedule = Schedule(self, self.balance, Speeds(), tuning)
        self.factors = dict.fromkeys(addresses, 1.0)
        self.flights: dict[int, tuple[str, list[Item], float]] = {}
        self.shed: list[Item] = []
        self.answered: list[Item] = []
        self._ids = itertools.count(1)
        for address in addresses:
            self.balance.on_endpoint(address, {"m": VERSIONS, "n": VERSIONS}, now=0.0)
        self.schedule.on_endpoints(0.0)

    def __getattr__(self, name: str):
        return getattr(self.backlog, name)

    def trim(self, key: QueueKey, fit: Fit, target: int, now: float) -> None:
        self.shed += self.backlog.trim(key, fit, target)

    def ask(self, span_s: float = 10.0, **how) -> Item:
        item = Item(
            how.pop("key", key(max_rows=16)),
            due_at=self.now + span_s,
            arrived_at=self.now,
            **how,
        )
        verdict = self.backlog.offer(item, self.now)
        if isinstance(verdict, Admit):
            self.shed += verdict.evicted
        else:
            self.shed.append(item)
        return item

    def pump(self) -> list[Order]:
        """All batches that may leave now, as the dispatcher does it."""
        self.shed += self.backlog.prune(self.now)
        orders = []
        while (order := self.schedule.next(self.now)) is not None:
            orders.append(order)
            batch = self.backlog.take(order.key, order.rows)
            assert batch, "an order for nothing"
            # So whoever is answered late is late by no more than one batch and the one before it.
            assert all(item.due_at > self.now for item in batch), "sent after its deadline"
            assert self.balance.inflight(order.address) < self.inflight, "no room there"
            rows, flight = sum(item.rows for item in batch), next(self._ids)
            self.balance.on_sent(order.address)
            self.schedule.on_sent(flight, order.key, order.address, rows, self.now)
            queued = [
                ends for address, _, ends in self.flights.values() if address == order.address
            ]
            seconds = (ALPHA_S + BETA_S * rows) * self.factors[order.address]
            self.flights[flight] = order.address, batch, max([self.now, *queued]) + seconds
        return orders

    def end_next(self) -> None:
        """Time passes until the next batch ends."""
        flight = min(self.flights, key=lambda each: self.flights[each][2])
        address, batch, ends_at = self.flights.pop(flight)
        self.now = max(self.now, ends_at)
        self.balance.on_ended(address)
        self.schedule.on_answered(flight, batch[0].key, self.now)
        self.answered += batch

    def teach(self, count: int = 40) -> None:
        """Every endpoint ran batches of all sizes."""
        for number in range(count):
            for _ in range(1 + number % 16):
                self.ask(1000.0)
            while self.pump() or self.flights or len(self.backlog):
                if self.flights:
                    self.end_next()
                else:
                    self.now = self.schedule.next_wakeup()
            self.now += 1.0
        self.answered.clear()


def test_the_first_request_leaves_an_empty_system_at_once():
    world = World("a", "b")
    world.teach()
    world.ask()
    (order,) = world.pump()
    assert order.key == key(max_rows=16)


def test_requests_wait_for_an_endpoint_and_leave_together():
    world = World("a")
    world.teach()
    world.ask()
    world.pump()
    for _ in range(5):
        world.ask()
    assert world.pump() == []
    world.end_next()
    world.pump()
    assert [len(batch) for _, batch, _ in world.flights.values()] == [5]


def test_a_full_batch_does_not_wait_for_its_pace():
    world = World("a", "b")
    world.teach()
    world.ask()
    first = world.pump()
    world.ask()
    assert world.pump() == [] and world.schedule.next_wakeup() > world.now, "paced"
    for _ in range(15):
        world.ask()
    (order,) = world.pump()
    assert order.reason == "full" and order.address != first[0].address


def test_a_paced_batch_leaves_at_the_wake_up():
    world = World("a", "b")
    world.teach()
    world.ask()
    world.pump()
    world.ask()
    while not (orders := world.pump()):
        world.now = world.schedule.next_wakeup()
    assert [order.reason for order in orders] == ["paced"]
    assert len(world.flights) == 2, "before the first one ended"


def test_a_batch_is_no_larger_than_its_first_request_allows():
    world = World("a")
    world.teach()
    tight = world.ask(0.1 + 5.5 * 0.01 * 1.03 + 0.1 * 0.03)
    for _ in range(3):
        world.ask()
    world.pump()
    ((_, batch, ends_at),) = world.flights.values()
    assert tight in batch and len(batch) == 4 and ends_at <= tight.due_at


def test_a_batch_is_cut_where_one_row_more_would_make_its_first_request_late():
    world = World("a")
    world.teach()
    margin = world.schedule.speeds()["a", "m"].latency.margin
    tight = world.ask(margin * (ALPHA_S + 12.5 * BETA_S))
    for _ in range(12):
        world.ask()
    (order,) = world.pump()
    assert (order.rows, order.reason) == (12, "due")
    ((_, batch, ends_at),) = world.flights.values()
    assert tight in batch and len(batch) == 12 and ends_at <= tight.due_at


def test_a_head_that_would_keep_the_batch_small_is_given_up():
    world = World("a")
    world.teach()
    tight = world.ask(0.1 + 3.5 * 0.01 * 1.03 + 0.1 * 0.03)
    for _ in range(14):
        world.ask()
    world.pump()
    assert world.shed == [tight]
    assert [len(batch) for _, batch, _ in world.flights.values()] == [14]


def test_a_slow_endpoint_gets_no_batches_until_it_has_recovered():
    world = World("a", "b", "c")
    world.factors["b"] = 10.0
    world.teach()
    sent = []
    for _ in range(30):
        world.ask()
        sent += [order.address for order in world.pump()]
        while world.flights:
            world.end_next()
    assert set(sent) == {"a", "c"}
    assert world.schedule.probe(key(max_rows=16), world.now) == "b"
    assert world.schedule.probe(key(max_rows=16), world.now) is None


def test_one_that_is_somewhat_slower_is_asked_after_the_others():
    world = World("a", "b")
    world.factors["a"] = 2.0
    world.teach()
    for _ in range(3):
        world.ask()
        assert [order.address for order in world.pump()] == ["b"]
        world.end_next()
    for _ in range(32):
        world.ask()
    assert [order.address for order in world.pump()] == ["b", "a"]


def test_an_endpoint_that_sits_on_a_batch_is_passed_over():
    world = World("a", "b", inflight=2)
    world.teach()
    world.ask()
    (stuck,) = world.pump()
    flight = next(iter(world.flights))
    world.now = world.schedule.overdue_at(flight) + 0.01
    for _ in range(3):
        for _ in range(16):
            world.ask()
        assert {order.address for order in world.pump()} <= {"a", "b"} - {stuck.address}
        world.now += 0.01


def test_where_all_are_slow_or_stuck_an_idle_one_is_asked_all_the_same():
    world = World("a", "b")
    world.factors["b"] = 10.0
    world.teach()
    world.balance.on_endpoint("a", {}, now=world.now)
    world.schedule.on_endpoints(world.now)
    world.ask(100.0)
    assert [order.address for order in world.pump()] == ["b"]


def test_a_slow_one_is_asked_once_the_others_seem_stuck():
    world = World("a", "b")
    world.factors["b"] = 10.0
    world.teach()
    world.ask(100.0)
    assert [order.address for order in world.pump()] == ["a"]
    (flight,) = world.flights
    world.ask(100.0)
    assert world.pump() == []
    assert world.schedule.next_wakeup() == world.schedule.overdue_at(flight)
    world.now = world.schedule.next_wakeup()
    assert [order.address for order in world.pump()] == ["b"]


def test_a_pinned_version_is_asked_for_where_it_is_however_slow():
    world = World("a", "b")
    world.factors["b"] = 10.0
    world.teach()
    world.balance.on_endpoint("b", {"m": frozenset({2})}, now=world.now)
    world.schedule.on_endpoints(world.now)
    world.ask(100.0, key=key(version=2, max_rows=16))
    assert [order.address for order in world.pump()] == ["b"]


def test_a_second_batch_is_sent_only_where_the_way_is_long_and_only_half_full():
    world = World("a", inflight=2)
    world.teach()
    for _ in range(16 + 16):
        world.ask()
    assert len(world.pump()) == 1, "the way is nothing beside a batch"
    world.schedule.way.on_way(0.05)
    assert len(world.pump()) == 1
    crumbs = World("a", inflight=2)
    crumbs.teach()
    crumbs.schedule.way.on_way(0.05)
    for _ in range(16 + 7):
        crumbs.ask()
    assert len(crumbs.pump()) == 1, "a crumb waits and grows"


def test_the_class_counts_before_the_deadline_between_models():
    world = World("a")
    world.teach()
    world.ask(5.0, key=key("n", max_rows=16), priority=3)
    world.ask(9.0, priority=1)
    assert [order.key.model for order in world.pump()] == ["m"]


def test_a_delay_holds_a_batch_while_there_is_time():
    world = World("a", tuning=Tuning(delay_s=2.0))
    world.ask()
    assert world.pump() == []
    assert world.schedule.next_wakeup() == pytest.approx(world.now + 2.0)
    world.now += 2.0
    assert len(world.pump()) == 1
    world.end_next()
    world.teach()
    world.now += 100.0
    item = world.ask(1.0)
    while not world.pump():
        world.now = world.schedule.next_wakeup()
    assert item.due_at - 0.3 < world.now < item.due_at, "it would else be late"


def test_a_preferred_size_leaves_at_once_in_spite_of_a_delay():
    world = World("a", tuning=Tuning(delay_s=2.0, preferred=(4,)))
    for _ in range(3):
        world.ask()
    assert world.pump() == []
    world.ask()
    assert len(world.pump()) == 1


def test_a_request_that_nobody_seems_fast_enough_for_is_tried_after_a_while():
    world = World("a")
    world.factors["a"] = 100.0
    world.teach()
    world.factors["a"] = 1.0
    for _ in range(60):
        world.now += 5.0
        item = world.ask(1.0)
        world.pump()
        while world.flights:
            world.end_next()
        if item in world.answered and item.due_at >= world.now and world.ask(1.0) not in world.shed:
            break
        world.pump()
        while world.flights:
            world.end_next()
    assert item in world.answered and item.due_at >= world.now


class Life(RuleBasedStateMachine):
    """Whatever happens: progress, no batch of two kinds, nobody lost, none answered twice."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Item] = []

    @initialize(count=st.integers(1, 3), inflight=st.integers(1, 2), delay=st.sampled_from([0, 1]))
    def begin(self, count, inflight, delay):
        self.world = World(*"abc"[:count], inflight=inflight, tuning=Tuning(delay_s=delay))

    @rule(
        span=st.sampled_from([0.05, 0.15, 0.3, 5.0]),
        count=st.integers(1, 30),
        model=st.sampled_from("mmn"),
        version=st.sampled_from([0, 0, 1]),
        rows=st.integers(1, 4),
        priority=st.integers(1, 3),
        tenant=st.sampled_from("xy"),
        max_rows=st.sampled_from([16, 16, 0]),
    )
    def ask(self, span, count, model, version, rows, priority, tenant, max_rows):
        for _ in range(count):
            self.asked.append(
                self.world.ask(
                    span,
                    key=key(model, version, max_rows),
                    rows=rows if max_rows else 1,
                    priority=priority,
                    tenant=tenant,
                )
            )

    @rule(span=st.floats(0.001, 2.0))
    def pass_time(self, span):
        ends = [ends_at for _, _, ends_at in self.world.flights.values()]
        self.world.now = min([self.world.now + span, *ends])

    @rule(address=st.sampled_from("abc"), factor=st.sampled_from([1.0, 2.0, 20.0]))
    def change_speed(self, address, factor):
        if address in self.world.factors:
            self.world.factors[address] = factor

    @rule(address=st.sampled_from("abc"), up=st.booleans())
    def come_and_go(self, address, up):
        if address in self.world.factors:
            serves = {"m": VERSIONS, "n": VERSIONS} if up else {}
            self.world.balance.on_endpoint(address, serves, now=self.world.now)
            self.world.schedule.on_endpoints(self.world.now)

    @rule()
    def pump(self):
        world = self.world
        orders = world.pump()
        for _, batch, _ in world.flights.values():
            # As tuples, whatever keys say of their being equal.
            assert len({tuple(item.key) for item in batch}) == 1, "versions or shapes mixed"
            rows = sum(item.rows for item in batch)
            assert len(batch) == 1 or rows <= batch[0].key.max_rows
        assert len(orders) <= 6
        served = any(world.balance.has_candidate(key.model) for key in world.backlog.waiting())
        under_way = world.flights or world.schedule.next_wakeup() is not None
        assert under_way or not served, "requests wait, and nothing goes on"
        wakes = [world.schedule.next_wakeup(), world.backlog.next_wakeup(world.now)]
        assert all(at is None or at > world.now for at in wakes), "a wake-up in the past"

    @precondition(lambda self: self.world.flights)
    @rule()
    def end(self):
        self.world.end_next()

    def teardown(self):
        if not hasattr(self, "world"):
            return
        world = self.world
        for address in world.factors:
            world.balance.on_endpoint(address, {"m": VERSIONS, "n": VERSIONS}, now=world.now)
        world.schedule.on_endpoints(world.now)
        for _ in range(10_000):
            world.pump()
            wakes = [world.schedule.next_wakeup(), world.backlog.next_wakeup(world.now)]
            ends = [ends_at for _, _, ends_at in world.flights.values()]
            times = [at for at in (*wakes, *ends) if at is not None]
            if not times:
                break
            if ends and min(times) >= min(ends):
                world.end_next()
            else:
                world.now = min(times)
        assert len(world.backlog) == 0 and not world.flights
        ended = [*world.shed, *world.answered]
        assert sorted(map(id, ended)) == sorted(map(id, self.asked)), "each exactly once"


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
