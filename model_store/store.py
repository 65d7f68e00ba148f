"""What a model store is: the contract that every store keeps and every reader and writer relies on.

Decides meanings only. How bytes become durable and how writers are kept apart is each store's part;
`model_store.rules` holds what they refuse, `model_store.publication` the order of a publication.

Blocking and thread-safe; asyncio callers use threads. Every method may raise Unavailable
(STORE_UNAVAILABLE), ResourceExhausted (STORE_FULL) and FailedPrecondition (STORE_ACCESS) when the
disk or the server behind it does not answer, is full, or refuses access; every method that takes a
model's or a channel's name raises InvalidArgument (BAD_NAME) on a malformed one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self

from model_store.blobs import at_once, place
from model_store.records import Blob, Channel, Lease, Manifest, Removal
from model_store.rollout import Rollout


class Store(ABC):
    """Blobs, versions, channels and epochs of models.

    `url` names the store as `open_store` takes it, less any password.
    """

    url: str

    @abstractmethod
    def put_blob(self, content: bytes | memoryview) -> str:
        """Stores the bytes of a C-contiguous buffer and returns their digest.

        Idempotent; durable when it returns; never visible in part. A stored blob of that digest
        that is found damaged is replaced. Putting a blob again makes its `use_time_ms` now.
        """

    @abstractmethod
    def missing_blobs(self, digests: Sequence[str]) -> set[str]:
        """Those of `digests` that are not stored. Raises InvalidArgument (BAD_DIGEST).

        Only a look: a blob that is there may be collected until `create_version` names it.
        """

    @abstractmethod
    def read_blob(self, digest: str) -> bytes:
        """The bytes, verified against their digest.

        Raises NotFound (BLOB_NOT_FOUND), DataLoss (DIGEST_MISMATCH), InvalidArgument (BAD_DIGEST).
        """

    def read_blob_into(
        self, digest: str, target: memoryview, before: Callable[[int], None] = at_once
    ) -> None:
        """Fills `target`, writable bytes as many as the blob's, with the blob, unverified.

        For who digests it where it then lies, which reads it once instead of twice. `before` is
        told the size of each part before it is read; it may wait, or raise to give up. After an
        error `target` holds anything.
        Raises what `read_blob` does, and DataLoss (SIZE_MISMATCH).
        """
        before(len(target))
        place(self.read_blob(digest), target, digest)

    @abstractmethod
    def blobs(self) -> Iterator[Blob]:
        """Every blob that is there all the while, in no order, once or more."""

    @abstractmethod
    def delete_blob(self, digest: str, *, unused_since_ms: int) -> bool:
        """Deletes the blob if its `use_time_ms` is before that moment; whether it did.

        False too where there is none. Against `create_version`, which sets that time and looks
        whether the blob is there, this is one step: either the blob stays, or MISSING_BLOBS.
        Raises InvalidArgument (BAD_DIGEST).
        """

    @abstractmethod
    def acquire_epoch(self, model: str, owner: str) -> int:
        """A new fencing token, 1 or more, above every one handed out before.

        Once it returns, no writer with an older epoch changes the model. `owner` is words for a
        person (host, process, run). Raises InvalidArgument (BAD_TEXT).
        """

    @abstractmethod
    def epoch(self, model: str) -> int:
        """The newest epoch handed out; 0 if none."""

    @abstractmethod
    def create_version(self, manifest: Manifest) -> Manifest:
        """Makes `manifest`, whose version must be 0, the model's next version, and returns it.

        Assigns the version (one more than any before, removed ones too; in Redis more than `parent`
        too, which a failover may have lost), and `create_time_ms` and `commit_id` where unset.
        Repeating a commit_id returns the version it made, as long as that is there, so an error
        whose outcome is unknown is repeated with the same one.
        The `use_time_ms` of every blob it names becomes now. Durable when it returns.
        Raises InvalidArgument (BAD_MANIFEST, BAD_DIGEST, BAD_SHAPE, BAD_TEXT), FailedPrecondition
        (STALE_EPOCH, UNKNOWN_EPOCH, MISSING_BLOBS), DataLoss (MANIFEST_DAMAGED) where the commit
        made a version that can no longer be read.
        """

    @abstractmethod
    def manifest(self, model: str, version: int) -> Manifest:
        """The record of a version.

        Raises NotFound (VERSION_NOT_FOUND), whose sentence says where it was removed or lost,
        DataLoss (MANIFEST_DAMAGED).
        """

    @abstractmethod
    def versions(self, model: str) -> list[int]:
        """Every version that was not removed, ascending; empty for an unknown model."""

    @abstractmethod
    def lease(self, model: str, version: int, holder: str, ttl_s: float) -> Lease:
        """Keeps the version from being removed for `ttl_s` (at most a day); repeat it to renew.

        A reader leases first and reads then: from this call's return on no `remove_versions` takes
        the version. Time is the server's in Redis; elsewhere the clocks of reader and collector
        must agree to less than what is left of the ttl at its renewal.
        Raises InvalidArgument (BAD_TEXT, BAD_TTL), NotFound (VERSION_NOT_FOUND), DataLoss
        (LEASE_DAMAGED).
        """

    @abstractmethod
    def release(self, model: str, version: int, holder: str) -> None:
        """Ends the holder's lease of the version; nothing where it has none."""

    @abstractmethod
    def leases(self, model: str) -> list[Lease]:
        """Those that live, sorted by version and holder. Raises DataLoss (LEASE_DAMAGED)."""

    @abstractmethod
    def remove_versions(self, model: str, versions: Sequence[int]) -> Removal:
        """Removes those of `versions` that nobody needs, for good: their numbers stay taken.

        Kept are versions that a channel points to, the one that its next rollback would reach, and
        leased ones; reading these and removing are one step. A removed version's blobs stay;
        its commit is forgotten; the revision does not change. Also deletes what earlier removals
        that were killed left behind, and makes every `create_version` that began before it begin
        again. Raises DataLoss (CHANNEL_DAMAGED, LEASE_DAMAGED): it never guesses.
        """

    @abstractmethod
    def models(self) -> list[str]:
        """Every model with a version, sorted."""

    @abstractmethod
    def channel(self, model: str, name: str) -> Channel | None:
        """The channel as it stands, None where there is none. Raises DataLoss (CHANNEL_DAMAGED).

        A reader acts on it only if it `follows` the one it acted on before.
        """

    @abstractmethod
    def channels(self, model: str) -> list[Channel]:
        """Every channel of the model, sorted by name. Raises DataLoss (CHANNEL_DAMAGED)."""

    @abstractmethod
    def move_channel(
        self,
        model: str,
        name: str,
        version: int,
        *,
        expected_revision: int,
        epoch: int = 0,
        held: bool = False,
        rollout: Rollout | None = None,
        reason: str,
    ) -> Channel:
        """Points the channel at `version` if its revision is the expected one (0: not there yet).

        `epoch` 0 moves without fencing (an operator) and keeps the channel's epoch; `held` says
        whether publishers must leave it there; `rollout` becomes the channel's, None takes it from
        the channel; `reason` goes into the history, which keeps the newest 32 moves. Durable when
        it returns.
        Raises, in this order, InvalidArgument (BAD_MOVE, BAD_TEXT, BAD_ROLLOUT), NotFound
        (VERSION_NOT_FOUND), FailedPrecondition (STALE_EPOCH, UNKNOWN_EPOCH), Aborted
        (CHANNEL_MOVED).
        """

    @abstractmethod
    def revision(self, model: str) -> int:
        """Grows with every version and every channel move of the model; 0 for an unknown one."""

    @abstractmethod
    def wait_for_change(self, model: str, seen: int, timeout_s: float) -> int:
        """Blocks until the revision differs from `seen`, or for `timeout_s`; returns the revision.

        Differs, not exceeds: a store that went back is a change too. Returns early once closed.
        """

    @abstractmethod
    def close(self) -> None:
        """Wakes whoever waits, within about a second, and lets go of connections. Idempotent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"
