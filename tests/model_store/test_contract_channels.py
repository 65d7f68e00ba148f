"""The contract of `Store`, kept by every kind of store: epochs and channels."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chassis.errors import (
    Aborted,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from model_store import Store
from tests.model_store.conftest import Opener, reason
from tests.model_store.samples import (
    MODEL,
    made,
    move,
    stored,
)

# Epochs


def test_epochs_count_up_from_one(store: Store, opened: Opener) -> None:
    assert store.epoch(MODEL) == 0
    assert [store.acquire_epoch(MODEL, f"host:{pid}") for pid in (1, 2)] == [1, 2]
    assert opened().acquire_epoch(MODEL, "host:3") == 3
    assert (store.epoch(MODEL), store.epoch("another")) == (3, 0)


def test_a_stale_publisher_is_fenced(store: Store) -> None:
    old = store.acquire_epoch(MODEL, "old")
    made(store, 1, epoch=old)
    new = store.acquire_epoch(MODEL, "new")
    manifest = stored(store, 2, epoch=old)
    with pytest.raises(FailedPrecondition) as raised:
        store.create_version(manifest)
    assert reason(raised) == "STALE_EPOCH"
    assert store.versions(MODEL) == [1]
    assert made(store, 2, epoch=new).version == 2


def test_a_stale_publisher_moves_no_channel(store: Store) -> None:
    old = store.acquire_epoch(MODEL, "old")
    made(store, 1, epoch=old)
    store.acquire_epoch(MODEL, "new")
    with pytest.raises(FailedPrecondition) as raised:
        move(store, 1, 0, epoch=old)
    assert reason(raised) == "STALE_EPOCH"
    assert store.channel(MODEL, "stable") is None


def test_a_stale_publisher_may_still_ask_what_its_commit_made(store: Store) -> None:
    old = store.acquire_epoch(MODEL, "old")
    manifest = stored(store, 1, epoch=old, commit_id="run:1")
    first = store.create_version(manifest)
    store.acquire_epoch(MODEL, "new")
    assert store.create_version(manifest) == first


def test_an_epoch_never_handed_out_is_refused(store: Store) -> None:
    manifest = stored(store, 1, epoch=5)
    with pytest.raises(FailedPrecondition) as raised:
        store.create_version(manifest)
    assert reason(raised) == "UNKNOWN_EPOCH"
    made(store, 1)
    with pytest.raises(FailedPrecondition) as raised:
        move(store, 1, 0, epoch=5)
    assert reason(raised) == "UNKNOWN_EPOCH"


def test_an_unfenced_writer_passes_whatever_the_epoch(store: Store) -> None:
    store.acquire_epoch(MODEL, "trainer")
    assert made(store, 1).epoch == 0
    assert move(store, 1, 0).epoch == 0


# Channels


def test_a_channel_is_none_until_it_is_made(store: Store) -> None:
    assert store.channel(MODEL, "stable") is None
    assert store.channels(MODEL) == []


def test_a_channel_stands_where_it_was_moved(store: Store, opened: Opener) -> None:
    made(store, 1)
    made(store, 2)
    move(store, 1, 0)
    channel = move(store, 2, 1, held=True)
    assert (channel.version, channel.revision, channel.held) == (2, 2, True)
    assert [(past.version, past.revision, past.reason) for past in channel.history] == [
        (1, 1, "to 1"),
        (2, 2, "to 2"),
    ]
    assert opened().channel(MODEL, "stable") == channel


def test_channels_are_sorted_by_name(store: Store) -> None:
    made(store, 1)
    for name in ("stable", "canary", "Beta"):
        store.move_channel(MODEL, name, 1, expected_revision=0, reason="set")
    assert [channel.name for channel in store.channels(MODEL)] == ["Beta", "canary", "stable"]


def test_a_move_that_expected_another_revision_is_aborted(store: Store) -> None:
    made(store, 1)
    with pytest.raises(Aborted):
        move(store, 1, 1)
    move(store, 1, 0)
    for stale in (0, 2):
        with pytest.raises(Aborted) as raised:
            move(store, 1, stale)
        assert reason(raised) == "CHANNEL_MOVED"
    assert move(store, 1, 1).revision == 2


def test_a_channel_never_points_to_an_absent_version(store: Store) -> None:
    made(store, 1)
    for version in (0, 2):
        with pytest.raises(NotFound) as raised:
            move(store, version, 0)
        assert reason(raised) == "VERSION_NOT_FOUND"


def test_a_channel_keeps_the_epoch_of_its_last_publisher(store: Store) -> None:
    epoch = store.acquire_epoch(MODEL, "trainer")
    made(store, 1, epoch=epoch)
    made(store, 2, epoch=epoch)
    assert move(store, 2, 0, epoch=epoch).epoch == epoch
    # An operator's move has no epoch of its own.
    assert move(store, 1, 1, held=True).epoch == epoch


def test_history_tells_the_epoch_of_each_move(store: Store, opened: Opener) -> None:
    made(store, 1)
    move(store, 1, 0)
    for revision, owner in enumerate(("first", "second"), start=1):
        move(store, 1, revision, epoch=store.acquire_epoch(MODEL, owner))
    # An operator's, who has none: that of the publisher before.
    move(store, 1, 3)
    channel = opened().channel(MODEL, "stable")
    assert channel is not None
    assert [past.epoch for past in channel.history] == [0, 1, 2, 2]


def test_history_keeps_the_newest_32_moves(store: Store) -> None:
    made(store, 1)
    for revision in range(40):
        channel = move(store, 1, revision)
    assert [past.revision for past in channel.history] == list(range(9, 41))


@pytest.mark.parametrize(
    ("change", "expected"),
    [({"reason": ""}, "BAD_TEXT"), ({"version": -1}, "BAD_MOVE"), ({"epoch": -1}, "BAD_MOVE")],
)
def test_a_malformed_move_is_refused(
    store: Store, change: dict[str, object], expected: str
) -> None:
    wish = {"version": 1, "expected_revision": 0, "epoch": 0, "reason": "x", **change}
    with pytest.raises(InvalidArgument) as raised:
        store.move_channel(MODEL, "stable", **wish)
    assert reason(raised) == expected


def test_a_reader_acts_only_on_a_channel_that_follows(store: Store) -> None:
    epoch = store.acquire_epoch(MODEL, "trainer")
    made(store, 1, epoch=epoch)
    made(store, 2, epoch=epoch)
    first = move(store, 1, 0, epoch=epoch)
    second = move(store, 2, 1, epoch=epoch)
    assert first.follows(None)
    assert second.follows(first)
    assert second.follows(second)
    assert not first.follows(second)
    # A deposed master goes on with its own revisions, under the epoch it knew.
    assert not replace(second, revision=9, epoch=epoch - 1).follows(second)
    assert not replace(second, version=1).follows(second)


def test_a_line_that_lost_the_move_that_was_seen_is_followed_to_new_numbers_only(
    store: Store,
) -> None:
    for step in range(1, 5):
        made(store, step)
    seen = move(store, 2, 0)
    # Another store with the same versions, where the first move was another one.
    other = replace(seen.history[0], move_time_ms=seen.history[0].move_time_ms + 1)
    assert not replace(seen, history=(other,)).follows(seen)
    on = move(store, 4, 1)
    assert on.follows(seen)
    diverged = replace(on, history=(other, on.history[1]))
    assert diverged.follows(seen)
    assert not replace(diverged, version=2).follows(seen)
    assert not replace(diverged, version=1).follows(seen)
