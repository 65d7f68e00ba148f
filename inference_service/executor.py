"""One thread that runs forward passes on one device: a batch, then a step of a generation, in turn.

Batches go in order of arrival; between two of them at most one generation (`generation`) makes one
step, so that a long answer holds up a batch by no more. The event loop hands work over through a
queue and gets it back through `call_soon_threadsafe`; a forward pass never runs on the loop.
On which slot work runs is decided in `placement`, how much may wait is bounded by `Admission`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import torch

from chassis.errors import HeadraceError, Unavailable
from headrace.values import Value
from inference_service.buffers import raw_of, value_of
from inference_service.device.device import Device
from inference_service.faults import answer_to
from inference_service.generation import Generation, Generations
from inference_service.instance import Instance
from inference_service.placement import leave, placed
from inference_service.sequences import states_of
from inference_service.served import ServedModel
from inference_service.slot import Slot
from inference_service.work import Work

DEFAULT_GENERATION_S = 60.0
DEFAULT_MOST_AHEAD = 4


@dataclass(frozen=True, slots=True)
class _Wake:
    """A response of `work` was taken, or its caller is gone."""

    work: Work


def _nobody(_seconds: float) -> None:
    return


@dataclass(frozen=True, slots=True)
class _Open:
    """The one slot of a model takes batches again."""

    served: ServedModel


class Executor:
    """The device's thread; `on_batch` hears in it how long each batch took, waiting included.

    A generation ends after `max_generation_s` and rests while `most_ahead` of its responses are
    not taken.
    """

    def __init__(
        self,
        device: Device,
        *,
        max_generation_s: float = DEFAULT_GENERATION_S,
        most_ahead: int = DEFAULT_MOST_AHEAD,
        on_batch: Callable[[float], None] = _nobody,
    ) -> None:
        self._device = device
        self._on_batch = on_batch
        self._max_generation_s = max_generation_s
        self._generations = Generations(most_ahead=most_ahead)
        self._queue: SimpleQueue[Work | _Wake | _Open | None] = SimpleQueue()
        # Work whose model's one slot is closed, in order of arrival.
        self._held: dict[ServedModel, list[Work]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        name = f"execute-{device.torch_device}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Starts the thread; finished work is handed to `loop`."""
        self._loop = loop
        self._thread.start()

    def submit(self, work: Work) -> None:
        """Queues work; `work.on_done` is called on the loop when it has ended.

        Before that, a decoupled model's responses go to `work.on_response` one by one.
        """
        work.queued_at = time.monotonic()
        self._queue.put(work)

    def wake(self, work: Work) -> None:
        """Tells that a response of `work` was taken or that it was abandoned."""
        self._queue.put(_Wake(work))

    def stop(self, timeout_s: float) -> None:
        """Ends the thread after the work queued so far; blocks for at most `timeout_s`.

        Generations under way end in an error.
        """
        self._queue.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        with self._device.inference.entered():
            self._work()

    def _work(self) -> None:
        while True:
            try:
                item = self._queue.get(timeout=self._generations.wait_s(time.monotonic()))
            except Empty:
                pass
            else:
                if item is None:
                    break
                self._take(item)
            self._step()
        for generation in self._generations.take_all():
            self._end(generation, Unavailable("STOPPING", "the server is stopping"))
        for work in [work for held in self._held.values() for work in held]:
            work.error = Unavailable("STOPPING", "the server is stopping")
            self._tell(work.on_done, work)

    def _take(self, item: Work | _Wake | _Open) -> None:
        if isinstance(item, _Wake):
            self._generations.wake(item.work)
        elif isinstance(item, _Open):
            for work in self._held.pop(item.served, []):
                self._start(work)
        else:
            self._start(item)

    def _start(self, work: Work) -> None:
        """Computes the work, or lets it wait while its model's one slot is closed."""
        guard = self._guarded(work)
        if work.served in self._held:
            return
        try:
            started = self._begun(work)
        finally:
            if guard is not None:
                work.served.slots.release(guard)
        if started is None:
            self._tell(work.on_done, work)
        else:
            self._generations.add(started)

    def _guarded(self, work: Work) -> Slot | None:
        """A pin for as long as the work is placed, so that the one slot does not close meanwhile.

        None with two slots, before the first version, and where the work now waits.
        """
        served = work.served
        while served.slots.one and served.slots.serving is not None:
            # Behind those that wait already: the order of a sequence is the order of arrival.
            if served not in self._held:
                guard = served.slots.pin()
                if guard is not None:
                    return guard
                if not served.slots.hold(lambda: self._queue.put(_Open(served))):
                    continue
            self._held.setdefault(served, []).append(work)
            return None
        return None

    def _begun(self, work: Work) -> Generation | None:
        """A generation that now has the slot, or None: the work is done."""
        now = time.monotonic()
        work.queue_s = now - work.queued_at
        try:
            slot = placed(work, now)
        except HeadraceError as error:
            work.error = error
            return None
        generation = None
        try:
            with torch.inference_mode():
                generation = self._computed(work, slot, now)
        except BaseException as error:
            # Also what is no Exception: a model that exits must not take the thread with it.
            work.error = answer_to(
                error, model=work.served.name, version=slot.version, rows=work.inputs.rows
            )
        finally:
            if generation is None:
                work.served.slots.release(slot)
                leave(work)
        return generation

    def _computed(self, work: Work, slot: Slot, started: float) -> Generation | None:
        work.version_text = slot.version_text
        instance = slot.instance
        assert instance is not None
        asked = work.inputs
        device = self._device.torch_device
        inputs = [
            value_of(raw, spec.datatype, shape, device)
            for raw, spec, shape in zip(asked.raw, work.signature.inputs, asked.shapes, strict=True)
        ]
        if work.sequence is not None:
            rows = asked.rows if work.signature.max_batch_size else 0
            inputs += states_of(work.sequence, work.signature.states, rows, device)
        ready = time.monotonic()
        work.input_s = ready - started
        instance.handover.before_use()
        if work.signature.decoupled:
            # Made here, begun at its first step.
            responses = instance.generate(inputs)
            give_up_at = started + self._max_generation_s
            return Generation(work, slot, responses, give_up_at=give_up_at)
        try:
            self._forward(work, instance, inputs, ready)
        finally:
            # Also of a batch that failed half way: what it asked for may still run.
            instance.handover.after_use()
        return None

    def _forward(self, work: Work, instance: Instance, inputs: list[Value], started: float) -> None:
        outputs = instance.run(inputs)
        # For this lane, not for the copies of a load beside it.
        instance.handover.wait()
        computed = time.monotonic()
        specs = work.signature.outputs
        work.outputs = [
            (specs[index], tuple(outputs[index].shape), raw_of(outputs[index]))
            for index in work.wanted
        ]
        work.states = outputs[len(specs) :]
        work.infer_s = computed - started
        ended = time.monotonic()
        work.output_s = ended - computed
        self._on_batch(ended - work.queued_at)

    def _step(self) -> None:
        """One step of the generation whose turn it is; those that rested too long end."""
        now = time.monotonic()
        for overdue in self._generations.take_overdue(now):
            self._end(overdue, overdue.why_over(now))
        generation = self._generations.take()
        if generation is None:
            return
        why_over = generation.why_over(now)
        if why_over is not None:
            self._end(generation, why_over)
            return
        try:
            # Around each step anew: a model may leave a mode of its own switched on at a yield.
            with torch.inference_mode():
                response = generation.step()
        except BaseException as error:
            self._end(generation, generation.error_of(error))
            return
        if response is None:
            self._end(generation, None)
            return
        self._tell(generation.work.on_response, generation.work, response)
        self._generations.put_back(generation)

    def _end(self, generation: Generation, error: HeadraceError | None) -> None:
        generation.end()
        generation.work.error = error
        leave(generation.work)
        self._tell(generation.work.on_done, generation.work)

    def _tell(self, call: Callable[..., None], *arguments: Any) -> None:
        loop = self._loop
        assert loop is not None
        # The loop is closed only when the process ends before its queue has.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(call, *arguments)
