"""Follows one model's channel in a thread of its own and tells the served model what it wants.

Beside it the channel of candidates, where there is one. The store's notification is a hint, the
poll is the truth. Decides whether what the store says may be believed: a channel that went back in
revision or epoch is a store that lost data or a deposed master, and what serves stays.
"""

from __future__ import annotations

import threading

from chassis.errors import HeadraceError
from chassis.telemetry import logger
from inference_service.served import ServedModel
from model_store.records import Channel
from model_store.store import Store

log = logger(__name__)

PAUSE_AFTER_ERROR_S = 0.5
# A reason and a sentence; without words all is well.
Words = tuple[str, str]
WELL: Words = ("", "")


class Watcher:
    """One thread; `start` starts it, `stop` asks it to end. `candidate_channel` "" is none."""

    def __init__(
        self, store: Store, served: ServedModel, *, poll_s: float, candidate_channel: str = ""
    ) -> None:
        self._store = store
        self._served = served
        self._poll_s = poll_s
        self._candidate_channel = candidate_channel
        self._stopping = threading.Event()
        self._error = ""
        self._irregular = ""
        self._thread = threading.Thread(
            target=self._watch, name=f"watch-{served.name}", daemon=True
        )

    def start(self) -> None:
        """Starts to follow the channel."""
        self._thread.start()

    def stop(self) -> None:
        """Asks the thread to end; closing the store wakes it."""
        self._stopping.set()

    def join(self, timeout_s: float) -> None:
        """Waits for the thread's end."""
        self._thread.join(timeout_s)

    def _watch(self) -> None:
        seen = -1
        while not self._stopping.is_set():
            try:
                # The revision first: a move between the two reads is then seen as a change.
                seen = self._store.wait_for_change(self._served.name, seen, self._poll_s)
                followed = self._look()
                # After it: what is wanted does not wait for a candidate.
                candidate = self._look_at_candidate()
                self._report(*(followed if followed != WELL else candidate))
            except Exception as error:
                self._report(*_words(error), error)
                self._stopping.wait(PAUSE_AFTER_ERROR_S)
            self._report_irregularity()

    def _look(self) -> Words:
        channel = self._store.channel(self._served.name, self._served.directive.channel)
        acted_on = self._served.record
        if channel is None or channel == acted_on:
            return WELL
        if not _same_line(channel, acted_on) or channel.follows(acted_on):
            self._served.on_channel(channel)
            return WELL
        return _went_back(channel, acted_on)

    def _look_at_candidate(self) -> Words:
        # Whoever follows the candidates' channel itself has no candidate beside it.
        if self._candidate_channel in ("", self._served.directive.channel):
            return WELL
        channel = self._store.channel(self._served.name, self._candidate_channel)
        acted_on = self._served.candidate_record
        if channel is None or channel == acted_on:
            return WELL
        if not channel.follows(acted_on):
            return _went_back(channel, acted_on)
        self._served.on_candidate_channel(channel)
        return WELL

    def _report(self, reason: str, message: str, error: Exception | None = None) -> None:
        """Tells the log once, and the status as long as it lasts; without words: all is well."""
        text = f"{reason}: {message}" if reason else ""
        if text and text != self._error and not self._stopping.is_set():
            known = error is None or isinstance(error, HeadraceError)
            log.warning(
                "model store is not followed",
                model=self._served.name,
                reason=reason,
                message=message,
                exc_info=None if known else error,
            )
        self._error = text
        self._served.on_store_error(text)

    def _report_irregularity(self) -> None:
        """Tells the log once when publications become unusual; the status tells by itself."""
        found = self._served.irregularity
        reason = found.reason if found is not None else ""
        if found is not None and reason != self._irregular and not self._stopping.is_set():
            log.warning(
                "publications are not as they were",
                model=self._served.name,
                reason=reason,
                message=found.message,
            )
        self._irregular = reason


def _same_line(channel: Channel, acted_on: Channel | None) -> bool:
    # Another channel was named while this one was read: the served model knows which counts.
    return acted_on is None or acted_on.name == channel.name


def _went_back(channel: Channel, acted_on: Channel | None) -> Words:
    return (
        "CHANNEL_WENT_BACK",
        f"channel {channel.name!r} of model {channel.model!r} went back from "
        f"{_position(acted_on)} to {_position(channel)}; the store has lost data or "
        "a fenced writer moved it",
    )


def _position(channel: Channel | None) -> str:
    if channel is None:
        return "nothing"
    return f"version {channel.version} (revision {channel.revision}, epoch {channel.epoch})"


def _words(error: Exception) -> Words:
    if isinstance(error, HeadraceError):
        return error.reason, error.message
    return "INTERNAL", f"the model store failed: {type(error).__name__}"
