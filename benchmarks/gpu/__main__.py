"""`python -m benchmarks.gpu`: what loads cost the batches beside them on a CUDA device.

Prints the bus (the device's own copies of pinned memory, and a load's), then batches without
pause, alone and beside loads: p99, stall at the flip, time of a load, recorded passes. Exit code 77
where there is no such device, 1 where an answer was wrong or a pass was recorded again.
`--device cpu` shows that it runs; its figures say nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch
from rich.console import Console

from benchmarks.gpu import beside, bus
from benchmarks.gpu.beside import Beside
from benchmarks.gpu.bus import Bus
from benchmarks.report import conditions, table_console, table_of
from chassis.settings import ProcessSettings
from chassis.telemetry import configure_logs
from inference_service.device.device import Device
from inference_service.device.kinds import device_of

# As automake has it: skipped, neither passed nor failed.
NO_DEVICE = 77


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit code."""
    given = _parser().parse_args(argv)
    named = torch.device(given.device)
    if named.type == "cuda" and torch.cuda.device_count() <= (named.index or 0):
        sys.stderr.write(f"torch finds no device {given.device} here; nothing was measured\n")
        return NO_DEVICE
    configure_logs("gpu", ProcessSettings.load(overrides={"log_level": "warning"}))
    device = device_of(named)
    console = table_console()
    console.print(_sentence(device), soft_wrap=True)
    _print_bus(console, bus.measured(device, given.mib))
    with beside.published(given.mib) as (store, model):
        found = [
            beside.measured(
                device,
                store,
                model,
                graphs=graphs,
                paced=paced,
                loads=given.loads,
                calm_s=given.calm_s,
            )
            for graphs, paced in ((False, False), (False, True), (True, False), (True, True))
        ]
    _print_beside(console, found, given.mib)
    return int(any(one.wrong or one.counts.rerecorded for one in found))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--mib", type=int, default=512, help="of weights")
    parser.add_argument("--loads", type=int, default=8, help="of each way")
    parser.add_argument("--calm-s", type=float, default=4.0)
    return parser


def _sentence(device: Device) -> str:
    about = conditions("benchmarks.gpu")
    name = str(device.torch_device)
    if device.torch_device.type == "cuda":
        name = torch.cuda.get_device_name(device.torch_device)
    return (
        f"{about['date']}: `{about['command']}` on {name}, {about['cores']} cores of "
        f"{about['cpu']}, load average {about['load_average_before']} before; "
        f"torch {torch.__version__}, CUDA {torch.version.cuda}"
    )


def _print_bus(console: Console, found: Bus) -> None:
    table = table_of(f"{found.mib} MiB", "GiB/s", "of the device's own")
    table.add_row("pinned memory to the device, one copy", f"{found.own_to:.1f}", "")
    table.add_row(
        "a load's way into a slot", f"{found.staged:.1f}", _part(found.staged, found.own_to)
    )
    table.add_row("pinned memory from the device, one copy", f"{found.own_from:.1f}", "")
    table.add_row(
        "a load's way back, digest included",
        f"{found.verified:.1f}",
        _part(found.verified, found.own_from),
    )
    console.print(table)


def _part(one: float, other: float) -> str:
    return f"{one / other:.0%}"


def _print_beside(console: Console, found: Sequence[Beside], mib: int) -> None:
    table = table_of(
        f"{mib} MiB a load",
        "calm p50 ms",
        "calm p99",
        "p99 beside loads",
        "ratio",
        "stall at a flip p50",
        "worst",
        "load ms",
        "GiB/s",
        "wrong",
    )
    for one in found:
        table.add_row(
            _way(one),
            f"{one.calm_p50_ms:.3f}",
            f"{one.calm_p99_ms:.3f}",
            f"{one.beside_p99_ms:.3f}",
            f"{one.beside_p99_ms / one.calm_p99_ms:.2f}",
            f"{one.stall_p50_ms:.3f}",
            f"{one.stall_worst_ms:.3f}",
            f"{one.load_ms:,.0f}",
            f"{mib / 1024 / one.load_ms * 1e3:.2f}",
            str(one.wrong),
        )
    console.print(table)
    graphs = table_of("recorded passes", "recorded", "again", "replays", "plain", "")
    for one in found:
        if one.graphs:
            counts = one.counts
            numbers = (counts.recorded, counts.rerecorded, counts.replays, counts.plain)
            graphs.add_row(_way(one), *(f"{number:,}" for number in numbers), one.why_no_graphs)
    console.print(graphs)


def _way(one: Beside) -> str:
    return ", ".join(
        ("graphs" if one.graphs else "plain", "paced" if one.paced else "as fast as it goes")
    )


if __name__ == "__main__":
    sys.exit(main())
