"""The nouns that trainer and replicas exchange: manifest, channel and their parts.

Frozen and free of protobuf; `model_store.record_bytes` turns them into checksummed bytes and back.
What a record must satisfy before a store takes it is decided in `model_store.rules`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from chassis.tensors import Signature
from model_store.rollout import Rollout


class ProgramKind(StrEnum):
    """How the architecture travels."""

    EXPORTED = "exported"
    """The blob is an exported program (torch.export) without weights."""
    IMPORT_PATH = "import_path"
    """The blob is the UTF-8 import path `package.module:Class` of a headrace.Model."""


@dataclass(frozen=True, slots=True)
class Program:
    """The architecture: the blob named `digest`, of `size_bytes`, read as `kind` says."""

    kind: ProgramKind
    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One parameter or buffer: OIP datatype, dimensions (empty for a scalar), and its bytes.

    `digest` names the raw little-endian, row-major bytes, `size_bytes` of them. They are a blob;
    or `base_digest` is one, and the manifest's deltas make `digest` of it.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    digest: str
    size_bytes: int
    base_digest: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))

    @property
    def stored_digest(self) -> str:
        """The blob from which a reader without any version starts."""
        return self.base_digest or self.digest


@dataclass(frozen=True, slots=True)
class DeltaStep:
    """One delta: the blob `digest`, of `size_bytes`, that applies to `base_version`.

    It results in the next step's base version, or in the manifest's own.
    """

    base_version: int
    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Probe:
    """Golden inputs and outputs: a safetensors blob with `input.<name>` and `output.<name>`.

    A replica's outputs must lie within absolute + relative * |golden| of the golden ones.
    """

    digest: str
    size_bytes: int
    absolute_tolerance: float
    relative_tolerance: float


@dataclass(frozen=True, slots=True)
class ModuleConfig:
    """The module's own configuration: a blob with a JSON object, as a Hugging Face config.json."""

    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class SignedBy:
    """The id of a publisher's key and its signature, 64 bytes; see `model_store.signing`."""

    key_id: str
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The record that makes a version exist.

    `version` is 0 until a store assigns it; `epoch` 0 is a publisher without a fencing token;
    `parent` 0 is the first of its run; `tensors` are kept ordered by name; `create_time_ms` 0 is
    set by the store; an empty `commit_id` is filled by the store; `step_time_ms` is when the train
    step behind the weights ended, 0 where nobody said. `deltas` lead, oldest first, from an anchor,
    a version whose tensors are all stored, to this one; without them it is an anchor.
    """

    model: str
    program: Program
    signature: Signature
    tensors: tuple[TensorEntry, ...]
    version: int = 0
    epoch: int = 0
    parent: int = 0
    step: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict, hash=False)
    create_time_ms: int = 0
    step_time_ms: int = 0
    probe: Probe | None = None
    producer: str = ""
    commit_id: str = ""
    config: ModuleConfig | None = None
    deltas: tuple[DeltaStep, ...] = ()
    signed_by: SignedBy | None = None

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.tensors, key=lambda tensor: tensor.name))
        object.__setattr__(self, "tensors", ordered)
        object.__setattr__(self, "deltas", tuple(self.deltas))
        # A copy: the training loop goes on writing into its own dict, with numpy scalars in it.
        metrics = {str(name): float(value) for name, value in self.metrics.items()}
        object.__setattr__(self, "metrics", metrics)

    @property
    def fresh_time_ms(self) -> int:
        """Since when the weights age: the end of their train step, else the record's making."""
        return self.step_time_ms or self.create_time_ms

    def digests(self) -> list[str]:
        """The distinct digests of every blob that a reader of the version may need, sorted."""
        return sorted(self.blob_sizes())

    def blob_sizes(self) -> dict[str, int]:
        """The same with their sizes in bytes."""
        blobs = [self.program, *self.deltas, self.probe, self.config]
        sizes = {entry.stored_digest: entry.size_bytes for entry in self.tensors}
        return sizes | {blob.digest: blob.size_bytes for blob in blobs if blob is not None}


# The reason of a publisher's move.
PUBLISH = "publish"


@dataclass(frozen=True, slots=True)
class ChannelMove:
    """One position of a channel: the version, the channel's revision and epoch then, when and why.

    `epoch` is 0 also in records that are older than it.
    """

    version: int
    revision: int
    move_time_ms: int
    reason: str
    epoch: int = 0

    @property
    def published(self) -> bool:
        """Whether a publisher moved it, with a version just made."""
        return self.reason == PUBLISH


@dataclass(frozen=True, slots=True)
class Channel:
    """A named pointer to a version.

    `revision` grows by one with every move and is what compare-and-set compares; `epoch` is that
    of the publisher that moved it last; `held` is True after a rollback and during a rollout;
    `history` holds the newest moves, oldest first, the present one included. `rollout` is the one
    whose candidate its version is or was; None where it never was.
    """

    model: str
    name: str
    version: int
    revision: int
    epoch: int
    held: bool
    history: tuple[ChannelMove, ...]
    rollout: Rollout | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "history", tuple(self.history))

    def follows(self, seen: Channel | None) -> bool:
        """Whether a reader that acted on `seen` may act on this one.

        False where epoch or revision went back, or one revision names two moves: a store that lost
        its data, or a deposed Redis master, is speaking, and what serves must stay. A store that
        lost the move that was seen and went on is followed to versions above that one only: a
        number up to it may be another version's by now.
        """
        if seen is None:
            return True
        if self.revision < seen.revision or self.epoch < seen.epoch:
            return False
        if self.revision == seen.revision:
            same = (self.version, self.epoch) == (seen.version, seen.epoch)
            return same and not self._contradicts(seen)
        return self.version > seen.version or not self._contradicts(seen)

    def _contradicts(self, seen: Channel) -> bool:
        """Whether the history knows the last move of `seen` as another one."""
        moves = [move for move in self.history if move.revision == seen.revision]
        return bool(moves and seen.history) and moves != [*seen.history[-1:]]


@dataclass(frozen=True, slots=True)
class Lease:
    """A reader's word that it reads a version, kept by every collector until `expire_time_ms`.

    `holder` is words for a person (host, process); one holder has one lease of a version.
    """

    version: int
    holder: str
    expire_time_ms: int


@dataclass(frozen=True, slots=True)
class Removal:
    """What became of versions that were to be removed.

    `removed` ascends and leaves out those that were not there; `kept` has the reason, in words for
    a person, by version.
    """

    removed: tuple[int, ...]
    kept: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Blob:
    """A stored blob; `use_time_ms` is when it was last put, or named by a version being made."""

    digest: str
    size_bytes: int
    use_time_ms: int
