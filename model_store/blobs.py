"""Where a reader takes blobs from: a store, or something nearer that has them from one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from chassis.errors import DataLoss

# Of what is read into memory that somebody else gave: between two parts its giver may wait.
PART_BYTES = 4 * 1024 * 1024


def at_once(_size: int) -> None:
    """Waits for nothing."""


class Blobs(Protocol):
    """A `Store` is one."""

    def read_blob(self, digest: str) -> bytes:
        """The bytes, verified against their digest. Raises what `Store.read_blob` does."""

    def read_blob_into(
        self, digest: str, target: memoryview, before: Callable[[int], None] = at_once
    ) -> None:
        """Fills `target`, bytes, with the blob. See `Store.read_blob_into`."""


def place(content: bytes, target: memoryview, digest: str) -> None:
    """Copies a whole blob into `target`. Raises DataLoss (SIZE_MISMATCH)."""
    if len(content) != len(target):
        raise DataLoss(
            "SIZE_MISMATCH",
            f"blob {digest} holds {len(content)} bytes; expected are {len(target)}",
        )
    target[:] = content
