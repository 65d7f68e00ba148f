"""The live terminal view of a loop."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from headrace.cli.calls import slots_text, state_name
from headrace.cli.up.plan import HOST, Plan
from headrace.cli.up.traffic import Tally
from headrace.cli.up.watch import Seen
from protos.headrace.v1 import replica_pb2, trainer_pb2

BARS = "▁▂▃▄▅▆▇█"
SHOWN_VERSIONS = 40


def render(plan: Plan, seen: Seen, tally: Tally, *, now: float, elapsed_s: float) -> RenderableType:
    """One frame: training, replicas, traffic, served accuracy. `now` is on the loop's clock."""
    return Group(
        _training(plan, seen, elapsed_s),
        _replicas(seen),
        _traffic(plan, tally, now),
        _accuracy(tally),
        Text("Ctrl-C drains and stops", style="dim"),
    )


def _training(plan: Plan, seen: Seen, elapsed_s: float) -> RenderableType:
    run = seen.run
    if run is None:
        return Panel("starting", title="training", title_align="left")
    metrics = "  ".join(f"{name} {value:.4f}" for name, value in sorted(run.metrics.items()))
    state = state_name(trainer_pb2.RunState, run.state, "RUN_STATE_")
    line = Text(
        f"{plan.model}  {state}  step {run.step}  {run.steps_per_s:.0f}/s  loss {run.loss:.4f}  "
        f"{metrics}  published {run.versions_published}"
    )
    parts: list[RenderableType] = [line, _progress(plan, run, elapsed_s)]
    if run.error:
        parts.append(Text(run.error, style="red"))
    return Panel(Group(*parts), title="training", title_align="left")


def _progress(plan: Plan, run: trainer_pb2.Run, elapsed_s: float) -> RenderableType:
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(width=18)
    grid.add_column(ratio=1)
    if plan.seconds:
        bar = ProgressBar(total=plan.seconds, completed=min(elapsed_s, plan.seconds))
        grid.add_row(f"{elapsed_s:.0f} of {plan.seconds:.0f} s", bar)
    else:
        # A run without an end shows how far it is to its next checkpoint.
        every = run.spec.checkpoint_every_steps or 200
        grid.add_row("to checkpoint", ProgressBar(total=every, completed=run.step % every))
    return grid


def _replicas(seen: Seen) -> RenderableType:
    table = Table(box=None, expand=True, pad_edge=False)
    for heading in ("replica", "version", "step", "age", "behind", "slots", "load"):
        table.add_column(heading)
    for index, replica in enumerate(seen.replicas):
        if replica is None:
            table.add_row(f"replica-{index}", Text("no answer", style="red"))
            continue
        for model in replica.models:
            table.add_row(
                replica.replica,
                str(model.serving_version),
                str(model.step),
                f"{model.age_ms / 1000:.1f} s",
                f"{model.behind_ms / 1000:.1f} s",
                slots_text(model),
                _load_text(model),
            )
    return Panel(table, title="replicas", title_align="left")


def _load_text(model: replica_pb2.ReplicaModelStatus) -> Text:
    if model.failures and model.failures[0].version > model.serving_version:
        failure = model.failures[0]
        return Text(f"v{failure.version} {failure.reason}", style="red")
    return Text(model.load_step or f"{model.last_load_ms:.0f} ms")


def _traffic(plan: Plan, tally: Tally, now: float) -> RenderableType:
    p50_ms, p99_ms = tally.percentiles_ms(recent=True)
    line = Text(
        f"{HOST}:{plan.port}  {tally.rate(now):.0f} requests/s  p50 {p50_ms:.1f} ms  "
        f"p99 {p99_ms:.1f} ms  {tally.requests} sent  "
    )
    line.append(f"{tally.failed} failed", style="red" if tally.failed else "green")
    return Panel(line, title="traffic", title_align="left")


def _accuracy(tally: Tally) -> RenderableType:
    accuracies = tally.accuracies()
    if not accuracies:
        return Panel("waiting for scored replies", title="served accuracy", title_align="left")
    newest = accuracies[-SHOWN_VERSIONS:]
    bars = "".join(BARS[min(int(value * len(BARS)), len(BARS) - 1)] for _, value in newest)
    line = Text(
        f"{bars}  v{newest[0][0]} {newest[0][1]:.3f} -> v{newest[-1][0]} {newest[-1][1]:.3f}"
    )
    return Panel(line, title="served accuracy by version", title_align="left")
