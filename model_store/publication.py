"""The order of a publication, and the way back.

Decides that blobs come before the manifest and the manifest before the channel; that a publisher
never moves a held channel nor moves one backwards; and which version a rollback means. Making the
blobs and the manifest from a module is left to the SDK.
"""

from __future__ import annotations

from dataclasses import dataclass

from chassis.errors import Aborted, FailedPrecondition, NotFound
from chassis.failpoints import failpoint
from model_store import rules
from model_store.records import PUBLISH, Channel, Manifest
from model_store.store import Store

# Each lost attempt means that another writer moved the channel; this many in a row is a defect.
_ATTEMPTS = 100


@dataclass(frozen=True, slots=True)
class Publication:
    """What a publish call did.

    `manifest` is the version made; `channel` is the channel as it stands; `moved` is False where
    the channel was left alone, because it is held or already at a later version.
    """

    manifest: Manifest
    channel: Channel
    moved: bool


def publish(store: Store, manifest: Manifest, *, channel: str = "stable") -> Publication:
    """Makes `manifest` a version, whose blobs must be stored already, and moves `channel` to it.

    Repeating a call with the same commit_id completes what the first began.
    Raises what `Store.create_version` and `Store.move_channel` raise, less CHANNEL_MOVED.
    """
    failpoint("publish.before_manifest")
    made = store.create_version(manifest)
    failpoint("publish.after_manifest")
    publication = _advance(store, made, channel)
    failpoint("publish.after_channel")
    return publication


def _advance(store: Store, made: Manifest, name: str) -> Publication:
    for _ in range(_ATTEMPTS):
        current = store.channel(made.model, name)
        if current is not None and current.version == made.version:
            return Publication(made, current, moved=True)
        if current is not None and (current.held or current.version > made.version):
            return Publication(made, current, moved=False)
        channel = _try_move(store, current, made, name)
        if channel is not None:
            return Publication(made, channel, moved=True)
    raise Aborted("CHANNEL_MOVED", f"channel {name!r} moved at each of {_ATTEMPTS} attempts")


def _try_move(store: Store, current: Channel | None, made: Manifest, name: str) -> Channel | None:
    try:
        return store.move_channel(
            made.model,
            name,
            made.version,
            expected_revision=0 if current is None else current.revision,
            epoch=made.epoch,
            reason=PUBLISH,
        )
    except Aborted:
        return None


def rollback(
    store: Store, model: str, *, channel: str = "stable", to_version: int | None = None, reason: str
) -> Channel:
    """Points `channel` back, to `to_version` or to the latest earlier version it stood at and that
    was not removed, and holds it there: publishers leave it until somebody moves it by hand.

    Earlier means a smaller number, so that a rollback repeated goes on backwards and never returns
    to what it left.
    Raises NotFound (CHANNEL_NOT_FOUND, VERSION_NOT_FOUND), FailedPrecondition (NO_EARLIER_VERSION),
    InvalidArgument (BAD_NAME, BAD_TEXT).
    """
    current = existing_channel(store, model, channel)
    # Decided once: a version published while this call retries must not become its target.
    target = _earlier(store, current) if to_version is None else to_version
    for _ in range(_ATTEMPTS):
        try:
            return store.move_channel(
                model,
                channel,
                target,
                expected_revision=current.revision,
                held=True,
                reason=reason,
            )
        except Aborted:
            current = existing_channel(store, model, channel)
    raise Aborted("CHANNEL_MOVED", f"channel {channel!r} moved at each of {_ATTEMPTS} attempts")


def existing_channel(store: Store, model: str, name: str) -> Channel:
    """The channel as it stands. Raises NotFound (CHANNEL_NOT_FOUND)."""
    current = store.channel(model, name)
    if current is None:
        raise NotFound(
            "CHANNEL_NOT_FOUND", f"model {model!r} has no channel {name!r}", field="channel"
        )
    return current


def _earlier(store: Store, channel: Channel) -> int:
    earlier = rules.earlier_version(channel, set(store.versions(channel.model)))
    if earlier is not None:
        return earlier
    raise FailedPrecondition(
        "NO_EARLIER_VERSION",
        f"channel {channel.name!r} of model {channel.model!r} has stood at no version before "
        f"{channel.version} that is still there",
    )
