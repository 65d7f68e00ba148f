"""What every store refuses, and how a channel moves: the decisions that all stores share.

Pure: what is stored and what is asked come in, a record or an error goes out. Making read, check
and write one step (a lock, a script) is each store's part.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from chassis.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound
from chassis.names import checked_name
from chassis.tensors import ELEMENT_BYTES, element_count
from model_store.digests import checked_digest
from model_store.records import Channel, ChannelMove, Lease, Manifest, Probe, TensorEntry
from model_store.rollout import Rollout, check_rollout

HISTORY_MOVES = 32
MAX_TEXT = 512
# A reader without any version takes them all; a publisher makes far fewer.
MAX_DELTAS = 64
MAX_TTL_S = 24 * 3600
SIGNATURE_BYTES = 64
# Far below where Redis's scripts, which count in doubles, no longer tell two numbers apart.
MAX_VERSION = 2**48
_INT64_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Move:
    """A wish to point a channel at a version; `Store.move_channel` gives the meanings."""

    model: str
    name: str
    version: int
    expected_revision: int
    epoch: int
    held: bool
    reason: str
    move_time_ms: int
    rollout: Rollout | None = None


def check_manifest(manifest: Manifest) -> None:
    """Refuses a manifest that no store may hold.

    Raises InvalidArgument (BAD_NAME, BAD_DIGEST, BAD_MANIFEST, BAD_SHAPE, BAD_TEXT).
    """
    checked_name(manifest.model, what="model")
    if manifest.version != 0:
        raise _bad("version", f"must be 0, the store assigns it; got {manifest.version}")
    for name in ("epoch", "parent", "step", "create_time_ms", "step_time_ms"):
        _check_count(getattr(manifest, name), name)
    if manifest.parent > MAX_VERSION:
        raise _bad("parent", f"must be a version, {MAX_VERSION} or less; got {manifest.parent}")
    check_text(manifest.commit_id, what="commit_id", may_be_empty=True)
    check_text(manifest.producer, what="producer", may_be_empty=True)
    for metric in manifest.metrics:
        check_text(metric, what="metric name")
    _check_blob(manifest.program.digest, manifest.program.size_bytes, "program")
    if manifest.probe is not None:
        _check_probe(manifest.probe)
    if manifest.config is not None:
        _check_blob(manifest.config.digest, manifest.config.size_bytes, "config")
    if manifest.signed_by is not None:
        check_text(manifest.signed_by.key_id, what="key_id")
        if len(manifest.signed_by.signature) != SIGNATURE_BYTES:
            raise _bad("signed_by", f"a signature has {SIGNATURE_BYTES} bytes")
    _check_tensors(manifest.tensors)
    _check_deltas(manifest)


def check_text(text: str, *, what: str, may_be_empty: bool = False) -> None:
    """Refuses words that are empty, longer than 512 or not Unicode.

    Raises InvalidArgument (BAD_TEXT).
    """
    if len(text) > MAX_TEXT or not (text or may_be_empty):
        raise InvalidArgument(
            "BAD_TEXT", f"{what} must hold 1 to {MAX_TEXT} characters, got {len(text)}", field=what
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument("BAD_TEXT", f"{what} is not valid Unicode", field=what) from error


def _check_tensors(tensors: Sequence[TensorEntry]) -> None:
    # Manifest keeps its tensors ordered by name, so that equal names are neighbours.
    for before, after in pairwise(tensors):
        if before.name == after.name:
            raise _bad("tensors", f"names tensor {after.name!r} twice")
    for tensor in tensors:
        _check_tensor(tensor)


def _check_tensor(tensor: TensorEntry) -> None:
    check_text(tensor.name, what="tensor name")
    what = f"tensor {tensor.name!r}"
    if tensor.datatype not in ELEMENT_BYTES:
        raise _bad("tensors", f"{what} has datatype {tensor.datatype!r}, of no fixed size")
    _check_blob(tensor.digest, tensor.size_bytes, what)
    expected = element_count(tensor.shape) * ELEMENT_BYTES[tensor.datatype]
    if tensor.size_bytes != expected:
        raise _bad(
            "tensors",
            f"{what} says {tensor.size_bytes} bytes; {tensor.datatype} of shape "
            f"{list(tensor.shape)} needs {expected}",
        )


def _check_deltas(manifest: Manifest) -> None:
    if len(manifest.deltas) > MAX_DELTAS:
        raise _bad("deltas", f"{len(manifest.deltas)} follow each other; {MAX_DELTAS} may")
    for step in manifest.deltas:
        _check_blob(step.digest, step.size_bytes, "delta")
    bases = [0, *(step.base_version for step in manifest.deltas)]
    if any(before >= after for before, after in pairwise(bases)) or bases[-1] > _INT64_MAX:
        raise _bad("deltas", f"base versions {bases[1:]} do not ascend from 1")
    based = [tensor for tensor in manifest.tensors if tensor.base_digest]
    if bool(based) is not bool(manifest.deltas):
        raise _bad(
            "deltas", f"{len(manifest.deltas)} make up {len(based)} tensors: both or neither"
        )
    for tensor in based:
        checked_digest(tensor.base_digest)
        if tensor.base_digest == tensor.digest:
            raise _bad("tensors", f"tensor {tensor.name!r} is its own base")


def _check_probe(probe: Probe) -> None:
    _check_blob(probe.digest, probe.size_bytes, "probe")
    for tolerance in (probe.absolute_tolerance, probe.relative_tolerance):
        if not (math.isfinite(tolerance) and tolerance >= 0):
            raise _bad("probe", f"tolerance {tolerance} is not a finite number of 0 or more")


def _check_blob(name: str, size_bytes: int, what: str) -> None:
    checked_digest(name)
    _check_count(size_bytes, f"{what} size_bytes")


def _check_count(count: int, what: str) -> None:
    if not 0 <= count <= _INT64_MAX:
        raise _bad(what, f"must be 0 or more and fit 64 bits, got {count}")


def _bad(field: str, message: str) -> InvalidArgument:
    return InvalidArgument("BAD_MANIFEST", f"manifest {field}: {message}", field=field)


def check_epoch(epoch: int, newest: int, *, model: str) -> None:
    """Fences: 0 is an unfenced writer, else only the newest epoch may write.

    Raises FailedPrecondition (STALE_EPOCH, UNKNOWN_EPOCH): the latter is an epoch that this store
    never handed out, so the store has lost data or is another one.
    """
    if 0 < epoch < newest:
        raise FailedPrecondition(
            "STALE_EPOCH",
            f"epoch {epoch} of model {model!r} is over: epoch {newest} took its place",
            field="epoch",
        )
    if epoch > newest:
        raise FailedPrecondition(
            "UNKNOWN_EPOCH",
            f"epoch {epoch} of model {model!r} was not handed out by this store; its newest is "
            f"{newest}",
            field="epoch",
        )


def check_blobs(missing: Collection[str]) -> None:
    """Raises FailedPrecondition (MISSING_BLOBS) unless `missing` is empty."""
    if missing:
        raise FailedPrecondition(
            "MISSING_BLOBS",
            f"{len(missing)} blobs that the manifest names are not in the store, "
            f"such as {min(missing)}: put them first",
        )


def version_not_found(model: str, version: int, existing: Sequence[int], newest: int) -> NotFound:
    """The error for a version that does not exist; `existing` ascends, `newest` may be removed."""
    if not existing:
        known = "none is left" if newest else "it has none yet"
    elif existing[-1] - existing[0] + 1 == len(existing):
        known = f"versions {existing[0]} to {existing[-1]} exist"
    else:
        known = "the newest are " + ", ".join(str(number) for number in existing[-8:])
    absent = f"model {model!r} has no version {version}"
    if 1 <= version <= newest:
        # Numbers are handed out in ascending order. A failover may lose the version of one, or skip
        # some: nothing here tells that from a removal.
        absent = f"version {version} of model {model!r} was removed or lost"
    return NotFound("VERSION_NOT_FOUND", f"{absent}: {known}", field="version")


def check_lease(holder: str, ttl_s: float) -> None:
    """Refuses a lease that is wrong whatever is stored.

    Raises InvalidArgument (BAD_TEXT, BAD_TTL).
    """
    check_text(holder, what="holder")
    if not 0 < ttl_s <= MAX_TTL_S:
        raise InvalidArgument(
            "BAD_TTL", f"a lease lasts up to {MAX_TTL_S} seconds, not {ttl_s}", field="ttl_s"
        )


def living(leases: Iterable[Lease], now_ms: int) -> list[Lease]:
    """The leases that have not expired, sorted by version and holder."""
    found = (lease for lease in leases if lease.expire_time_ms > now_ms)
    return sorted(found, key=lambda lease: (lease.version, lease.holder))


def earlier_version(channel: Channel, existing: Collection[int]) -> int | None:
    """Where a rollback goes: the latest version of the history that is smaller and still exists."""
    for move in reversed(channel.history):
        if move.version < channel.version and move.version in existing:
            return move.version
    return None


def needed_versions(
    channels: Sequence[Channel], leases: Iterable[Lease], existing: Collection[int]
) -> dict[int, str]:
    """The versions that may not be removed, each with the reason."""
    needed: dict[int, str] = {}
    for lease in leases:
        needed[lease.version] = f"leased by {lease.holder}"
    for channel in channels:
        earlier = earlier_version(channel, existing)
        if earlier is not None:
            needed[earlier] = f"a rollback of channel {channel.name} would reach it"
    for channel in channels:
        needed[channel.version] = f"channel {channel.name} points to it"
    return needed


def check_move(move: Move) -> None:
    """Refuses a wish that is wrong whatever is stored.

    Raises InvalidArgument (BAD_NAME, BAD_MOVE, BAD_TEXT, BAD_ROLLOUT).
    """
    checked_name(move.model, what="model")
    checked_name(move.name, what="channel")
    check_text(move.reason, what="reason")
    if move.rollout is not None:
        check_rollout(move.rollout)
    for field in ("version", "expected_revision", "epoch"):
        if not 0 <= getattr(move, field) <= _INT64_MAX:
            raise InvalidArgument("BAD_MOVE", f"{field} must be 0 or more", field=field)


def moved(current: Channel | None, move: Move, newest_epoch: int) -> Channel:
    """The channel after `move`; that the version exists is checked by the store.

    Raises FailedPrecondition (STALE_EPOCH, UNKNOWN_EPOCH), Aborted (CHANNEL_MOVED).
    """
    # The channel's own epoch counts too: after a failover it may have outlived the newest one.
    channel_epoch = 0 if current is None else current.epoch
    check_epoch(move.epoch, max(newest_epoch, channel_epoch), model=move.model)
    revision = 0 if current is None else current.revision
    if revision != move.expected_revision:
        raise Aborted(
            "CHANNEL_MOVED",
            f"channel {move.name!r} of model {move.model!r} is at revision {revision}, not "
            f"{move.expected_revision}: read it again",
        )
    past = () if current is None else current.history
    epoch = move.epoch or channel_epoch
    position = ChannelMove(move.version, revision + 1, move.move_time_ms, move.reason, epoch)
    return Channel(
        model=move.model,
        name=move.name,
        version=move.version,
        revision=revision + 1,
        epoch=epoch,
        held=move.held,
        history=(*past, position)[-HISTORY_MOVES:],
        rollout=move.rollout,
    )


def assigned(manifest: Manifest, version: int, now_ms: int) -> Manifest:
    """The manifest as the version it becomes."""
    return replace(manifest, version=version, create_time_ms=manifest.create_time_ms or now_ms)
