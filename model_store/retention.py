"""Which versions of a model stay: the decision of the collector, without doing anything.

Pure: what is stored comes in, a reason for each version that stays goes out. What a store refuses
to remove whatever the collector thinks is `rules.needed_versions`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from model_store import rules
from model_store.records import Channel, Lease


@dataclass(frozen=True, slots=True)
class Line:
    """What the collector read of a model: its channels, its live leases, and its versions by when
    they were made, in milliseconds; None for one whose manifest cannot be read."""

    channels: Sequence[Channel]
    leases: Sequence[Lease]
    made_ms: Mapping[int, int | None]


def retained(line: Line, *, keep: int, since_ms: int) -> dict[int, str]:
    """The versions that stay, each with the reason in words for a person.

    What channels and leases need, the newest `keep`, those made since `since_ms`, and those whose
    age nobody knows.
    """
    kept: dict[int, str] = {}
    for version, made_ms in line.made_ms.items():
        if made_ms is None:
            kept[version] = "its manifest cannot be read"
        elif made_ms >= since_ms:
            kept[version] = "younger than the grace"
    newest = sorted(line.made_ms)[-keep:] if keep else []
    kept |= dict.fromkeys(newest, f"one of the newest {keep}")
    return kept | rules.needed_versions(line.channels, line.leases, line.made_ms.keys())
