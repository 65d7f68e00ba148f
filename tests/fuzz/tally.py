"""How shots ended, counted, and which endings must not be."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

MOST_SHOWN = 20
_NEVER = ("UNKNOWN", "INTERNAL", "DATA_LOSS", "HTTP 500")


@dataclass
class Tally:
    """Endings by "server transport code", and those that must not be."""

    endings: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    wrong_count: int = 0
    shots: int = 0

    def add(self, server: str, transport: str, code: str, shot_label: str, detail: str) -> None:
        """Counts one ending; a code that input must never cause is wrong."""
        self.endings[f"{server} {transport} {code}"] += 1
        if code in _NEVER:
            self.accuse(f"{server} {transport} {code} {detail!r} by {shot_label}")

    def accuse(self, what: str) -> None:
        """Something that must not be."""
        self.wrong_count += 1
        if len(self.wrong) < MOST_SHOWN:
            self.wrong.append(what)
