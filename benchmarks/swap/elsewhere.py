"""A trainer in a process of its own, so that what it computes does not hold up who measures.

It has the lowest priority: a real one has a machine of its own, and what matters beside requests is
what replicas do with its versions.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

import torch

from benchmarks.swap.ballast import Ballast, Weights, fill
from headrace.publisher import Publisher
from model_store import open_store

# A new process imports torch, exports the program and publishes once to each channel.
READY_S = 120.0
EVERY_S = 1.0
LOWEST_PRIORITY = 19
_CONTEXT = multiprocessing.get_context("spawn")


class Elsewhere:
    """Publishes versions of `mib`, one a second, to the channel it is told; at first to none.

    A context manager; on entry it has published one version to each of `channels`.
    """

    def __init__(self, store: str, mib: int, channels: tuple[str, ...]) -> None:
        self._told, self._heard = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(
            target=_train, args=(store, mib, channels, self._heard), daemon=True
        )

    def __enter__(self) -> Self:
        self._process.start()
        # This process's copy would keep the pipe open after the trainer's end.
        self._heard.close()
        try:
            if not self._told.poll(READY_S):
                raise RuntimeError(f"the trainer did not publish within {READY_S:.0f} s")
            self._told.recv()
        except EOFError:
            raise RuntimeError("the trainer ended before it published") from None
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        # It may have ended by itself.
        with suppress(BrokenPipeError):
            self._told.send(None)
        self._process.join(READY_S)
        self._process.kill()

    def publish_to(self, channel: str) -> None:
        """From now on to this channel; "" rests."""
        self._told.send(channel)


def _train(store_url: str, mib: int, channels: tuple[str, ...], heard: Connection) -> None:
    os.nice(LOWEST_PRIORITY)
    torch.set_num_threads(1)
    model, module = Ballast(mib), Weights(mib).eval()
    with open_store(store_url) as store:
        # One trainer: a second epoch would fence the first.
        epoch = store.acquire_epoch(model.name, "benchmark")
        publishers = {
            # Every word changes: deltas would only be tried.
            channel: Publisher(store, model=model, channel=channel, epoch=epoch, deltas="off")
            for channel in channels
        }
        # The step is the seed of the weights, so every version is a new one.
        step = max(store.versions(model.name), default=0)
        for publisher in publishers.values():
            step += 1
            publisher.publish(fill(module, step), step=step)
        heard.send("ready")
        channel, due = "", 0.0
        while True:
            rest = max(0.0, due - time.monotonic()) if channel else None
            if heard.poll(rest):
                channel, due = heard.recv(), time.monotonic()
                if channel is None:
                    return
                continue
            step += 1
            publishers[channel].publish(fill(module, step), step=step)
            due += EVERY_S
