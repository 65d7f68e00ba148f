"""What the runs took: a JSON file for programs, a Markdown table for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.deltas.runs import Run
from benchmarks.deltas.sizes import Sizes
from benchmarks.report import conditions, table_of

_SIZES = (
    "run, kB a version",
    "words changed",
    "by one ulp",
    "full",
    "zstd",
    "XOR+zstd",
    "64 KiB chunks",
    "1 MiB chunks",
    "delta",
    "of full",
)
_TIMES = ("run, ms a version", "encode", "MB/s", "decode", "MB/s", "XOR+zstd", "MB/s")


@dataclass(frozen=True, slots=True)
class Report:
    """The runs measured, each by `versions`."""

    versions: int
    rows: list[tuple[Run, Sizes]] = field(default_factory=list)
    conditions: Mapping[str, Any] = field(default_factory=lambda: conditions("benchmarks.deltas"))

    def write(self, file: Path) -> None:
        """Writes the JSON file, making its directory. Raises OSError."""
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"run": str(run), **asdict(sizes)} for run, sizes in self.rows]
        record = {"conditions": self.conditions, "versions": self.versions, "runs": rows}
        file.write_text(json.dumps(record, indent=2) + "\n")

    def print(self, console: Console) -> None:
        """Prints the conditions, a table of sizes and one of times."""
        console.print(self._sentence(), soft_wrap=True)
        sizes_table, times_table = table_of(*_SIZES), table_of(*_TIMES)
        for run, sizes in self.rows:
            sizes_table.add_row(str(run), *_size_cells(sizes))
            times_table.add_row(str(run), *_time_cells(sizes))
        console.print(sizes_table)
        console.print(times_table)

    def _sentence(self) -> str:
        found = self.conditions
        return (
            f"{found['date']}: `{found['command']}` on {found['cores']} cores of {found['cpu']}, "
            f"load average {found['load_average_before']} before; Python {found['python']}, torch "
            f"{found['versions']['torch']}; means of {self.versions} versions, zstd level 1. MB/s "
            "are of the weights, not of the delta; CPU time of one thread, the shortest of three."
        )


def _size_cells(sizes: Sizes) -> list[str]:
    stored = (
        sizes.full_bytes,
        sizes.zstd_bytes,
        sizes.xor_bytes,
        sizes.small_chunk_bytes,
        sizes.large_chunk_bytes,
        sizes.delta_bytes,
    )
    return [
        f"{sizes.changed:.2%}",
        f"{sizes.by_one:.0%}",
        *(f"{size / 1e3:,.1f}" for size in stored),
        f"1/{sizes.full_bytes / sizes.delta_bytes:.3g}",
    ]


def _time_cells(sizes: Sizes) -> list[str]:
    return [
        text
        for seconds in (sizes.encode_s, sizes.decode_s, sizes.xor_s)
        for text in (f"{seconds * 1e3:.3g}", f"{sizes.full_bytes / seconds / 1e6:,.0f}")
    ]
