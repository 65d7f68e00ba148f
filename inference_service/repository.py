"""The models of a replica: those of its settings, and what loads and unloads made of them.

Decides when a model becomes one that is served (with its first version, so that a load never makes
a ready replica unready), when it ceases to be one (before its running work ends, so that none
follows), and that a load that fails leaves everything as it was. Directives given here live as long
as the process; what is to survive a restart stands in the settings or in the store's channels.

Owned by the event loop. Loads of one model take turns; one whose caller went away goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from chassis.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    HeadraceError,
    NotFound,
    Unavailable,
)
from chassis.telemetry import logger
from inference_service import metrics
from inference_service.architecture import Architecture
from inference_service.following import Following
from inference_service.served import Directive, ServedModel
from inference_service.served_snapshot import LoadFailure
from inference_service.settings import DEFAULT_CHANNEL, Followed, ReplicaSettings
from inference_service.stored import StoredVersions, Target
from inference_service.trust import Trust
from model_store.blobs import Blobs
from model_store.store import Store

log = logger(__name__)

# A loader ends between two steps of a load, a watcher after its wait for the store.
JOIN_S = 5.0
# For releasing leases at the end; what a store that does not answer keeps expires by itself.
RELEASE_S = 2.0


@dataclass(frozen=True, slots=True)
class Absent:
    """Why a model of the store is not served here: the load that failed, or None if unloaded."""

    failure: LoadFailure | None


class Repository:
    """`models` are those served, by name: a live view for whoever answers for them.

    `on_change` is told when one came or went, and `on_first_flip`, in a loader's thread, when a
    model of the settings got its first version.
    """

    def __init__(
        self,
        settings: ReplicaSettings,
        store: Store,
        blobs: Blobs,
        architecture: Architecture,
        *,
        on_change: Callable[[], None],
        on_first_flip: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._store = store
        self._blobs = blobs
        self._architecture = architecture
        self._trust = Trust(settings.trusted_keys)
        self._on_change = on_change
        self._stored = StoredVersions(store)
        self._configured = {item.model: item.channel for item in settings.followed()}
        self._followings = {
            item.model: self._following(item, on_first_flip) for item in settings.followed()
        }
        self.models: dict[str, ServedModel] = {
            name: following.served for name, following in self._followings.items()
        }
        # Models on their way to their first version; not served yet.
        self.arriving: dict[str, ServedModel] = {}
        self.absent: dict[str, Absent] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # Stopped, and perhaps not ended yet.
        self._leaving: list[Following] = []
        self._closed = False

    def start(self) -> None:
        """Begins to follow the models of the settings."""
        for following in self._followings.values():
            metrics.watch_model(following.served)
            following.start()

    async def newest_stored(self) -> dict[str, list[int]]:
        """Versions in the store by model, the newest ones, ascending. Raises Unavailable and what
        the store raises."""
        return await self._stored.newest(self._settings.index_versions)

    async def load(self, model: str, version: int, channel: str, remaining_s: float | None) -> None:
        """Serves `version`, or where it is 0 what the channel names; returns once it serves.

        `channel` "" is the one of the settings. What served before goes on until then, and for
        good where the load fails. After `remaining_s` the caller is gone, the load goes on.

        Raises NotFound (MODEL_NOT_FOUND, VERSION_NOT_FOUND, CHANNEL_NOT_FOUND), FailedPrecondition
        and Unavailable with the reason why the version does not load, Unavailable (DRAINING,
        STORE_UNAVAILABLE), DeadlineExceeded (LOAD_TIMEOUT).
        """
        self._check_open()
        named = channel or self._configured.get(model, DEFAULT_CHANNEL)
        directive = Directive(named, version)
        target = await self._stored.target(model, directive)
        self._check_open()
        await self._see_through(self._load(model, directive, target), remaining_s)

    async def unload(self, model: str, remaining_s: float | None) -> None:
        """Serves the model no more; returns once its running work has ended and it let go.

        Repeating it does nothing. Raises NotFound (MODEL_NOT_FOUND), Unavailable (DRAINING),
        DeadlineExceeded (LOAD_TIMEOUT) where work runs on longer than the caller waits.
        """
        self._check_open()
        known = model in self.models or model in self.arriving
        if not known and model not in self.absent:
            raise NotFound(
                "MODEL_NOT_FOUND",
                f"model {model[:128]!r} is not served here; expected one of "
                + (", ".join(sorted(self.models)) or "none"),
                field="model_name",
            )
        await self._see_through(self._unload(model), remaining_s)

    def close(self) -> None:
        """Takes no more loads and unloads; those under way go on."""
        self._closed = True

    async def end_tasks(self) -> None:
        """Gives up what is under way."""
        self.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def stop(self) -> None:
        """Asks all threads to end, after `end_tasks`; closing the store wakes them."""
        self._stored.close()
        self._leaving += self._followings.values()
        for following in self._leaving:
            following.stop()

    def join_leases(self) -> None:
        """Blocks until the leases are released, after `stop` and before the store is closed."""
        until = time.monotonic() + RELEASE_S
        for following in self._leaving:
            following.join_leases(max(0.0, until - time.monotonic()))

    def join(self) -> None:
        """Blocks until the threads have ended."""
        for following in self._leaving:
            following.join(JOIN_S)

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("DRAINING", "the replica is shutting down")

    def _following(self, followed: Followed, on_first_flip: Callable[[], None]) -> Following:
        return Following(
            followed,
            self._store,
            self._blobs,
            self._architecture,
            self._settings,
            self._trust,
            on_first_flip=on_first_flip,
        )

    async def _see_through(self, change: Coroutine[Any, Any, None], wait_s: float | None) -> None:
        task = asyncio.create_task(change)
        self._tasks.add(task)
        task.add_done_callback(self._on_ended)
        try:
            async with asyncio.timeout(wait_s):
                await asyncio.shield(task)
        except TimeoutError:
            raise DeadlineExceeded(
                "DEADLINE_EXCEEDED", "the deadline passed first; the change goes on"
            ) from None

    def _on_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        # Looked at even where the caller is gone; a defect must not pass in silence.
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, HeadraceError):
            log.error("change of models failed", exc_info=error)

    async def _load(self, model: str, directive: Directive, target: Target) -> None:
        async with self._locks.setdefault(model, asyncio.Lock()):
            following = self._followings.get(model)
            if following is None:
                await self._bring(model, directive, target)
            else:
                await self._redirect(following.served, directive, target)
        log.info("model loaded", model=model, channel=directive.channel, pinned=directive.version)

    async def _bring(self, model: str, directive: Directive, target: Target) -> None:
        following = self._following(Followed(model, directive.channel), _nobody)
        served = following.served
        served.direct(directive, target.record)
        self.arriving[model] = served
        following.start()
        try:
            await self._wait_serving(served, target.version)
        except BaseException as error:
            following.stop()
            self._leaving.append(following)
            failure = served.progress().failure
            if failure is not None:
                self.absent[model] = Absent(failure)
            if isinstance(error, HeadraceError):
                await self._let_end(following)
            raise
        finally:
            del self.arriving[model]
        self.absent.pop(model, None)
        self._followings[model] = following
        self.models[model] = served
        metrics.watch_model(served)
        self._on_change()

    async def _redirect(self, served: ServedModel, directive: Directive, target: Target) -> None:
        before, record = served.directive, served.record
        served.direct(directive, target.record)
        try:
            await self._wait_serving(served, target.version)
        except BaseException:
            present = served.record
            if present is not None and present.name == before.channel and present.follows(record):
                record = present
            served.direct(before, record)
            raise

    async def _wait_serving(self, served: ServedModel, version: int) -> None:
        """Returns once `version`, or the one wanted by then, serves."""
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def wake() -> None:
            loop.call_soon_threadsafe(changed.set)

        unsubscribe = served.subscribe(wake)
        try:
            async with asyncio.timeout(self._settings.load_timeout_s):
                while not _serves(served, version):
                    await changed.wait()
                    changed.clear()
        except TimeoutError:
            raise DeadlineExceeded(
                "LOAD_TIMEOUT",
                f"version {version} of model {served.name!r} was not loaded within "
                f"{self._settings.load_timeout_s:g} s",
            ) from None
        finally:
            unsubscribe()

    async def _unload(self, model: str) -> None:
        async with self._locks.setdefault(model, asyncio.Lock()):
            following = self._followings.pop(model, None)
            if following is None:
                return
            del self.models[model]
            self.absent[model] = Absent(None)
            self._on_change()
            following.stop()
            self._leaving.append(following)
            await following.served.wait_idle()
            metrics.forget_model(model)
            await self._let_end(following)
            # Whoever still knows the model, such as its last batch, must not keep its weights.
            following.served.slots.clear()
        log.info("model unloaded", model=model)

    async def _let_end(self, following: Following) -> None:
        await asyncio.to_thread(following.join, JOIN_S)
        self._leaving.remove(following)


def _serves(served: ServedModel, version: int) -> bool:
    progress = served.progress()
    if progress.serving and progress.serving in (version, progress.wanted):
        return True
    failure = progress.failure
    if failure is None:
        return False
    message = f"version {failure.version} of model {served.name!r} does not load: {failure.message}"
    category = FailedPrecondition if failure.permanent else Unavailable
    raise category(failure.reason, message, field="model_name")


def _nobody() -> None:
    return
