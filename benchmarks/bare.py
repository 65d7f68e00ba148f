"""The same module in a bare torch loop: what the machine gives before anything is served.

A process of its own (`python -m benchmarks.bare ...`) with as many threads as a replica has.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from chassis.settings import child_environment
from headrace.model import Model, load_model

WARM_UP_BATCHES = 3
# Beyond its own seconds, what the process may take to start.
SLACK_S = 90.0


@dataclass(frozen=True, slots=True)
class BareSpeed:
    """Seconds that one batch of `rows` rows takes.

    `batch_s` is CPU time over threads: what a batch takes where no other work shares the cores.
    `seen_s` is what it took.
    """

    rows: int
    batch_s: float
    seen_s: float

    @property
    def rows_per_s(self) -> float:
        """Rows in a second of back-to-back batches."""
        return self.rows / self.batch_s


def batch_seconds(speeds: Sequence[BareSpeed], rows: float) -> float:
    """Seconds of a batch of `rows` rows, interpolated between the sizes measured.

    `speeds` ascend by rows; beyond their ends the nearest one's seconds per row hold.
    """
    for lower, upper in pairwise(speeds):
        if lower.rows <= rows <= upper.rows:
            part = (rows - lower.rows) / (upper.rows - lower.rows)
            return lower.batch_s + part * (upper.batch_s - lower.batch_s)
    end = speeds[0] if rows < speeds[0].rows else speeds[-1]
    return end.batch_s * rows / end.rows


def run_bare(path: str, sizes: Sequence[int], *, threads: int, seconds: float) -> list[BareSpeed]:
    """Times the module of the model at `path` in a new process, `seconds` for each batch size.

    Raises subprocess.CalledProcessError, subprocess.TimeoutExpired.
    """
    options = {"--threads": threads, "--seconds": seconds, "--rows": ",".join(map(str, sizes))}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bare", path]
        + [str(part) for option in options.items() for part in option],
        cwd=Path(__file__).parents[1],
        env=child_environment(OMP_NUM_THREADS=str(threads)),
        stdout=subprocess.PIPE,
        timeout=seconds * len(sizes) + SLACK_S,
        check=True,
    )
    return [BareSpeed(**item) for item in json.loads(done.stdout)]


def inputs_of(model: Model, rows: int) -> list[torch.Tensor]:
    """`rows` sample rows as tensors in the order of the signature."""
    samples, _ = model.samples()
    tensors = [torch.from_numpy(samples[spec.name]) for spec in model.inputs]
    return [tensor[torch.arange(rows) % len(tensor)].contiguous() for tensor in tensors]


def speed(model: Model, module: nn.Module, rows: int, seconds: float) -> BareSpeed:
    """The mean over the forward passes of at least `seconds`; at least one pass."""
    inputs = inputs_of(model, rows)
    with torch.inference_mode():
        for _ in range(WARM_UP_BATCHES):
            module(*inputs)
        began, began_cpu, passes = time.perf_counter(), time.process_time(), 0
        while not passes or time.perf_counter() - began < seconds:
            module(*inputs)
            passes += 1
        cpu_s = (time.process_time() - began_cpu) / torch.get_num_threads()
        return BareSpeed(rows, cpu_s / passes, (time.perf_counter() - began) / passes)


def main() -> None:
    """Prints a JSON list of BareSpeed."""
    parser = argparse.ArgumentParser(prog="benchmarks.bare", description=__doc__)
    parser.add_argument("model", help="package.module:Class")
    parser.add_argument("--rows", default="1,8,32,64")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_model(options.model)
    module = model.build().eval()
    sizes = [int(text) for text in options.rows.split(",")]
    speeds = [speed(model, module, rows, options.seconds) for rows in sizes]
    print(json.dumps([dataclasses.asdict(item) for item in speeds]))


if __name__ == "__main__":
    main()
