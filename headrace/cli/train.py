"""`headrace train start | stop | pause | resume | watch | list`: runs of a trainer service."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from headrace.cli.output import Format, FormatOption, print_json, print_record, print_rows

CALL_TIMEOUT_S = 30.0
DEFAULT_TRAINER = "127.0.0.1:8021"

train_app = typer.Typer(help="Training runs of a trainer service.", no_args_is_help=True)
TrainerOption = Annotated[str, typer.Option("--trainer", help="host:port of the trainer service.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.add_typer(train_app, name="train")
    for name, text in (
        ("stop", "End a run after a last checkpoint."),
        ("pause", "Checkpoint a run and release its processes."),
        ("resume", "Continue a paused or failed run from its checkpoint."),
    ):
        train_app.command(name, help=text)(_transition(name.capitalize()))


@train_app.command("start")
def start(
    model: Annotated[str, typer.Argument(help='The headrace.Model, "package.module:Class".')],
    store: Annotated[str, typer.Option("--store", help="Model store URL to publish to.")],
    run: Annotated[str, typer.Option("--run", help="Id of the run; default: made up.")] = "",
    channel: Annotated[str, typer.Option(help="The channel that publications move.")] = "stable",
    processes: Annotated[int, typer.Option(help="torchrun processes.")] = 1,
    max_steps: Annotated[int, typer.Option(help="0: until stopped.")] = 0,
    publish_every_steps: Annotated[int, typer.Option(help="0: off.")] = 0,
    publish_every_s: Annotated[float, typer.Option(help="Seconds; 0: off.")] = 0.0,
    publish_on: Annotated[
        str, typer.Option(help="Publish when this metric improves; -name: smaller is better.")
    ] = "",
    seed: Annotated[int, typer.Option(help="Of weights and data order.")] = 0,
    trainer: TrainerOption = DEFAULT_TRAINER,
    output: FormatOption = Format.TABLE,
) -> None:
    """Start a training run."""
    from headrace.cli.calls import run_row
    from protos.headrace.v1 import trainer_pb2

    spec = trainer_pb2.RunSpec(
        model=model,
        store=store,
        channel=channel,
        processes=processes,
        max_steps=max_steps,
        seed=seed,
        publish=trainer_pb2.PublishPolicy(
            every_steps=publish_every_steps,
            every_s=publish_every_s,
            metric=publish_on.removeprefix("-"),
            minimize=publish_on.startswith("-"),
        ),
    )
    request = trainer_pb2.StartRunRequest(run_id=run, spec=spec)
    print_record(run_row(_call(trainer, "StartRun", request).run), output)


@train_app.command("list")
def list_runs(
    trainer: TrainerOption = DEFAULT_TRAINER, output: FormatOption = Format.TABLE
) -> None:
    """List all runs, newest first."""
    from headrace.cli.calls import run_row
    from protos.headrace.v1 import trainer_pb2

    answer = _call(trainer, "ListRuns", trainer_pb2.ListRunsRequest())
    print_rows([run_row(run) for run in answer.runs], output, empty="no runs")


@train_app.command("watch")
def watch(
    run: str, trainer: TrainerOption = DEFAULT_TRAINER, output: FormatOption = Format.TABLE
) -> None:
    """Follow a run until it ends; Ctrl-C stops watching, not the run."""
    from headrace.cli.calls import TRAINER, calling, run_row
    from protos.headrace.v1 import trainer_pb2

    with calling(trainer, TRAINER) as stub:
        for change in stub.WatchRun(trainer_pb2.WatchRunRequest(run_id=run)):
            row = run_row(change.run)
            if output is Format.JSON:
                print_json(row)
            else:
                typer.echo(_line(row))


def _line(row: dict[str, Any]) -> str:
    metrics = " ".join(f"{name} {value:.4g}" for name, value in row["metrics"].items())
    return (
        f"{row['run']} {row['state']} step {row['step']} loss {row['loss']:.4g} {metrics} "
        f"version {row['last_version']} {row['error']}"
    ).rstrip()


def _transition(verb: str) -> Callable[..., None]:
    def command(
        run: str, trainer: TrainerOption = DEFAULT_TRAINER, output: FormatOption = Format.TABLE
    ) -> None:
        from headrace.cli.calls import run_row
        from protos.headrace.v1 import trainer_pb2

        request = getattr(trainer_pb2, f"{verb}RunRequest")(run_id=run)
        print_record(run_row(_call(trainer, f"{verb}Run", request).run), output)

    return command


def _call(address: str, rpc: str, request: Any) -> Any:
    from headrace.cli.calls import TRAINER, calling

    with calling(address, TRAINER) as stub:
        return getattr(stub, rpc)(request, timeout=CALL_TIMEOUT_S)
