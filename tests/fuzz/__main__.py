"""`python -m tests.fuzz`: a whole run, its report as one line of JSON; exit code 1 if it broke."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.fuzz.campaign import run
from tests.fuzz.plan import shot_of


def main() -> int:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mutations", type=int, default=100_000)
    parser.add_argument("--hostile", type=int, default=20_000)
    parser.add_argument("--show", metavar="LABEL", help="print the shot that a report names")
    arguments = parser.parse_args()
    if arguments.show:
        shot = shot_of(arguments.show)
        frames = [frame.hex() for frame in shot.frames]
        sys.stdout.write(json.dumps({"method": shot.method, "frames": frames}) + "\n")
        return 0
    with tempfile.TemporaryDirectory(prefix="headrace-fuzz-") as directory:
        report = run(
            Path(directory),
            seed=arguments.seed,
            mutations=arguments.mutations,
            hostile=arguments.hostile,
        )
    sys.stdout.write(report.line() + "\n")
    return 1 if report.broken else 0


if __name__ == "__main__":
    sys.exit(main())
