"""Publishing, holding and going back, on every kind of store."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from chassis.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from model_store import Store
from model_store.faults import Fault, FaultyStore
from model_store.publication import Publication, publish, rollback
from model_store.records import Channel
from tests.model_store.samples import MODEL, made, stored


def published(store: Store, *steps: int, channel: str = "stable") -> list[Publication]:
    return [publish(store, stored(store, step), channel=channel) for step in steps]


def at(channel: Channel | None) -> tuple[int, bool]:
    assert channel is not None
    return channel.version, channel.held


def lost() -> Unavailable:
    return Unavailable("STORE_UNAVAILABLE", "the answer was lost")


def test_publishing_makes_a_version_and_moves_the_channel(store: Store) -> None:
    first, second = published(store, 1, 2)
    assert (first.manifest.version, first.moved, second.moved) == (1, True, True)
    assert second.channel == store.channel(MODEL, "stable")
    assert [move.reason for move in second.channel.history] == ["publish", "publish"]
    assert second.channel.version == 2


def test_channels_are_published_to_one_by_one(store: Store) -> None:
    published(store, 1)
    published(store, 2, channel="canary")
    assert [(one.name, one.version) for one in store.channels(MODEL)] == [
        ("canary", 2),
        ("stable", 1),
    ]


def test_a_channel_carries_the_epoch_of_its_publisher(store: Store) -> None:
    epoch = store.acquire_epoch(MODEL, "trainer")
    assert publish(store, stored(store, 1, epoch=epoch)).channel.epoch == epoch


def test_a_publisher_leaves_a_held_channel_alone(store: Store) -> None:
    published(store, 1, 2)
    rollback(store, MODEL, reason="worse")
    (held,) = published(store, 3)
    assert (held.manifest.version, held.moved, at(held.channel)) == (3, False, (1, True))
    # By hand, it goes on.
    store.move_channel(MODEL, "stable", 3, expected_revision=held.channel.revision, reason="set")
    (free,) = published(store, 4)
    assert (free.moved, at(free.channel)) == (True, (4, False))


def test_a_publisher_never_moves_a_channel_backwards(store: Store) -> None:
    slow = FaultyStore(store)
    gate = threading.Event()
    slow.add(Fault("channel", None, gate=gate))
    with ThreadPoolExecutor(1) as threads:
        overtaken = threads.submit(publish, slow, stored(store, 1))
        while not store.versions(MODEL):
            store.wait_for_change(MODEL, 0, 1.0)
        (newer,) = published(store, 2)
        gate.set()
        late = overtaken.result(60)
    assert (late.manifest.version, newer.manifest.version) == (1, 2)
    assert (late.moved, at(late.channel)) == (False, (2, False))


def test_a_lost_race_for_the_channel_is_run_again(store: Store) -> None:
    faulty = FaultyStore(store, [Fault("move_channel", Aborted("CHANNEL_MOVED", "lost"), times=3)])
    assert at(publish(faulty, stored(store, 1)).channel) == (1, False)
    assert faulty.calls.count("move_channel") == 4


def test_a_channel_that_always_moves_gives_up(store: Store) -> None:
    always = Fault("move_channel", Aborted("CHANNEL_MOVED", "lost"), times=1000)
    with pytest.raises(Aborted, match="100 attempts"):
        publish(FaultyStore(store, [always]), stored(store, 1))


@pytest.mark.parametrize("call", ["create_version", "channel", "move_channel"])
@pytest.mark.parametrize("after", [False, True])
def test_a_failed_publication_is_completed_by_repeating_it(
    store: Store, call: str, after: bool
) -> None:
    faulty = FaultyStore(store, [Fault(call, lost(), after=after)])
    manifest = stored(store, 1, commit_id="run:1")
    with pytest.raises(Unavailable):
        publish(faulty, manifest)
    again = publish(faulty, manifest)
    assert (again.manifest.version, again.moved, at(again.channel)) == (1, True, (1, False))
    assert store.versions(MODEL) == [1]


def test_a_publisher_fenced_between_version_and_channel_moves_nothing(store: Store) -> None:
    old = store.acquire_epoch(MODEL, "old")
    gate = threading.Event()
    slow = FaultyStore(store, [Fault("move_channel", None, gate=gate)])
    with ThreadPoolExecutor(1) as threads:
        paused = threads.submit(publish, slow, stored(store, 1, epoch=old))
        while not store.versions(MODEL):
            store.wait_for_change(MODEL, 0, 1.0)
        new = store.acquire_epoch(MODEL, "new")
        gate.set()
        with pytest.raises(FailedPrecondition) as raised:
            paused.result(60)
    assert raised.value.reason == "STALE_EPOCH"
    assert store.channel(MODEL, "stable") is None
    assert publish(store, stored(store, 2, epoch=new)).channel.version == 2


def test_rollback_goes_to_the_version_before_and_holds(store: Store) -> None:
    published(store, 1, 2, 3)
    channel = rollback(store, MODEL, reason="auc fell")
    assert at(channel) == (2, True)
    assert channel.history[-1].reason == "auc fell"
    assert store.channel(MODEL, "stable") == channel


def test_rollback_repeated_goes_on_backwards(store: Store) -> None:
    published(store, 1, 2, 3)
    assert [rollback(store, MODEL, reason="worse").version for _ in range(2)] == [2, 1]
    with pytest.raises(FailedPrecondition) as raised:
        rollback(store, MODEL, reason="worse")
    assert raised.value.reason == "NO_EARLIER_VERSION"
    assert at(store.channel(MODEL, "stable")) == (1, True)


def test_rollback_skips_versions_that_the_channel_never_stood_at(store: Store) -> None:
    published(store, 1)
    made(store, 2)
    published(store, 3)
    assert rollback(store, MODEL, reason="worse").version == 1


def test_rollback_to_a_version_takes_any_that_exists(store: Store) -> None:
    published(store, 1, 2, 3)
    assert at(rollback(store, MODEL, to_version=1, reason="known good")) == (1, True)
    with pytest.raises(NotFound) as raised:
        rollback(store, MODEL, to_version=9, reason="typo")
    assert raised.value.reason == "VERSION_NOT_FOUND"


def test_rollback_keeps_the_epoch_and_passes_the_fence(store: Store) -> None:
    epoch = store.acquire_epoch(MODEL, "trainer")
    for step in (1, 2):
        publish(store, stored(store, step, epoch=epoch))
    store.acquire_epoch(MODEL, "next trainer")
    assert rollback(store, MODEL, reason="worse").epoch == epoch


def test_rollback_of_an_absent_channel_is_not_found(store: Store) -> None:
    published(store, 1)
    with pytest.raises(NotFound) as raised:
        rollback(store, MODEL, channel="canary", reason="worse")
    assert raised.value.reason == "CHANNEL_NOT_FOUND"
    with pytest.raises(InvalidArgument):
        rollback(store, MODEL, channel="a/b", reason="worse")


def test_rollback_overtaken_by_a_publication_keeps_its_target(store: Store) -> None:
    published(store, 1, 2)
    gate = threading.Event()
    slow = FaultyStore(store, [Fault("move_channel", None, gate=gate)])
    with ThreadPoolExecutor(1) as threads:
        rolling = threads.submit(rollback, slow, MODEL, reason="worse")
        while "move_channel" not in slow.calls:
            store.wait_for_change(MODEL, store.revision(MODEL), 0.01)
        published(store, 3)
        gate.set()
        assert at(rolling.result(60)) == (1, True)


# The wrapper itself


def test_faults_strike_the_calls_they_name(store: Store) -> None:
    faulty = FaultyStore(store, [Fault("epoch", lost(), skip=1, times=2)])
    outcomes = []
    for _ in range(4):
        try:
            outcomes.append(faulty.epoch(MODEL))
        except Unavailable:
            outcomes.append(-1)
    assert outcomes == [0, -1, -1, 0]
    assert faulty.calls == ["epoch"] * 4


def test_a_fault_after_the_call_lets_it_take_effect(store: Store) -> None:
    faulty = FaultyStore(store, [Fault("acquire_epoch", lost(), after=True)])
    with pytest.raises(Unavailable):
        faulty.acquire_epoch(MODEL, "owner")
    assert faulty.epoch(MODEL) == 1


def test_without_faults_the_wrapper_is_the_store(store: Store) -> None:
    faulty = FaultyStore(store)
    (publication,) = published(faulty, 1)
    assert faulty.models() == [MODEL]
    assert faulty.manifest(MODEL, 1) == publication.manifest
    assert faulty.channels(MODEL) == [publication.channel]
    assert faulty.read_blob(publication.manifest.tensors[0].digest)
    assert faulty.missing_blobs(publication.manifest.digests()) == set()
    assert faulty.wait_for_change(MODEL, 0, 0.0) == faulty.revision(MODEL) > 0
    assert faulty.url == store.url
    faulty.close()
