"""`python -m benchmarks.chaos.check RECORD`: judges a record; 1 where an invariant did not hold.

It needs the record alone: no store, no process, no clock.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.chaos.invariants import Verdict, missing_evidence, verdicts
from benchmarks.chaos.record import Record


def check(directory: Path) -> tuple[list[Verdict], list[str]]:
    """The verdicts on a record, and the invariants that it should speak of and does not.

    Raises ValueError where there is no record.
    """
    record = Record.read(directory)
    found = verdicts(record)
    return found, missing_evidence(record, found)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a line an invariant; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.chaos.check", description=__doc__)
    parser.add_argument("record", type=Path, help="directory of *.jsonl files")
    try:
        found, missing = check(parser.parse_args(argv).record)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    for verdict in found:
        print(verdict)
    broken = [verdict.invariant for verdict in found if verdict.broken]
    print(f"broken: {', '.join(broken) or 'none'}; no evidence: {', '.join(missing) or 'none'}")
    return 1 if broken or missing else 0


if __name__ == "__main__":
    sys.exit(main())
