"""Whose versions a replica loads: those signed by a trusted key, each under one number only.

Decides what is remembered so that a signed version cannot come back as a newer one: who may write
the store may copy an old manifest, with its signature, to a new number. Keys are read once, at
start. Without trusted keys every version of the store is loaded. Thread-safe.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

from chassis.errors import FailedPrecondition
from model_store.records import Manifest

# Commit ids kept per model, a hundred bytes each: a day of a version a second.
MOST_COMMITS = 100_000


class _Line:
    """What was seen of one model's versions."""

    def __init__(self) -> None:
        self._versions: OrderedDict[str, int] = OrderedDict()
        self._newest = 0
        self._epoch = 0

    def check(self, manifest: Manifest) -> None:
        """Refuses a commit seen under another number, and a later number of an earlier epoch."""
        what = f"version {manifest.version} of model {manifest.model!r}"
        known = self._versions.get(manifest.commit_id, manifest.version)
        if known != manifest.version:
            raise FailedPrecondition("REPLAYED", f"{what} is version {known} again")
        # A store hands out numbers in the order of epochs; 0 is a publisher that has none.
        if manifest.version > self._newest and 0 < manifest.epoch < self._epoch:
            raise FailedPrecondition(
                "REPLAYED",
                f"{what} was signed in epoch {manifest.epoch}, before version {self._newest} of "
                f"epoch {self._epoch}",
            )

    def remember(self, manifest: Manifest) -> None:
        """It was signed for its number."""
        self._versions[manifest.commit_id] = manifest.version
        self._versions.move_to_end(manifest.commit_id)
        if len(self._versions) > MOST_COMMITS:
            self._versions.popitem(last=False)
        self._newest = max(self._newest, manifest.version)
        self._epoch = max(self._epoch, manifest.epoch)


class Trust:
    """`key_files` are PEM files of public keys; none trusts everybody.

    Raises InvalidArgument (BAD_KEY), FailedPrecondition (NO_SIGNING).
    """

    def __init__(self, key_files: Sequence[str] = ()) -> None:
        self._verify = _verifier(key_files) if key_files else None
        self._lock = threading.Lock()
        self._lines: dict[str, _Line] = {}

    def check(self, manifest: Manifest) -> None:
        """Refuses what is not signed by a trusted key, or was signed for another version.

        Raises FailedPrecondition (UNSIGNED, UNTRUSTED_KEY, BAD_SIGNATURE, REPLAYED).
        """
        if self._verify is None:
            return
        self._verify(manifest)
        with self._lock:
            line = self._lines.setdefault(manifest.model, _Line())
            line.check(manifest)
            line.remember(manifest)


def _verifier(key_files: Sequence[str]) -> Callable[[Manifest], None]:
    # Here, so that a replica that trusts everybody needs no cryptography.
    from model_store.signing import load_trusted_keys, verify

    keys = load_trusted_keys(key_files)
    return lambda manifest: verify(manifest, keys)
