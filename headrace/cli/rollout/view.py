"""Rollouts as rows and lines."""

from __future__ import annotations

from dataclasses import asdict

import typer

from headrace.cli.output import Format, Row, print_json, print_record, print_rows
from headrace.cli.stores import shown_time
from headrace.policy.rollout import Wait, percent, stage_words
from headrace.rollout.standing import Standing, arm_of, figures_of
from model_store.records import Channel
from model_store.rollout import Rollout


def rollout_row(channel: Channel, rollout: Rollout) -> Row:
    """The record of a rollout in its candidate's channel."""
    newest = channel.history[-1]
    return {
        "model": channel.model,
        "channel": channel.name,
        "version": channel.version,
        "against": rollout.against,
        "state": rollout.state.value,
        "stage": stage_words(rollout),
        "share": percent(rollout.share),
        "shadow": percent(rollout.shadow),
        "since": shown_time(newest.move_time_ms),
        "reason": newest.reason,
    }


def verdict_words(standing: Standing) -> str:
    """What comes next, in words."""
    verdict = standing.verdict
    kind = "waits" if isinstance(verdict, Wait) else type(verdict).__name__.lower()
    return f"{kind}: {verdict.reason}"


def progress_line(standing: Standing) -> str:
    """One line of a rollout that is carried out in the foreground."""
    arm = standing.evidence.candidate
    return (
        f"version {standing.channel.version}, {stage_words(standing.rollout)}: {arm.requests} "
        f"requests, {arm.failed} failed; {verdict_words(standing)}"
    )


def print_status(
    channel: Channel,
    rollout: Rollout,
    standing: Standing | None,
    others: list[Channel],
    output: Format,
) -> None:
    """Prints what `headrace rollout status` knows; `standing` is None for one that ended."""
    record = rollout_row(channel, rollout)
    if standing is not None:
        record |= {
            "stage_s": round(standing.elapsed_s, 1),
            "ready": f"{standing.evidence.ready_endpoints} of {standing.evidence.endpoints}",
            "next": verdict_words(standing),
        }
    history = [row for each in [channel, *others] for row in _moves(each)]
    if output is Format.JSON:
        figures = {} if standing is None else figures_of(standing) | {"errors": standing.errors}
        plan = asdict(rollout.plan)
        print_json(record | {"plan": plan, "figures": figures, "history": history})
        return
    print_record(record, output)
    if standing is not None:
        _print_figures(standing)
    typer.echo()
    print_rows(history, output, empty="")


def _print_figures(standing: Standing) -> None:
    evidence, metric = standing.evidence, standing.rollout.plan.metric
    typer.echo()
    print_rows(
        [
            {"arm": name} | arm_of(arm, metric)
            for name, arm in (("candidate", evidence.candidate), ("others", evidence.control))
        ],
        Format.TABLE,
        empty="",
    )
    if standing.rollout.shadow:
        typer.echo()
        copied = figures_of(standing)["shadow"]
        print_rows([copied] if isinstance(copied, dict) else [], Format.TABLE, empty="")
    for name, why in standing.errors.items():
        typer.echo(f"gateway {name}: {why}")


def _moves(channel: Channel) -> list[Row]:
    return [
        {
            "channel": channel.name,
            "version": move.version,
            "revision": move.revision,
            "moved": shown_time(move.move_time_ms),
            "reason": move.reason,
        }
        for move in reversed(channel.history)
    ]
