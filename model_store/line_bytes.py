"""The door between a model's line in an object store and its bytes.

Decides how a line is laid out. Manifests and channels inside it stay sealed records: damage of one
is told to whoever reads that one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from model_store.gaps import NO_GAPS, Gaps
from model_store.record_bytes import lease_message, lease_of, sealed, unseal
from model_store.records import Lease
from protos.headrace.v1 import manifest_pb2


@dataclass(frozen=True, slots=True)
class LineState:
    """One model's records at one revision; empty for a model that nothing was written of.

    `newest` is the newest version there ever was and `manifest` its record, empty if it was
    removed; `gaps` are the versions that were removed; `channels` are records by name.
    """

    epoch: int = 0
    owner: str = ""
    newest: int = 0
    manifest: bytes = b""
    commit_id: str = ""
    channels: Mapping[str, bytes] = field(default_factory=dict)
    revision: int = 0
    write_id: str = ""
    gaps: Gaps = NO_GAPS
    leases: tuple[Lease, ...] = ()
    collections: int = 0


def encode_line(state: LineState) -> bytes:
    """A Record envelope around the line; equal lines give equal bytes."""
    pointers = [
        manifest_pb2.Line.Pointer(name=name, record=record)
        for name, record in sorted(state.channels.items())
    ]
    return sealed(
        manifest_pb2.Line(
            epoch=state.epoch,
            owner=state.owner,
            newest=state.newest,
            manifest=state.manifest,
            commit_id=state.commit_id,
            channels=pointers,
            revision=state.revision,
            write_id=state.write_id,
            gaps=[
                manifest_pb2.Line.Gap(first=first, last=last) for first, last in state.gaps.ranges
            ],
            leases=[lease_message(lease) for lease in state.leases],
            collections=state.collections,
        )
    )


def decode_line(record: bytes, model: str) -> LineState:
    """The line. Raises DataLoss (LINE_DAMAGED)."""
    message = manifest_pb2.Line()
    unseal(record, message, "LINE_DAMAGED", f"the line of model {model!r}")
    return LineState(
        epoch=message.epoch,
        owner=message.owner,
        newest=message.newest,
        manifest=message.manifest,
        commit_id=message.commit_id,
        channels={pointer.name: pointer.record for pointer in message.channels},
        revision=message.revision,
        write_id=message.write_id,
        gaps=Gaps(tuple((gap.first, gap.last) for gap in message.gaps)),
        leases=tuple(lease_of(lease) for lease in message.leases),
        collections=message.collections,
    )
