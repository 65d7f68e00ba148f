"""Torn, truncated, flipped and misplaced bytes are detected and named; nothing else suffers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chassis.errors import DataLoss, HeadraceError
from model_store import Store
from model_store.publication import publish
from model_store.record_bytes import (
    decode_channel,
    decode_lease,
    decode_manifest,
    encode_channel,
    encode_lease,
    encode_manifest,
)
from model_store.records import Channel, ChannelMove, Lease
from tests.model_store.raw import raw_of
from tests.model_store.samples import MODEL, assert_whole, made, stored, unstored, weights

Damage = Callable[[bytes], bytes]


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0x10]) + content[middle + 1 :]


DAMAGES: dict[str, Damage] = {
    "empty": lambda content: b"",
    "torn": lambda content: content[: len(content) // 2],
    "short": lambda content: content[:-1],
    "long": lambda content: content + b"\0",
    "flipped": flipped,
    "zeroed": lambda content: bytes(len(content)),
}
wherever_it_lasts = pytest.mark.parametrize("store_url", ["file", "redis", "s3"], indirect=True)
damaged_each_way = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())


@wherever_it_lasts
@damaged_each_way
def test_a_damaged_blob_is_detected(store: Store, store_url: str, damage: Damage) -> None:
    name, raw = store.put_blob(weights(5)), raw_of(store_url)
    raw.write("blob", name, damage(raw.read("blob", name)))
    with pytest.raises(DataLoss) as raised:
        store.read_blob(name)
    assert raised.value.reason == "DIGEST_MISMATCH"


@wherever_it_lasts
@pytest.mark.parametrize("damage", [DAMAGES["empty"], DAMAGES["torn"], DAMAGES["long"]])
def test_putting_a_torn_blob_again_heals_it(store: Store, store_url: str, damage: Damage) -> None:
    name, raw = store.put_blob(weights(5)), raw_of(store_url)
    raw.write("blob", name, damage(raw.read("blob", name)))
    assert store.put_blob(weights(5)) == name
    assert store.read_blob(name) == weights(5)


@pytest.mark.parametrize("store_url", ["file"], indirect=True)
def test_putting_a_flipped_blob_again_heals_it_in_files(store: Store, store_url: str) -> None:
    name, raw = store.put_blob(weights(5)), raw_of(store_url)
    raw.write("blob", name, flipped(raw.read("blob", name)))
    store.put_blob(weights(5))
    assert store.read_blob(name) == weights(5)


@wherever_it_lasts
@damaged_each_way
def test_a_damaged_manifest_is_detected(store: Store, store_url: str, damage: Damage) -> None:
    publish(store, stored(store, 1))
    made(store, 2)
    raw = raw_of(store_url)
    raw.write("manifest", 2, damage(raw.read("manifest", 2)))
    with pytest.raises(DataLoss, match="'clicks' version 2") as raised:
        store.manifest(MODEL, 2)
    assert raised.value.reason == "MANIFEST_DAMAGED"
    # Its number stays taken, and what stands beside it stays whole.
    assert store.manifest(MODEL, 1).step == 1
    assert publish(store, stored(store, 3)).channel.version == 3


@wherever_it_lasts
def test_a_manifest_in_the_place_of_another_is_detected(store: Store, store_url: str) -> None:
    for step in (1, 2):
        made(store, step)
    raw = raw_of(store_url)
    raw.write("manifest", 2, raw.read("manifest", 1))
    with pytest.raises(DataLoss, match="another version"):
        store.manifest(MODEL, 2)


@wherever_it_lasts
def test_a_damaged_version_does_not_answer_for_its_commit(store: Store, store_url: str) -> None:
    publish(store, stored(store, 1, commit_id="run:1"))
    raw = raw_of(store_url)
    raw.write("manifest", 1, flipped(raw.read("manifest", 1)))
    with pytest.raises(DataLoss):
        store.create_version(stored(store, 1, commit_id="run:1"))
    assert store.create_version(stored(store, 1, commit_id="run:2")).version == 2


@wherever_it_lasts
@damaged_each_way
def test_a_damaged_channel_is_detected(store: Store, store_url: str, damage: Damage) -> None:
    publish(store, stored(store, 1))
    store.move_channel(MODEL, "canary", 1, expected_revision=0, reason="set")
    raw = raw_of(store_url)
    raw.write("channel", "canary", damage(raw.read("channel", "canary")))
    with pytest.raises(DataLoss) as raised:
        store.channel(MODEL, "canary")
    assert raised.value.reason == "CHANNEL_DAMAGED"
    # Readers of the other channel go on, and are woken.
    seen = store.revision(MODEL)
    assert publish(store, stored(store, 2)).moved
    assert store.wait_for_change(MODEL, seen, 60.0) != seen


@wherever_it_lasts
def test_a_channel_in_the_place_of_another_is_detected(store: Store, store_url: str) -> None:
    publish(store, stored(store, 1))
    store.move_channel(MODEL, "canary", 1, expected_revision=0, reason="set")
    raw = raw_of(store_url)
    raw.write("channel", "canary", raw.read("channel", "stable"))
    with pytest.raises(DataLoss, match="another channel"):
        store.channel(MODEL, "canary")
    assert assert_whole_without_channels(store) == [1]


def assert_whole_without_channels(store: Store) -> list[int]:
    for version in store.versions(MODEL):
        assert store.read_blob(store.manifest(MODEL, version).tensors[0].digest)
    return store.versions(MODEL)


def test_any_flipped_bit_of_a_record_is_detected() -> None:
    channel = Channel(MODEL, "stable", 1, 1, 2, True, (ChannelMove(1, 1, 5, "publish"),))
    records: list[tuple[bytes, Callable[[bytes], object]]] = [
        (encode_manifest(unstored(1)), lambda record: decode_manifest(record, MODEL)),
        (encode_channel(channel), lambda record: decode_channel(record, MODEL, "stable")),
        (encode_lease(Lease(3, "host:1", 5)), lambda record: decode_lease(record, "the lease")),
    ]
    for record, decode in records:
        decode(record)
        for at in range(len(record)):
            damaged = bytearray(record)
            damaged[at] ^= 1 << (at % 8)
            with pytest.raises(DataLoss):
                decode(bytes(damaged))


def test_any_truncated_record_is_detected() -> None:
    record = encode_manifest(unstored(1))
    for length in range(len(record)):
        with pytest.raises(DataLoss):
            decode_manifest(record[:length], MODEL)


def test_damage_names_no_path(store: Store) -> None:
    made(store, 1)
    with pytest.raises(HeadraceError) as raised:
        decode_manifest(b"", MODEL, 1)
    assert "/" not in raised.value.message
    assert assert_whole(store) == [1]
