"""Recorded loads: a JSON object a line, `at_s` and what else is known of a request.

`at_s` counts seconds from the start; `class`, `priority`, `tenant` and `rows` may be left out.
Lines need not be in order. Classes and tenants that the mix does not know are added to it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from chassis.errors import InvalidArgument
from headrace.load.mix import Mix, Tenant, TrafficClass

FIELDS: dict[str, type | tuple[type, ...]] = {
    "at_s": (int, float),
    "class": str,
    "priority": int,
    "tenant": str,
    "rows": int,
}


@dataclass(frozen=True, slots=True)
class TraceEntry:
    """One recorded request; empty and None where the trace does not say."""

    at_s: float
    class_name: str = ""
    priority: int | None = None
    tenant: str = ""
    rows: int | None = None

    @property
    def known_class(self) -> str:
        """The name of its class, "" where the mix decides."""
        if self.class_name or self.priority is None:
            return self.class_name
        return f"priority-{self.priority}"


def read_trace(file: Path) -> tuple[TraceEntry, ...]:
    """The entries in order of time. Raises InvalidArgument (BAD_TRACE) naming the line."""
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InvalidArgument("BAD_TRACE", f"trace {file} cannot be read: {cause}") from None
    entries = [
        _entry(line, f"trace {file}, line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not entries:
        raise InvalidArgument("BAD_TRACE", f"trace {file} holds no request")
    return tuple(sorted(entries, key=lambda entry: entry.at_s))


def write_trace(entries: Iterable[TraceEntry], output: IO[str]) -> None:
    """Writes what `read_trace` reads."""
    for entry in entries:
        known = {
            "at_s": round(entry.at_s, 6),
            "class": entry.class_name,
            "priority": entry.priority,
            "tenant": entry.tenant,
            "rows": entry.rows,
        }
        record = {key: value for key, value in known.items() if value not in ("", None)}
        output.write(json.dumps(record) + "\n")


def mix_with(entries: Iterable[TraceEntry], mix: Mix) -> Mix:
    """The mix with the classes and tenants that entries name and it lacks.

    They have no share: what an entry does not say is drawn from the mix as it was.
    """
    classes = {item.name: item for item in mix.classes}
    tenants = {item.name: item for item in mix.tenants}
    for entry in entries:
        name = entry.known_class
        if name and name not in classes:
            classes[name] = TrafficClass(name, priority=entry.priority or 0, share=0.0)
        if entry.tenant and entry.tenant not in tenants:
            tenants[entry.tenant] = Tenant(entry.tenant, share=0.0)
    return replace(mix, classes=tuple(classes.values()), tenants=tuple(tenants.values()))


def within(entries: Iterable[TraceEntry], seconds: float) -> Iterator[TraceEntry]:
    """Those before `seconds`; entries come in order."""
    for entry in entries:
        if entry.at_s >= seconds:
            return
        yield entry


def _entry(line: str, where: str) -> TraceEntry:
    record = _record(line, where)
    for key, value in record.items():
        kind = FIELDS.get(key)
        if kind is None:
            raise _bad(where, f"key {key!r} is unknown; expected one of {', '.join(FIELDS)}")
        # A bool is an int to Python, and neither a time nor a number of rows.
        if isinstance(value, bool) or not isinstance(value, kind):
            raise _bad(where, f"{key} is {value!r}")
    if not 0 <= record.get("at_s", -1) < float("inf"):
        raise _bad(where, "expected at_s in seconds, 0 or more")
    if record.get("rows", 1) < 1 or record.get("priority", 0) < 0:
        raise _bad(where, "expected rows of 1 or more and a priority of 0 or more")
    return TraceEntry(
        float(record["at_s"]),
        record.get("class", ""),
        record.get("priority"),
        record.get("tenant", ""),
        record.get("rows"),
    )


def _record(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise _bad(where, f"it is not JSON ({error})") from None
    if not isinstance(record, dict):
        raise _bad(where, "expected a JSON object")
    return record


def _bad(where: str, cause: str) -> InvalidArgument:
    return InvalidArgument("BAD_TRACE", f"{where}: {cause}")
