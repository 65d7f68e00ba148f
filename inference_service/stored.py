"""What the model store holds, asked without stopping the loop: for the index and for loads.

A thread of its own reads; a store that does not answer in time is Unavailable, never waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from chassis.errors import NotFound, Unavailable
from inference_service.served import Directive
from model_store.records import Channel
from model_store.store import Store

READ_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Target:
    """The version that a directive means now, and its channel as it stands, if there is one."""

    version: int
    record: Channel | None


class StoredVersions:
    """Reads the store. Owned by the event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="stored-versions")
        self._listing: asyncio.Task[dict[str, list[int]]] | None = None

    async def newest(self, count: int) -> dict[str, list[int]]:
        """The newest `count` versions, ascending, of every model.

        Callers at the same time share one reading. Raises what the store raises, and Unavailable
        (STORE_UNAVAILABLE).
        """
        if self._listing is None or self._listing.done():
            self._listing = asyncio.create_task(self._read(_newest, count))
            # Seen here too: its callers may all have gone away.
            self._listing.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(self._listing)

    async def target(self, model: str, directive: Directive) -> Target:
        """What `directive` means for the model.

        Raises NotFound (MODEL_NOT_FOUND, VERSION_NOT_FOUND, CHANNEL_NOT_FOUND), Unavailable
        (STORE_UNAVAILABLE) and what the store raises.
        """
        target: Target = await self._read(_target, model, directive)
        return target

    def close(self) -> None:
        """Ends the thread once its call returns."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _read(self, read: Callable[..., Any], *arguments: object) -> Any:
        loop = asyncio.get_running_loop()
        reading = loop.run_in_executor(self._threads, read, self._store, *arguments)
        try:
            return await asyncio.wait_for(reading, READ_TIMEOUT_S)
        except TimeoutError:
            raise Unavailable(
                "STORE_UNAVAILABLE", f"the model store did not answer within {READ_TIMEOUT_S:g} s"
            ) from None


def _newest(store: Store, count: int) -> dict[str, list[int]]:
    return {model: store.versions(model)[-count:] if count else [] for model in store.models()}


def _target(store: Store, model: str, directive: Directive) -> Target:
    versions = store.versions(model)
    if not versions:
        raise NotFound(
            "MODEL_NOT_FOUND",
            f"model {model!r} is not in the model store: no version of it was published",
            field="model_name",
        )
    channel = store.channel(model, directive.channel)
    if directive.version:
        if directive.version not in versions:
            shown = ", ".join(map(str, versions[-20:]))
            # Numbers are handed out one after another.
            state = "was removed from" if 0 < directive.version < versions[-1] else "is not in"
            raise NotFound(
                "VERSION_NOT_FOUND",
                f"version {directive.version} of model {model!r} {state} the model store; its "
                f"newest versions: {shown}",
                field="parameters[config]",
            )
        return Target(directive.version, channel)
    if channel is None:
        known = ", ".join(item.name for item in store.channels(model)[:20]) or "none"
        raise NotFound(
            "CHANNEL_NOT_FOUND",
            f"model {model!r} has no channel {directive.channel!r}; its channels: {known}",
            field="parameters[config]",
        )
    return Target(channel.version, channel)
