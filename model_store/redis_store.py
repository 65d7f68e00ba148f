"""redis://HOST:PORT/DB: a store in one Redis server, or in a primary that fails over.

Decides how a record's change becomes one step: the client reads, decides by `model_store.rules`
and encodes; a script writes only if what was read still stands, else the client begins again.
Notifications only wake readers; what they then read is the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from threading import Event
from time import monotonic
from typing import Any
from uuid import uuid4

from chassis.clock import wall_time_ms
from chassis.errors import DataLoss, NotFound
from chassis.failpoints import failpoint
from chassis.names import checked_name
from chassis.telemetry import logger
from model_store import redis_scripts as scripts
from model_store import rules
from model_store.blobs import at_once
from model_store.digests import hex_part
from model_store.record_bytes import (
    decode_channel,
    decode_manifest,
    encode_channel,
    encode_manifest,
)
from model_store.records import Blob, Channel, Lease, Manifest, Removal
from model_store.redis_blobs import RedisBlobs
from model_store.redis_connection import RedisConnection
from model_store.redis_scripts import model_key
from model_store.rollout import Rollout
from model_store.store import Store

log = logger(__name__)


class RedisStore(Store):
    """Connects at the first call.

    Every method may also raise FailedPrecondition (STORE_EVICTS), where the server's
    maxmemory-policy is not noeviction, and DataLoss (STORE_LOST_DATA), where the server no longer
    holds what this object found at its first call. With `wait_replicas` in the URL, acquire_epoch,
    create_version and move_channel may raise Unavailable (STORE_NOT_REPLICATED): what was asked for
    is done and seen by readers, and a failover now may lose it.
    """

    def __init__(self, url: str) -> None:
        self._connection = RedisConnection(url)
        self._blobs = RedisBlobs(self._connection)
        self._closed = Event()
        self.url = self._connection.address

    def put_blob(self, content: bytes | memoryview) -> str:
        return self._blobs.put(content)

    def missing_blobs(self, digests: Sequence[str]) -> set[str]:
        return self._blobs.missing(digests)

    def read_blob(self, digest: str) -> bytes:
        return self._blobs.read(digest)

    def read_blob_into(
        self, digest: str, target: memoryview, before: Callable[[int], None] = at_once
    ) -> None:
        self._blobs.read_into(digest, target, before)

    def blobs(self) -> Iterator[Blob]:
        return self._blobs.entries()

    def delete_blob(self, digest: str, *, unused_since_ms: int) -> bool:
        return self._blobs.delete(digest, unused_since_ms)

    def acquire_epoch(self, model: str, owner: str) -> int:
        rules.check_text(owner, what="owner")
        state = model_key(checked_name(model, what="model"), "state")
        # Run twice after a lost answer it skips an epoch, and epochs need only grow.
        _, epoch = self._connection.commit(
            scripts.ACQUIRE_EPOCH,
            [state],
            (owner,),
            done=f"an epoch of model {model!r} is handed out",
            again="acquire another one",
        )
        return int(epoch)

    def epoch(self, model: str) -> int:
        return self._counter(model, "epoch")

    def create_version(self, manifest: Manifest) -> Manifest:
        rules.check_manifest(manifest)
        manifest = replace(manifest, commit_id=manifest.commit_id or uuid4().hex)
        failpoint("store.manifest.before_commit")
        made = None
        while made is None:
            made = self._try_create(manifest)
        failpoint("store.manifest.after_commit")
        return made

    def _try_create(self, manifest: Manifest) -> Manifest | None:
        """None where another writer took the version meanwhile."""
        model = manifest.model
        last = self._counter(model, "last")
        # A number that a failover lost was seen, and perhaps served: it is never another version's.
        version = max(last, manifest.parent) + 1
        made = rules.assigned(manifest, version, wall_time_ms())
        word, *details = self._run_create(made)
        if word == "OK":
            if manifest.parent > last:
                _tell_lost(made, last)
            return made
        if word == "DONE":
            return self.manifest(model, int(details[0]))
        if word == "EPOCH":
            rules.check_epoch(manifest.epoch, int(details[0]), model=model)
        if word == "MISSING":
            digests = manifest.digests()
            rules.check_blobs([digests[int(index)] for index in details])
        return None

    def _run_create(self, made: Manifest) -> list[Any]:
        return self._connection.commit(
            scripts.CREATE_VERSION,
            [
                *_model_keys(made.model, "state", "changes", "manifests", "commits"),
                scripts.MODELS,
                scripts.BLOBS,
                *(scripts.blob_key(hex_part(name)) for name in made.digests()),
            ],
            (made.epoch, made.version, made.commit_id, encode_manifest(made), made.model),
            done=f"a version of model {made.model!r} is made",
            again="the same commit_id finds it",
        )

    def manifest(self, model: str, version: int) -> Manifest:
        key = model_key(checked_name(model, what="model"), "manifests")
        record = self._connection.ask("HGET", key, version)
        if record is None:
            raise self._not_found(model, version)
        return decode_manifest(record, model, version)

    def versions(self, model: str) -> list[int]:
        key = model_key(checked_name(model, what="model"), "manifests")
        return sorted(int(version) for version in self._connection.ask("HKEYS", key))

    def models(self) -> list[str]:
        return sorted(model.decode() for model in self._connection.ask("SMEMBERS", scripts.MODELS))

    def channel(self, model: str, name: str) -> Channel | None:
        record = self._channel_record(model, name)
        return None if record is None else decode_channel(record, model, name)

    def _channel_record(self, model: str, name: str) -> bytes | None:
        key = model_key(checked_name(model, what="model"), "channels")
        record: bytes | None = self._connection.ask("HGET", key, checked_name(name, what="channel"))
        return record

    def channels(self, model: str) -> list[Channel]:
        key = model_key(checked_name(model, what="model"), "channels")
        records = self._connection.ask("HGETALL", key)
        return [decode_channel(records[name], model, name.decode()) for name in sorted(records)]

    def move_channel(
        self,
        model: str,
        name: str,
        version: int,
        *,
        expected_revision: int,
        epoch: int = 0,
        held: bool = False,
        rollout: Rollout | None = None,
        reason: str,
    ) -> Channel:
        move = rules.Move(
            model, name, version, expected_revision, epoch, held, reason, wall_time_ms(), rollout
        )
        rules.check_move(move)
        failpoint("store.channel.before_commit")
        channel = None
        while channel is None:
            channel = self._try_move(move)
        failpoint("store.channel.after_commit")
        return channel

    def _try_move(self, move: rules.Move) -> Channel | None:
        """None where another writer moved the channel meanwhile; the rules then say so."""
        if move.version not in self.versions(move.model):
            raise self._not_found(move.model, move.version)
        record = self._channel_record(move.model, move.name)
        current = None if record is None else decode_channel(record, move.model, move.name)
        channel = rules.moved(current, move, self.epoch(move.model))
        word, *details = self._connection.commit(
            scripts.MOVE_CHANNEL,
            _model_keys(move.model, "state", "changes", "manifests", "channels"),
            (move.epoch, move.version, move.name, record or b"", encode_channel(channel)),
            done=f"channel {move.name!r} of model {move.model!r} points to version {move.version}",
            again="read the channel before it is moved again",
        )
        if word == "EPOCH":
            rules.check_epoch(move.epoch, int(details[0]), model=move.model)
        return channel if word == "OK" else None

    def _not_found(self, model: str, version: int) -> NotFound:
        return rules.version_not_found(
            model, version, self.versions(model), self._counter(model, "last")
        )

    def lease(self, model: str, version: int, holder: str, ttl_s: float) -> Lease:
        rules.check_lease(holder, ttl_s)
        word, *details = self._connection.run(
            scripts.LEASE_VERSION,
            _model_keys(checked_name(model, what="model"), "manifests", "leases"),
            (version, _lease_field(version, holder), round(ttl_s * 1000)),
        )
        if word == "VERSION":
            raise self._not_found(model, version)
        return Lease(version, holder, int(details[0]))

    def release(self, model: str, version: int, holder: str) -> None:
        key = model_key(checked_name(model, what="model"), "leases")
        self._connection.ask("HDEL", key, _lease_field(version, holder))

    def leases(self, model: str) -> list[Lease]:
        keys = _model_keys(checked_name(model, what="model"), "leases")
        _, *flat = self._connection.run(scripts.LIVE_LEASES, keys, ())
        fields = (field.decode().partition(":") for field in flat[::2])
        found = [
            Lease(int(version), holder, int(ends))
            for (version, _, holder), ends in zip(fields, flat[1::2], strict=True)
        ]
        return sorted(found, key=lambda lease: (lease.version, lease.holder))

    def remove_versions(self, model: str, versions: Sequence[int]) -> Removal:
        checked_name(model, what="model")
        asked = set(versions) & set(self.versions(model))
        # Ahead of the tries, which must be shorter than the time between two publications.
        commits = {version: self._commit_of(model, version) for version in asked}
        failpoint("gc.before_commit")
        removal = None
        while removal is None:
            removal = self._try_remove(model, commits)
        failpoint("gc.after_commit")
        return removal

    def _try_remove(self, model: str, commits: Mapping[int, str]) -> Removal | None:
        """None where the model changed or was leased meanwhile."""
        revision = self.revision(model)
        existing = set(self.versions(model))
        asked = commits.keys() & existing
        if not asked:
            return Removal((), {})
        needed = rules.needed_versions(self.channels(model), self.leases(model), existing)
        going = sorted(asked - needed.keys())
        word, *_ = self._connection.run(
            scripts.REMOVE_VERSIONS,
            [*_model_keys(model, "state", "manifests", "commits", "leases"), scripts.MODELS],
            (revision, model, *(part for one in going for part in (one, commits[one]))),
        )
        if word != "OK":
            return None
        return Removal(tuple(going), {v: needed[v] for v in sorted(asked - {*going})})

    def _commit_of(self, model: str, version: int) -> str:
        """Of a version whose manifest is damaged no commit is known; it counts no more anyway."""
        try:
            return self.manifest(model, version).commit_id
        except (DataLoss, NotFound):
            return ""

    def revision(self, model: str) -> int:
        return self._counter(model, "revision")

    def _counter(self, model: str, name: str) -> int:
        key = model_key(checked_name(model, what="model"), "state")
        return int(self._connection.ask("HGET", key, name) or 0)

    def wait_for_change(self, model: str, seen: int, timeout_s: float) -> int:
        give_up_at = monotonic() + timeout_s
        changes = model_key(checked_name(model, what="model"), "changes")
        while not self._closed.is_set():
            revision = self.revision(model)
            remaining = give_up_at - monotonic()
            if revision != seen or remaining <= 0:
                return revision
            self._connection.wait_for_entry(changes, f"{seen}-0", remaining)
        # close found this thread's connection in use.
        self._connection.close()
        return seen

    def close(self) -> None:
        self._closed.set()
        self._connection.close()


def _tell_lost(made: Manifest, last: int) -> None:
    log.warning(
        "model store went back",
        model=made.model,
        message=(
            f"this training has published version {made.parent}, and the newest of the store was "
            f"{last}: a failover lost the versions between, or this is another store; the next one "
            f"is version {made.version}"
        ),
    )


def _model_keys(model: str, *parts: str) -> list[str]:
    return [model_key(model, part) for part in parts]


def _lease_field(version: int, holder: str) -> str:
    return f"{version}:{holder}"
