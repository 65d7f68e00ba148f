"""The contract of `Store`, kept by every kind of store: blobs, versions, names, waiting."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from chassis.errors import (
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from model_store import Store
from model_store.digests import digest
from model_store.records import DeltaStep, Probe, TensorEntry
from model_store.rules import MAX_DELTAS
from tests.model_store.conftest import Opener, reason
from tests.model_store.samples import (
    MODEL,
    PROGRAM,
    made,
    move,
    renamed,
    stored,
    unstored,
    weights,
)

# A tensor made by a delta, and deltas that make it.
BASED = TensorEntry("w", "INT8", (4,), digest(weights(2)), 4, base_digest=digest(weights(1)))
STEP = DeltaStep(1, digest(b"delta"), 5)
LONG = tuple(replace(STEP, base_version=1 + index) for index in range(MAX_DELTAS + 1))

BAD_NAMES = ["", ".", "..", "../up", "a/b", "-a", "a" * 129, "naïve", "a\n", "a\0", "a b"]


# Blobs


@pytest.mark.parametrize("content", [b"", b"x", bytes(range(256)) * 41, b"\xff" * 9_000_001])
def test_a_blob_comes_back_as_it_was_put(store: Store, opened: Opener, content: bytes) -> None:
    name = store.put_blob(content)
    assert name == digest(content)
    assert opened().read_blob(name) == content


@pytest.mark.parametrize("content", [b"", b"x", bytes(range(256)) * 41, b"\xff" * 9_000_001])
def test_a_blob_is_read_into_memory_at_hand(store: Store, opened: Opener, content: bytes) -> None:
    name = store.put_blob(content)
    told: list[int] = []
    around = bytearray(b"<" * (len(content) + 2))
    opened().read_blob_into(name, memoryview(around)[1:-1], told.append)
    assert around == b"<" + content + b"<"
    assert sum(told) == len(content)


def test_a_blob_of_another_size_is_not_read_into_memory(store: Store) -> None:
    name = store.put_blob(b"four")
    for size in (0, 3, 5):
        with pytest.raises(DataLoss) as raised:
            store.read_blob_into(name, memoryview(bytearray(size)))
        assert reason(raised) == "SIZE_MISMATCH"
    with pytest.raises(NotFound) as raised:
        store.read_blob_into(digest(b"other"), memoryview(bytearray(4)))
    assert reason(raised) == "BLOB_NOT_FOUND"


def test_who_reads_into_memory_may_give_up(store: Store) -> None:
    name = store.put_blob(b"four")

    def give_up(_size: int) -> None:
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        store.read_blob_into(name, memoryview(bytearray(4)), give_up)


def test_a_blob_put_twice_is_one_blob(store: Store) -> None:
    assert store.put_blob(b"same") == store.put_blob(memoryview(b"same"))


def test_a_view_of_wider_elements_is_stored_as_its_bytes(store: Store) -> None:
    floats = memoryview(weights(3)).cast("f")
    assert store.read_blob(store.put_blob(floats)) == weights(3)


def test_a_buffer_may_be_written_again_after_it_was_put(store: Store) -> None:
    buffer = bytearray(b"before")
    name = store.put_blob(memoryview(buffer))
    buffer[:] = b"after!"
    assert store.read_blob(name) == b"before"


def test_missing_blobs_are_those_not_stored(store: Store) -> None:
    there, absent = store.put_blob(b"there"), digest(b"absent")
    assert store.missing_blobs([there, absent]) == {absent}
    assert store.missing_blobs([]) == set()


def test_an_absent_blob_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound) as raised:
        store.read_blob(digest(b"absent"))
    assert reason(raised) == "BLOB_NOT_FOUND"


@pytest.mark.parametrize("name", ["", "blake3:", "blake3:../../x", "sha256:" + "0" * 64, "0" * 64])
def test_what_is_not_a_digest_is_refused(store: Store, name: str) -> None:
    for call in (store.read_blob, lambda name: store.missing_blobs([name])):
        with pytest.raises(InvalidArgument) as raised:
            call(name)
        assert reason(raised) == "BAD_DIGEST"


# Versions


def test_versions_count_up_from_one(store: Store, opened: Opener) -> None:
    assert store.versions(MODEL) == []
    assert [made(store, step).version for step in (10, 20, 30)] == [1, 2, 3]
    assert opened().versions(MODEL) == [1, 2, 3]
    assert opened().models() == [MODEL]


def test_a_manifest_comes_back_as_it_was_made(store: Store, opened: Opener) -> None:
    manifest = stored(store, 7, commit_id="run-1:7")
    made_one = store.create_version(manifest)
    assert made_one.create_time_ms > 1_700_000_000_000
    assert made_one == replace(manifest, version=1, create_time_ms=made_one.create_time_ms)
    assert opened().manifest(MODEL, 1) == made_one


def test_a_given_create_time_is_kept(store: Store) -> None:
    manifest = replace(stored(store, 1), create_time_ms=12345)
    assert store.create_version(manifest).create_time_ms == 12345


def test_a_version_without_probe_has_none(store: Store) -> None:
    store.create_version(replace(stored(store, 1), probe=None))
    assert store.manifest(MODEL, 1).probe is None


def test_models_do_not_see_one_another(store: Store) -> None:
    made(store, 1, model="a")
    made(store, 1, model="b")
    made(store, 2, model="b")
    assert (store.models(), store.versions("a"), store.versions("b")) == (["a", "b"], [1], [1, 2])
    assert store.versions("c") == []


def test_an_epoch_alone_makes_no_model(store: Store) -> None:
    store.acquire_epoch("a", "host:1")
    assert store.models() == []


def test_an_absent_version_says_which_exist(store: Store) -> None:
    with pytest.raises(NotFound, match="it has none yet") as raised:
        store.manifest(MODEL, 1)
    assert reason(raised) == "VERSION_NOT_FOUND"
    made(store, 1)
    made(store, 2)
    with pytest.raises(NotFound, match="versions 1 to 2 exist"):
        store.manifest(MODEL, 3)


def test_a_manifest_that_has_a_version_is_refused(store: Store) -> None:
    with pytest.raises(InvalidArgument) as raised:
        store.create_version(replace(stored(store, 1), version=1))
    assert reason(raised) == "BAD_MANIFEST"


def test_a_version_whose_blobs_are_missing_is_refused(store: Store) -> None:
    store.put_blob(PROGRAM)
    with pytest.raises(FailedPrecondition, match="2 blobs") as raised:
        store.create_version(unstored(1))
    assert reason(raised) == "MISSING_BLOBS"
    assert store.versions(MODEL) == []


def test_a_repeated_commit_returns_the_version_it_made(store: Store, opened: Opener) -> None:
    manifest = stored(store, 1, commit_id="run:1")
    first = store.create_version(manifest)
    made(store, 2)
    assert opened().create_version(manifest) == first
    assert store.versions(MODEL) == [1, 2]


def test_commits_without_an_id_are_each_their_own(store: Store) -> None:
    manifest = stored(store, 1)
    made_two = [store.create_version(manifest) for _ in range(2)]
    assert [one.version for one in made_two] == [1, 2]
    assert made_two[0].commit_id != made_two[1].commit_id


def test_a_commit_id_belongs_to_one_model(store: Store) -> None:
    for model in ("a", "b"):
        made_one = store.create_version(stored(store, 1, model=model, commit_id="run:1"))
        assert (made_one.model, made_one.version) == (model, 1)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"epoch": -1}, "BAD_MANIFEST"),
        ({"step": 2**63}, "BAD_MANIFEST"),
        ({"commit_id": "x" * 513}, "BAD_TEXT"),
        ({"producer": "\ud800"}, "BAD_TEXT"),
        ({"metrics": {"": 1.0}}, "BAD_TEXT"),
        ({"probe": Probe(digest(b""), 0, float("nan"), 0.0)}, "BAD_MANIFEST"),
        ({"probe": Probe(digest(b""), 0, 0.0, -1.0)}, "BAD_MANIFEST"),
        ({"probe": Probe("golden", 0, 0.0, 0.0)}, "BAD_DIGEST"),
        ({"tensors": (TensorEntry("w", "FP32", (2,), digest(b""), 9),)}, "BAD_MANIFEST"),
        ({"tensors": (TensorEntry("w", "FP32", (-2,), digest(b""), 8),)}, "BAD_SHAPE"),
        ({"tensors": (TensorEntry("w", "BYTES", (2,), digest(b""), 8),)}, "BAD_MANIFEST"),
        ({"tensors": (TensorEntry("", "FP32", (2,), digest(b""), 8),)}, "BAD_TEXT"),
        ({"tensors": (TensorEntry("w", "INT8", (0,), digest(b""), 0),) * 2}, "BAD_MANIFEST"),
        ({"deltas": (STEP,)}, "BAD_MANIFEST"),
        ({"tensors": (BASED,)}, "BAD_MANIFEST"),
        ({"tensors": (BASED,), "deltas": (replace(STEP, base_version=0),)}, "BAD_MANIFEST"),
        ({"tensors": (BASED,), "deltas": (STEP, STEP)}, "BAD_MANIFEST"),
        ({"tensors": (BASED,), "deltas": (replace(STEP, size_bytes=-1),)}, "BAD_MANIFEST"),
        ({"tensors": (BASED,), "deltas": (replace(STEP, digest="x"),)}, "BAD_DIGEST"),
        ({"tensors": (BASED,), "deltas": LONG}, "BAD_MANIFEST"),
        ({"tensors": (replace(BASED, base_digest="x"),), "deltas": (STEP,)}, "BAD_DIGEST"),
        (
            {"tensors": (replace(BASED, base_digest=BASED.digest),), "deltas": (STEP,)},
            "BAD_MANIFEST",
        ),
    ],
)
def test_a_malformed_manifest_is_refused(
    store: Store, change: dict[str, object], expected: str
) -> None:
    with pytest.raises(InvalidArgument) as raised:
        store.create_version(replace(stored(store, 1), **change))
    assert reason(raised) == expected
    assert store.versions(MODEL) == []


def test_a_version_of_deltas_needs_its_bases_and_steps(store: Store) -> None:
    manifest = replace(stored(store, 1), tensors=(BASED,), deltas=(STEP,))
    with pytest.raises(FailedPrecondition) as raised:
        store.create_version(manifest)
    assert reason(raised) == "MISSING_BLOBS"
    # Not the bytes of the tensor as it becomes: those are what the delta makes.
    for content in (b"delta", weights(1)):
        store.put_blob(content)
    made_one = store.create_version(manifest)
    assert store.manifest(MODEL, 1) == made_one
    assert made_one.deltas == (STEP,)


def test_tensors_are_kept_ordered_by_name(store: Store) -> None:
    first, second = (stored(store, 1).tensors[0], renamed(unstored(1), "bias").tensors[0])
    store.create_version(replace(unstored(1), tensors=(first, second)))
    names = [tensor.name for tensor in store.manifest(MODEL, 1).tensors]
    assert names == ["bias", "layer.weight"]


# Revisions and waiting


def test_the_revision_grows_with_every_change_and_nothing_else(store: Store) -> None:
    seen = [store.revision(MODEL)]
    for change in (
        lambda: made(store, 1),
        lambda: made(store, 2),
        lambda: move(store, 2, 0),
        lambda: move(store, 1, 1, held=True),
        lambda: store.move_channel(MODEL, "canary", 1, expected_revision=0, reason="set"),
    ):
        change()
        seen.append(store.revision(MODEL))
    assert seen[0] == 0
    assert seen == sorted(set(seen))
    store.acquire_epoch(MODEL, "trainer")
    made(store, 1, model="another")
    assert store.revision(MODEL) == seen[-1]


def test_waiting_returns_at_once_when_something_changed_already(store: Store) -> None:
    made(store, 1)
    revision = store.revision(MODEL)
    for seen in (0, revision + 5):
        assert store.wait_for_change(MODEL, seen, 60.0) == revision


def test_waiting_ends_with_its_timeout(store: Store) -> None:
    made(store, 1)
    revision = store.revision(MODEL)
    assert store.wait_for_change(MODEL, revision, 0.05) == revision
    assert store.wait_for_change("unknown", 0, 0.01) == 0


@pytest.mark.parametrize("known", [False, True])
def test_a_change_wakes_who_waits(store: Store, opened: Opener, known: bool) -> None:
    if known:
        made(store, 1)
    seen = store.revision(MODEL)
    reader, woken = opened(), []
    waiting = threading.Thread(target=lambda: woken.append(reader.wait_for_change(MODEL, seen, 60)))
    waiting.start()
    made(store, 2)
    waiting.join(30)
    assert woken == [seen + 1]


def test_closing_wakes_who_waits(store: Store) -> None:
    made(store, 1)
    seen, woken = store.revision(MODEL), []
    waiting = threading.Thread(target=lambda: woken.append(store.wait_for_change(MODEL, seen, 60)))
    waiting.start()
    store.close()
    store.close()
    waiting.join(30)
    assert woken == [seen]


# Names


@pytest.mark.parametrize("name", BAD_NAMES)
def test_malformed_names_are_refused(store: Store, name: str) -> None:
    calls = [
        lambda: store.versions(name),
        lambda: store.manifest(name, 1),
        lambda: store.epoch(name),
        lambda: store.acquire_epoch(name, "owner"),
        lambda: store.create_version(unstored(1, model=name)),
        lambda: store.channel(name, "stable"),
        lambda: store.channel(MODEL, name),
        lambda: store.channels(name),
        lambda: store.move_channel(name, "stable", 1, expected_revision=0, reason="x"),
        lambda: store.move_channel(MODEL, name, 1, expected_revision=0, reason="x"),
        lambda: store.revision(name),
        lambda: store.wait_for_change(name, 0, 0.0),
    ]
    for call in calls:
        with pytest.raises(InvalidArgument) as raised:
            call()
        assert reason(raised) == "BAD_NAME"


def test_an_owner_needs_words(store: Store) -> None:
    with pytest.raises(InvalidArgument):
        store.acquire_epoch(MODEL, "")


def test_a_store_names_itself(store: Store, store_url: str) -> None:
    assert store.url == store_url
    assert store_url in repr(store)


def test_a_store_closes_as_a_context(opened: Opener) -> None:
    with opened() as store:
        made(store, 1)
    assert opened().versions(MODEL) == [1]
