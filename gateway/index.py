"""RepositoryIndex of the fleet: what each replica says of its models, taken together.

A version is READY if any replica has it ready, for then it is answered; the reason tells where it
is not, as a count: addresses are no client's affair.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

READY = "READY"
LOADING = "LOADING"
UNAVAILABLE = "UNAVAILABLE"
MOST_REASON_CHARS = 300


@dataclass(frozen=True, slots=True)
class Entry:
    """One version of a model, as RepositoryIndex lists it; `version` "" where none is named."""

    name: str
    version: str
    state: str
    reason: str = ""


def fleet_index(replicas: Sequence[Iterable[Entry]], unloaded: Collection[str]) -> list[Entry]:
    """The entries of each replica as entries of the fleet, by name and version ascending.

    `unloaded` are the models that the fleet was told not to serve.
    """
    said: dict[tuple[str, str], list[Entry]] = {}
    for entries in replicas:
        for entry in entries:
            said.setdefault((entry.name, entry.version), []).append(entry)
    named = {name for name, version in said if version}
    kept = {key: entries for key, entries in said.items() if key[1] or key[0] not in named}
    for name in unloaded:
        if not any(key[0] == name for key in kept):
            kept[name, ""] = []
    return [
        Entry(name, version, UNAVAILABLE, "unloaded")
        if name in unloaded
        else _together(name, version, kept[name, version], len(replicas))
        for name, version in sorted(kept, key=_order)
    ]


def _together(name: str, version: str, said: Sequence[Entry], replicas: int) -> Entry:
    ready = [entry for entry in said if entry.state in (READY, "")]
    others = [entry for entry in said if entry.state not in (READY, "")]
    reason = next((entry.reason for entry in others if entry.reason), "")[:MOST_REASON_CHARS]
    if ready:
        if len(ready) == replicas:
            return Entry(name, version, READY)
        elsewhere = reason or "not loaded"
        counted = f"ready on {len(ready)} of {replicas} replicas; elsewhere: {elsewhere}"
        return Entry(name, version, READY, counted)
    loading = any(entry.state == LOADING for entry in others)
    return Entry(name, version, LOADING if loading else UNAVAILABLE, reason)


def _order(key: tuple[str, str]) -> tuple[str, int, str]:
    name, version = key
    return name, int(version) if version.isascii() and version.isdigit() else 0, version
