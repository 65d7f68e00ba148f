"""`headrace predict`: one request to a gateway, inputs from the command line or from .npy files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.cli.output import Format, FormatOption, Row, print_json

if TYPE_CHECKING:
    from chassis.tensors import Signature

AddressOption = Annotated[str, typer.Option("--gateway", help="host:port of the gateway.")]


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("predict")(predict)


def predict(
    model: str,
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input", "-i", help="name=JSON or name=@file.npy; one row may leave out the batch."
        ),
    ],
    version: Annotated[
        int | None, typer.Option(help="Pin the answer to this model version.")
    ] = None,
    channel: Annotated[str | None, typer.Option(help="Pin it to this channel.")] = None,
    gateway: AddressOption = "127.0.0.1:8001",
    timeout: Annotated[float, typer.Option(help="Seconds.")] = 10.0,
    output: FormatOption = Format.TABLE,
) -> None:
    """Ask for one prediction; prints the outputs and the version that answered."""
    from headrace.client import Client

    with Client(gateway, timeout_s=timeout) as client:
        arrays = parsed_inputs(inputs, client.signature(model))
        answer = client.predict(model, arrays, version=version, channel=channel)
    record: Row = {"model": answer.model, "version": answer.version, "outputs": {}}
    for name, array in answer.outputs.items():
        record["outputs"][name] = array.tolist()
    if output is Format.JSON:
        print_json(record)
        return
    typer.echo(f"{answer.model} version {answer.version}")
    for name, array in answer.outputs.items():
        typer.echo(f"{name} {list(array.shape)}\n{array}")


def parsed_inputs(texts: list[str], signature: Signature) -> dict[str, Any]:
    """Arrays in the signature's dtypes from name=value texts.

    Raises InvalidArgument (BAD_INPUT, UNKNOWN_INPUT).
    """
    from chassis.errors import InvalidArgument
    from chassis.tensors import NUMPY_TYPES

    specs = {spec.name: spec for spec in signature.inputs}
    arrays = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in specs:
            raise InvalidArgument(
                "UNKNOWN_INPUT", f"input {name!r} is unknown; expected {', '.join(specs)}"
            )
        spec = specs[name]
        array = _read(name, value).astype(NUMPY_TYPES[spec.datatype])
        if array.ndim == len(spec.shape) - 1 and signature.max_batch_size:
            array = array[None]
        arrays[name] = array
    return arrays


def _read(name: str, value: str) -> Any:
    import numpy as np

    from chassis.errors import InvalidArgument

    try:
        if value.startswith("@"):
            return np.load(Path(value[1:]), allow_pickle=False)
        return np.asarray(json.loads(value))
    except (OSError, ValueError) as error:
        raise InvalidArgument(
            "BAD_INPUT", f"input {name!r}: expected JSON or @file.npy ({error})"
        ) from None
