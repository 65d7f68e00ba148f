"""kill -9 of a publisher at every step: the store stays whole, the publication can be repeated."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_store import Store, open_store
from model_store.publication import publish
from model_store.redis_scripts import IDENTITY, model_key
from tests.model_store.processes import WriterProcess
from tests.model_store.raw import RawFiles, RawObjects, RawRedis, raw_of
from tests.model_store.samples import MODEL, assert_readable, assert_whole, stored
from tests.model_store.writer import Order
from tests.s3_server import S3Server

pytestmark = pytest.mark.system

# Where the publisher of version 2 dies; the versions there are then, and where the channel stands.
IN_FILES = [
    ("store.blob.before_fsync", [1], 1),
    ("store.blob.before_rename", [1], 1),
    ("store.blob.after_rename", [1], 1),
    ("publish.before_manifest", [1], 1),
    ("store.manifest.before_fsync", [1], 1),
    ("store.manifest.before_link", [1], 1),
    ("store.manifest.after_link", [1, 2], 1),
    ("publish.after_manifest", [1, 2], 1),
    ("store.channel.before_fsync", [1, 2], 1),
    ("store.channel.before_rename", [1, 2], 1),
    ("store.channel.after_rename", [1, 2], 2),
    ("publish.after_channel", [1, 2], 2),
]
IN_REDIS = [
    ("store.blob.before_commit", [1], 1),
    ("store.blob.after_commit", [1], 1),
    ("publish.before_manifest", [1], 1),
    ("store.manifest.before_commit", [1], 1),
    ("store.manifest.after_commit", [1, 2], 1),
    ("publish.after_manifest", [1, 2], 1),
    ("store.channel.before_commit", [1, 2], 1),
    ("store.channel.after_commit", [1, 2], 2),
    ("publish.after_channel", [1, 2], 2),
]
IN_S3 = [
    ("store.blob.before_commit", [1], 1),
    ("store.blob.after_commit", [1], 1),
    ("publish.before_manifest", [1], 1),
    ("store.manifest.after_archive", [1], 1),
    ("store.line.before_commit@1", [1], 1),
    ("store.line.after_commit@1", [1, 2], 1),
    ("publish.after_manifest", [1, 2], 1),
    ("store.line.before_commit@2", [1, 2], 1),
    ("store.line.after_commit@2", [1, 2], 2),
    ("publish.after_channel", [1, 2], 2),
]
# Where the collector of all versions dies; the versions that are left then.
COLLECTED_IN_FILES = [
    ("gc.floor.before_fsync", [1, 2, 3, 4]),
    ("gc.floor.before_link", [1, 2, 3, 4]),
    ("gc.floor.after_link", [1, 2, 3, 4]),
    ("gc.before_unlink", [1, 2, 3, 4]),
    ("gc.after_unlink@1", [2, 3, 4]),
    ("gc.after_unlink@4", []),
    ("gc.after_remove", []),
    ("gc.after_commit_name@1", []),
    ("gc.after_commit_name@4", []),
    ("gc.after_versions", []),
    ("gc.before_blob@1", []),
    ("gc.after_blob@1", []),
    ("gc.after_blob@5", []),
]
COLLECTED_IN_REDIS = [
    ("gc.before_commit", [1, 2, 3, 4]),
    ("gc.after_commit", []),
    ("gc.after_versions", []),
    ("gc.before_blob@1", []),
    ("gc.after_blob@1", []),
    ("gc.after_blob@5", []),
]
COLLECTED_IN_S3 = [
    ("store.line.before_commit", [1, 2, 3, 4]),
    ("store.line.after_commit", []),
    ("gc.after_commit_name@1", []),
    ("gc.after_manifest@1", []),
    ("gc.after_manifest@3", []),
    ("gc.after_versions", []),
    ("gc.before_blob@1", []),
    ("gc.after_blob@1", []),
    ("gc.after_blob@5", []),
]
COLLECTIONS = [
    (kind, *case)
    for kind, cases in (
        ("file", COLLECTED_IN_FILES),
        ("redis", COLLECTED_IN_REDIS),
        ("s3", COLLECTED_IN_S3),
    )
    for case in cases
]
CASES = [
    (kind, *case)
    for kind, cases in (("file", IN_FILES), ("redis", IN_REDIS), ("s3", IN_S3))
    for case in cases
]


@pytest.fixture(scope="module")
def writer(s3_server: S3Server) -> Iterator[WriterProcess]:
    # After the server, whose credentials it inherits.
    assert s3_server.endpoint
    with WriterProcess() as process:
        yield process


def killing(point: str) -> str:
    """The failpoint armed; what follows an @ counts its passes."""
    name, at, passes = point.partition("@")
    return f"{name}=kill{at}{passes}"


def channel_version(store: Store) -> int:
    channel = store.channel(MODEL, "stable")
    assert channel is not None
    return channel.version


@pytest.mark.parametrize(
    ("store_url", "point", "versions", "channel"),
    CASES,
    indirect=["store_url"],
    ids=[f"{kind}-{point}" for kind, point, *_ in CASES],
)
def test_a_killed_publisher_leaves_a_whole_store(
    store: Store,
    store_url: str,
    writer: WriterProcess,
    point: str,
    versions: list[int],
    channel: int,
) -> None:
    publish(store, stored(store, 1, commit_id="step-1"))
    seen = store.revision(MODEL)
    writer.start(Order(store_url, first=2, armed=killing(point)))
    while not writer.ended():
        # Read beside the writer, at whatever it has just done.
        assert_whole(store)
        store.wait_for_change(MODEL, store.revision(MODEL), 0.005)
    assert writer.exit_code() == -signal.SIGKILL
    assert assert_whole(store) == versions
    assert channel_version(store) == channel
    assert (store.wait_for_change(MODEL, seen, 0.0) != seen) == (versions == [1, 2])
    # The same publication again, by another process of the same run, and then the next one.
    assert writer.run(Order(store_url, first=2, count=2)) == 0
    assert assert_whole(store) == [1, 2, 3]
    assert channel_version(store) == 3


@pytest.mark.parametrize(
    ("store_url", "point"),
    [
        ("file", "store.manifest.after_link"),
        ("redis", "store.manifest.after_commit"),
        ("s3", "store.line.after_commit"),
    ],
    indirect=["store_url"],
)
def test_a_reader_learns_of_a_version_whose_publisher_was_killed(
    store: Store, store_url: str, writer: WriterProcess, point: str
) -> None:
    seen = store.revision(MODEL)
    assert writer.run(Order(store_url, first=1, armed=f"{point}=kill")) == -signal.SIGKILL
    assert store.wait_for_change(MODEL, seen, 60.0) == seen + 1
    assert store.versions(MODEL) == [1]


def test_a_publisher_killed_between_commit_and_version_made_nothing(
    tmp_path: Path, file_url: str
) -> None:
    store = open_store(file_url)
    publish(store, stored(store, 1, commit_id="step-1"))
    store.create_version(stored(store, 2, commit_id="step-2"))
    # What is left if a kill falls between the two links of version 2.
    (tmp_path / "store" / "models" / MODEL / "versions" / f"{2:012d}").unlink()
    other = publish(store, stored(store, 3, commit_id="step-3")).manifest
    assert (other.version, other.step) == (2, 3)
    again = publish(store, stored(store, 2, commit_id="step-2")).manifest
    assert (again.version, again.step) == (3, 2)
    assert publish(store, stored(store, 2, commit_id="step-2")).manifest == again


@pytest.mark.parametrize(
    ("store_url", "point", "versions"),
    COLLECTIONS,
    indirect=["store_url"],
    ids=[f"{kind}-{point}" for kind, point, *_ in COLLECTIONS],
)
def test_a_killed_collector_is_taken_up_by_the_next(
    store: Store, store_url: str, writer: WriterProcess, point: str, versions: list[int]
) -> None:
    for step in range(1, 5):
        store.create_version(stored(store, step, commit_id=f"step-{step}"))
    seen = store.revision(MODEL)
    order = Order(store_url, first=0, count=0, collect=True, armed=killing(point))
    assert writer.run(order) == -signal.SIGKILL
    assert assert_readable(store) == versions
    assert store.revision(MODEL) == seen
    # Whatever it left half done is done by the next, in another process.
    assert writer.run(Order(store_url, first=0, count=0, collect=True)) == 0
    assert (store.models(), list(store.blobs())) == ([], [])
    # A commit that was removed makes a version again, under a number of its own.
    assert store.create_version(stored(store, 2, commit_id="step-2")).version == 5
    assert store.revision(MODEL) == seen + 1
    # Names that say nothing go with the model's next collection.
    assert writer.run(Order(store_url, first=0, count=0, collect=True)) == 0
    assert (list(store.blobs()), leftovers(store_url)) == ([], [])


def leftovers(url: str) -> list[str]:
    """Names in the store that only versions have."""
    raw = raw_of(url)
    if isinstance(raw, RawFiles):
        model = raw.root / "models" / MODEL
        return [path.name for part in ("versions", "commits") for path in (model / part).iterdir()]
    if isinstance(raw, RawObjects):
        return [
            name
            for part in ("versions", "commits")
            for name in raw.objects.names(f"models/{MODEL}/{part}")
        ]
    assert isinstance(raw, RawRedis)
    kept = {model_key(MODEL, part) for part in ("state", "changes")} | {IDENTITY}
    keys = {key.decode() for key in raw.client.scan_iter()}
    return sorted(keys - kept)
