"""Window early drop: a head goes only if a larger batch is the gain, never for a lower class."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.policy.queue import Queue
from tests.gateway.policy.test_batching import Item, key


def queue(*items: Item) -> Queue[Item]:
    core: Queue[Item] = Queue(key())
    for order, item in enumerate(items):
        item.order = order
        core.add(item)
    return core


def rows_by(due_at: float) -> int:
    """As many rows fit as the deadline says: item.due_at is the size that is in time."""
    return int(due_at)


def test_a_head_that_keeps_a_batch_small_goes():
    tight, loose = Item(key(), due_at=2), [Item(key(), due_at=60) for _ in range(10)]
    core = queue(tight, *loose)
    assert core.trim(rows_by, 8) == [tight]
    assert core.room(rows_by, 8) == 8


def test_a_head_stays_where_all_that_waits_is_in_time_with_it():
    core = queue(Item(key(), due_at=3), Item(key(), due_at=60), Item(key(), due_at=60))
    assert core.trim(rows_by, 8) == []
    assert core.room(rows_by, 8) == 3


def test_a_head_stays_where_the_batch_would_not_be_larger_without_it():
    core = queue(Item(key(), due_at=2), Item(key(), due_at=60), Item(key(), due_at=60))
    assert core.trim(rows_by, 8) == []
    assert core.room(rows_by, 8) == 2


def test_nobody_goes_for_the_sake_of_a_lower_class():
    tight = Item(key(), due_at=2, priority=1)
    core = queue(tight, *(Item(key(), due_at=60, priority=3) for _ in range(20)))
    assert core.trim(rows_by, 8) == []
    low = Item(key(), due_at=2, priority=3)
    core = queue(low, *(Item(key(), due_at=60, priority=1) for _ in range(5)))
    assert core.trim(rows_by, 8) == [low], "it would keep its betters' batch small"


def test_a_class_that_is_not_needed_for_the_batch_is_left_alone():
    low = [Item(key(), due_at=2, priority=3) for _ in range(9)]
    core = queue(*low, *(Item(key(), due_at=60, priority=1) for _ in range(8)))
    assert core.trim(rows_by, 8) == []
    assert core.room(rows_by, 8) == 8


@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.integers(1, 3), st.sampled_from("xy"), st.integers(1, 3)),
        min_size=1,
        max_size=30,
    ),
    st.integers(1, 16),
)
@settings(max_examples=200, deadline=None)
def test_after_a_trim_the_batch_is_as_large_as_may_be(wishes, target):
    items = [
        Item(key(), rows=rows, due_at=float(due_at), priority=priority, tenant=tenant)
        for due_at, priority, tenant, rows in wishes
    ]
    core = queue(*items)
    before = sum(item.rows for item in items)
    gone = core.trim(rows_by, target)
    assert sum(item.rows for item in gone) + core.rows == before
    assert len(gone) + core.count == len(items)
    if not core.count:
        return
    room = core.room(rows_by, target)
    # Either the batch is full, or all are in it, or each head alone is what bounds it.
    top = core.levels[core.order[0]]
    heads = [lane.entries[0][2] for lane in top.lanes.values()]
    for head in heads:
        assert rows_by(head.due_at) >= min(target, top.rows - head.rows)
    assert room >= 1
