"""`headrace versions list | show | remove` and `headrace publish`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.output import Format, FormatOption, Row, print_record, print_rows
from headrace.cli.stores import StoreOption, manifest_row, opened

versions_app = typer.Typer(help="What the model store holds.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.add_typer(versions_app, name="versions")
    app.command("publish")(publish)


@versions_app.command("list")
def list_versions(
    model: str,
    store: StoreOption = None,
    newest: Annotated[int, typer.Option(help="How many, newest first; 0 for all.")] = 20,
    output: FormatOption = Format.TABLE,
) -> None:
    """List a model's versions, newest first."""
    opened_store = opened(store)
    versions = opened_store.versions(model)[::-1]
    pointed: dict[int, list[str]] = {}
    for channel in opened_store.channels(model):
        pointed.setdefault(channel.version, []).append(channel.name)
    rows: list[Row] = []
    for version in versions[: newest or None]:
        row = manifest_row(opened_store.manifest(model, version))
        rows.append(row | {"channels": pointed.get(version, [])})
    print_rows(rows, output, empty=f"model {model} has no versions in this store")


@versions_app.command("show")
def show_version(
    model: str, version: int, store: StoreOption = None, output: FormatOption = Format.TABLE
) -> None:
    """Show one version: its record and its tensors."""
    manifest = opened(store).manifest(model, version)
    tensors: list[Row] = [
        {
            "tensor": entry.name,
            "datatype": entry.datatype,
            "shape": list(entry.shape),
            "bytes": entry.size_bytes,
            "digest": entry.digest,
        }
        for entry in manifest.tensors
    ]
    record = {"model": manifest.model, **manifest_row(manifest), "parent": manifest.parent}
    record |= {"program": manifest.program.digest, "probe": manifest.probe is not None}
    if output is Format.JSON:
        print_record(record | {"tensors": tensors}, output)
        return
    print_record(record, output)
    typer.echo()
    print_rows(tensors, output, empty="no tensors")


@versions_app.command("remove")
def remove_versions(
    model: str,
    versions: list[int],
    store: StoreOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Remove versions for good, damaged ones too; their blobs go with `store gc`.

    Kept, with code 1: what a channel points to or would roll back to, and what a replica holds.
    """
    opened_store = opened(store)
    for version in set(versions) - set(opened_store.versions(model)):
        # Says whether there ever was such a version.
        opened_store.manifest(model, version)
    removal = opened_store.remove_versions(model, versions)
    rows: list[Row] = [
        {
            "version": version,
            "removed": version not in removal.kept,
            "why": removal.kept.get(version, ""),
        }
        for version in sorted({*removal.removed, *removal.kept})
    ]
    print_rows(rows, output, empty="nothing to remove")
    if removal.kept:
        raise typer.Exit(1)


def publish(
    model: Annotated[str, typer.Argument(help='The headrace.Model, "package.module:Class".')],
    weights: Annotated[
        Path | None,
        typer.Option(help="A safetensors file; default: fresh weights from build()."),
    ] = None,
    step: Annotated[int, typer.Option(help="Optimizer steps behind the weights.")] = 0,
    metric: Annotated[list[str] | None, typer.Option(help="name=value; repeatable.")] = None,
    channel: Annotated[str, typer.Option(help="The channel to move.")] = "stable",
    store: StoreOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Publish weights from a file as a new version."""
    from headrace.cli.weights import built_module, parsed_metrics
    from headrace.model import load_model
    from headrace.publisher import Publisher

    metrics = parsed_metrics(metric or [])
    opened_store = opened(store)
    described = load_model(model)
    module = built_module(described, weights)
    # Unfenced: a new epoch would end a training run that publishes the same model.
    with Publisher(opened_store, model=described, channel=channel, epoch=0) as publisher:
        version = publisher.publish(module, step=step, metrics=metrics)
    print_record(manifest_row(opened_store.manifest(described.name, version)), output)
