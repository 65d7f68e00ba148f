"""One thread that runs forward passes on one device, a batch at a time, in order of arrival.

Decides on which slot a batch runs (pinned at the last moment, so that it gets the newest version),
and that work nobody waits for any more is skipped. The event loop hands work over through a queue
and gets it back through `call_soon_threadsafe`; a forward pass never runs on the loop.
How much may wait is bounded by `Admission`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from queue import SimpleQueue

import torch

from chassis.errors import DeadlineExceeded, FailedPrecondition, HeadraceError, Unavailable
from inference_service.buffers import raw_of, value_of
from inference_service.faults import answer_to
from inference_service.slot import Slot
from inference_service.work import Work


class Executor:
    """The device's thread."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name=f"execute-{device}", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Starts the thread; finished work is handed to `loop`."""
        self._loop = loop
        self._thread.start()

    def submit(self, work: Work) -> None:
        """Queues work; `work.on_done` is called on the loop when it has ended."""
        work.queued_at = time.monotonic()
        self._queue.put(work)

    def stop(self, timeout_s: float) -> None:
        """Ends the thread after the work queued so far; blocks for at most `timeout_s`."""
        self._queue.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        loop = self._loop
        assert loop is not None
        with torch.inference_mode():
            while (work := self._queue.get()) is not None:
                self._execute(work)
                # The loop is closed only when the process ends before its queue has.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(work.on_done, work)

    def _execute(self, work: Work) -> None:
        now = time.monotonic()
        work.queue_s = now - work.queued_at
        if work.abandoned:
            work.error = Unavailable("ABANDONED", "the caller is gone")
            return
        if now > work.deadline:
            work.error = DeadlineExceeded(
                "DEADLINE_EXCEEDED", "the deadline passed while the batch waited for the device"
            )
            return
        slot = work.served.slots.pin(work.version)
        if slot is None:
            work.error = _not_loaded(work)
            return
        try:
            self._forward(work, slot, now)
        except BaseException as error:
            # Also what is no Exception: a model that exits must not take the thread with it.
            work.error = answer_to(
                error, model=work.served.name, version=slot.version, rows=work.inputs.rows
            )
        finally:
            work.served.slots.release(slot)

    def _forward(self, work: Work, slot: Slot, started: float) -> None:
        work.version_text = slot.version_text
        instance = slot.instance
        assert instance is not None
        device = self._device
        asked = work.inputs
        inputs = [
            value_of(raw, spec.datatype, shape, device)
            for raw, spec, shape in zip(asked.raw, work.signature.inputs, asked.shapes, strict=True)
        ]
        ready = time.monotonic()
        outputs = instance.run(inputs)
        if device.type != "cpu":
            torch.cuda.synchronize(device)
        computed = time.monotonic()
        specs = work.signature.outputs
        work.outputs = [
            (specs[index], tuple(outputs[index].shape), raw_of(outputs[index]))
            for index in work.wanted
        ]
        work.input_s = ready - started
        work.infer_s = computed - ready
        work.output_s = time.monotonic() - computed


def _not_loaded(work: Work) -> HeadraceError:
    serving = work.served.slots.serving
    return FailedPrecondition(
        "VERSION_NOT_LOADED",
        f"version {work.version} of model {work.served.name!r} is not loaded here; version "
        f"{serving.version if serving is not None else 0} serves",
        field="model_version",
    )
