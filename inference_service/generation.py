"""Answers of decoupled models under way: one step each in turn, on the device's thread.

Decides whose step is next, that a generation rests while its caller has not taken its responses,
and when one ends before the model says so: its caller is gone, its deadline has passed, or it has
taken so long that a load would wait too long for its slot. A step is never interrupted.
A generation keeps the slot it began on, so that one version computes the whole answer.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

from chassis.errors import DeadlineExceeded, HeadraceError, Unavailable
from chassis.telemetry import logger
from headrace.values import Value
from inference_service.buffers import raw_of
from inference_service.faults import answer_to
from inference_service.slot import Slot
from inference_service.work import Response, Work

log = logger(__name__)


class Generation:
    """One request's answer under way; it has a pin on `slot`, which `end` gives back."""

    def __init__(
        self, work: Work, slot: Slot, responses: Iterator[list[Value]], *, give_up_at: float
    ) -> None:
        self.work = work
        self.give_up_at = give_up_at
        self._slot = slot
        self._responses = responses
        self._produced = 0

    @property
    def ahead(self) -> int:
        """Responses that its caller has not taken yet."""
        return self._produced - self.work.responses_taken

    @property
    def ends_at(self) -> float:
        """When it is ended, whatever the model has left to say."""
        return min(self.work.deadline, self.give_up_at)

    def step(self) -> Response | None:
        """Computes the next response; None after the last. Raises what a step does."""
        started = time.monotonic()
        values = next(self._responses, None)
        computed = time.monotonic()
        self.work.infer_s += computed - started
        if values is None:
            return None
        specs = self.work.signature.outputs
        outputs = [
            (specs[index], tuple(values[index].shape), raw_of(values[index]))
            for index in self.work.wanted
        ]
        ended = time.monotonic()
        self.work.output_s += ended - computed
        response = Response(self._produced, outputs, computed - started, ended - computed)
        self._produced += 1
        return response

    def why_over(self, now: float) -> HeadraceError | None:
        """Why it must not go on."""
        if self.work.abandoned:
            return Unavailable("ABANDONED", "the caller is gone")
        if now > self.work.deadline:
            return DeadlineExceeded(
                "DEADLINE_EXCEEDED",
                f"the deadline passed after {self._produced} responses",
            )
        if now > self.give_up_at:
            return DeadlineExceeded(
                "GENERATION_TOO_LONG",
                f"the answer took longer than this server allows; it ended after "
                f"{self._produced} responses",
            )
        return None

    def error_of(self, error: BaseException) -> HeadraceError:
        """The status of a step that raised."""
        return answer_to(
            error,
            model=self.work.served.name,
            version=self._slot.version,
            rows=self.work.inputs.rows,
        )

    def end(self) -> None:
        """Closes the model's generator and gives the slot back."""
        instance = self._slot.instance
        try:
            close = getattr(self._responses, "close", None)
            if close is not None:
                close()
            if instance is not None:
                # The step that ended it may still run.
                instance.handover.after_use()
        except BaseException as error:
            # A model that will not be closed: its answer has ended all the same.
            log.warning("a generator did not close", model=self.work.served.name, exc_info=error)
        finally:
            self.work.served.slots.release(self._slot)


class Generations:
    """Those of one device. Only the device's thread touches it.

    `most_ahead` bounds the responses of a generation that its caller has not taken.
    """

    def __init__(self, *, most_ahead: int) -> None:
        self._most_ahead = most_ahead
        self._ready: deque[Generation] = deque()
        self._resting: dict[Work, Generation] = {}

    def __len__(self) -> int:
        return len(self._ready) + len(self._resting)

    def add(self, generation: Generation) -> None:
        """A new one; its first step comes after those of all others."""
        self._ready.append(generation)

    def wake(self, work: Work) -> None:
        """Its caller took a response, or is gone."""
        generation = self._resting.pop(work, None)
        if generation is not None:
            self.put_back(generation)

    def take(self) -> Generation | None:
        """The one whose step is next, if any can make one; followed by `put_back` or its end."""
        return self._ready.popleft() if self._ready else None

    def put_back(self, generation: Generation) -> None:
        """Its step is done; it rests while too many responses are not taken."""
        if generation.ahead < self._most_ahead or generation.work.abandoned:
            self._ready.append(generation)
        else:
            self._resting[generation.work] = generation

    def take_overdue(self, now: float) -> list[Generation]:
        """Resting ones whose time is over; the others find out at their next step."""
        overdue = [g for g in self._resting.values() if g.ends_at < now]
        for generation in overdue:
            del self._resting[generation.work]
        return overdue

    def take_all(self) -> list[Generation]:
        """Every one, to be ended."""
        found = [*self._ready, *self._resting.values()]
        self._ready.clear()
        self._resting.clear()
        return found

    def wait_s(self, now: float) -> float | None:
        """Seconds until something is to be done here; None until another is added or woken."""
        if self._ready:
            return 0.0
        if not self._resting:
            return None
        return max(0.0, min(g.ends_at for g in self._resting.values()) - now)
