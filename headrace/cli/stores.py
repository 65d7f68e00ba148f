"""The model store as commands see it: which URL, and records as rows."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.output import Row

if TYPE_CHECKING:
    from model_store.records import Channel, Manifest
    from model_store.store import Store

StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="Model store URL: file:///path, redis://host:port/db. Default: HEADRACE_STORE.",
    ),
]


def opened(url: str | None) -> Store:
    """Opens the store that the flag or HEADRACE_STORE names. Raises InvalidArgument (NO_STORE)."""
    from chassis.errors import InvalidArgument
    from chassis.settings import default_store
    from model_store import open_store

    named = url or default_store()
    if named is None:
        raise InvalidArgument(
            "NO_STORE", "no model store is named: pass --store URL or set HEADRACE_STORE"
        )
    return open_store(named)


def known_model(store: Store, model: str) -> None:
    """Raises NotFound (MODEL_NOT_FOUND), which names the closest one there is."""
    from chassis.errors import NotFound
    from chassis.settings import nearest

    models = store.models()
    if model not in models:
        hint = nearest(model, models) if models else "it holds none"
        raise NotFound("MODEL_NOT_FOUND", f"model {model!r} is not in this store: {hint}")


def manifest_row(manifest: Manifest) -> Row:
    """A version as one row."""
    return {
        "version": manifest.version,
        "step": manifest.step,
        "epoch": manifest.epoch,
        "metrics": dict(manifest.metrics),
        "bytes": sum(entry.size_bytes for entry in manifest.tensors),
        "created": shown_time(manifest.create_time_ms),
        "producer": manifest.producer,
    }


def channel_version(store: Store, model: str, name: str) -> int:
    """The version that a channel names. Raises NotFound (CHANNEL_NOT_FOUND)."""
    from chassis.errors import NotFound

    channel = store.channel(model, name)
    if channel is None:
        raise NotFound("CHANNEL_NOT_FOUND", f"model {model!r} has no channel {name!r}")
    return channel.version


def stored_row(manifest: Manifest) -> Row:
    """What a reader without any version of the model would read: tensors, then deltas, in bytes.

    `deltas` are the steps from the anchor, as the version each applies to and its size.
    """
    full = {entry.stored_digest: entry.size_bytes for entry in manifest.tensors}
    return {
        "full_bytes": sum(full.values()),
        "delta_bytes": sum(step.size_bytes for step in manifest.deltas),
        "deltas": {str(step.base_version): step.size_bytes for step in manifest.deltas},
    }


def channel_row(channel: Channel) -> Row:
    """A channel as one row."""
    newest = channel.history[-1] if channel.history else None
    return {
        "channel": channel.name,
        "version": channel.version,
        "held": channel.held,
        "revision": channel.revision,
        "moved": shown_time(newest.move_time_ms) if newest else "",
        "reason": newest.reason if newest else "",
    }


def shown_time(time_ms: int) -> str:
    """UTC, to the second."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
