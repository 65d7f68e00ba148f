"""Whether a version that is not loaded exists at all, asked of the store without stopping the loop.

A caller that pins a version learns the difference between "not here" and "nowhere".
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from chassis.errors import HeadraceError, NotFound
from inference_service.work import Work
from model_store.store import Store

LOOKUP_TIMEOUT_S = 2.0


class VersionLookup:
    """Asks the store in a thread of its own."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="version-lookup")

    async def settle(self, work: Work) -> None:
        """Turns VERSION_NOT_LOADED into NotFound (VERSION_NOT_FOUND) if the store lacks it.

        A store that does not answer in time leaves the error as it is.
        """
        if work.error is None or work.error.reason != "VERSION_NOT_LOADED":
            return
        loop = asyncio.get_running_loop()
        reading = loop.run_in_executor(
            self._threads, self._store.manifest, work.served.name, work.version
        )
        try:
            await asyncio.wait_for(reading, LOOKUP_TIMEOUT_S)
        except NotFound as error:
            work.error = NotFound(error.reason, error.message, field="model_version")
        except (HeadraceError, TimeoutError):
            return

    def close(self) -> None:
        """Ends the thread once its call returns."""
        self._threads.shutdown(wait=False, cancel_futures=True)
