"""Where a reader takes blobs from: a store, or something nearer that has them from one."""

from __future__ import annotations

from typing import Protocol


class Blobs(Protocol):
    """A `Store` is one."""

    def read_blob(self, digest: str) -> bytes:
        """The bytes, verified against their digest. Raises what `Store.read_blob` does."""
