"""The loading half of a replica without its servers: a watcher and a loader over one store."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from inference_service.architecture import AS_IT_COMES, Architecture, Choice
from inference_service.engines.compiler import Compiler
from inference_service.leases import Leases
from inference_service.loader import Loader
from inference_service.served import ServedModel
from inference_service.served_snapshot import ServedSnapshot
from inference_service.settings import Followed
from inference_service.slot import Slot
from inference_service.staging import AT_ONCE, Staging
from inference_service.trust import Trust
from inference_service.watcher import Watcher
from model_store import Store, open_store

WITHIN_S = 20.0


class Follower:
    """Follows channel `stable` of a model; a context manager."""

    def __init__(
        self,
        url: str,
        *,
        model: str = "affine",
        allow_import_path: bool = True,
        staging: int = 2**20,
        trust: Trust | None = None,
        lease_s: float = 300.0,
        store: Store | None = None,
        choice: Choice = AS_IT_COMES,
        compiler: Compiler | None = None,
        precisions: Sequence[str] = ("published",),
        trial_budget_s: float = 120.0,
        one_slot: bool = False,
        max_stall_s: float = 10.0,
        candidate_channel: str = "canary",
        pace: Staging = AT_ONCE,
    ) -> None:
        self.store = store or open_store(url)
        self.first_flips = 0
        self.served = ServedModel(Followed(model, "stable"), self._on_first_flip, one_slot=one_slot)
        architecture = Architecture(
            self.store,
            torch.device("cpu"),
            allow_import_path=allow_import_path,
            compiler=compiler,
            staging=pace,
        )
        self.watcher = Watcher(
            self.store, self.served, poll_s=0.2, candidate_channel=candidate_channel
        )
        self.leases = Leases(self.store, self.served, ttl_s=lease_s)
        self.loader = Loader(
            self.store,
            self.store,
            self.served,
            architecture,
            self.leases,
            staging_bytes=staging,
            trust=trust,
            choice=choice,
            precisions=precisions,
            trial_budget_s=trial_budget_s,
            max_stall_s=max_stall_s,
        )

    def _on_first_flip(self) -> None:
        self.first_flips += 1

    def __enter__(self) -> Follower:
        self.leases.start()
        self.watcher.start()
        self.loader.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.watcher.stop()
        self.served.stop()
        self.leases.stop()
        self.leases.join(WITHIN_S)
        self.store.close()
        self.watcher.join(WITHIN_S)
        self.loader.join(WITHIN_S)

    def wait(
        self, condition: Callable[[ServedSnapshot], bool], *, within_s: float = WITHIN_S
    ) -> ServedSnapshot:
        """The first snapshot that meets `condition`."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            snapshot = self.served.snapshot()
            if condition(snapshot):
                return snapshot
            time.sleep(0.002)
        raise AssertionError(f"never happened; last seen {self.served.snapshot()}")

    def wait_serving(self, version: int) -> ServedSnapshot:
        return self.wait(lambda s: s.serving_version == version and not s.load_step)

    def wait_failed(self, version: int) -> ServedSnapshot:
        return self.wait(
            lambda s: bool(s.failures) and s.failures[0].version == version and not s.load_step
        )

    def answer(self, x: np.ndarray, version: int = 0) -> tuple[int, np.ndarray]:
        """The version that answered and its output, as the executor would compute it."""
        slot = self.served.slots.pin(version)
        assert slot is not None
        try:
            return slot.version, _forward(slot, x)
        finally:
            self.served.slots.release(slot)


def _forward(slot: Slot, x: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return slot.instance.run([torch.from_numpy(x)])[0].numpy()
