"""`headrace predict`: one request to a gateway, inputs from the command line or from .npy files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.cli.access import credentials
from headrace.cli.output import Format, FormatOption, Row, print_json

if TYPE_CHECKING:
    from chassis.tensors import Signature
    from headrace.prediction import Prediction

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
    max_staleness_ms: Annotated[
        int | None, typer.Option(min=0, help="Refuse an answer of older weights than this.")
    ] = None,
    gateway: AddressOption = "127.0.0.1:8001",
    timeout: Annotated[float, typer.Option(help="Seconds.")] = 10.0,
    priority: Annotated[int, typer.Option(help="1 is the most urgent; 0: the server's.")] = 0,
    output: FormatOption = Format.TABLE,
) -> None:
    """Ask for one prediction; prints the outputs and the version that answered.

    A model that gives several responses prints each as it comes, as JSON one a line.
    """
    from headrace.client import Client
    from headrace.prediction import Options

    options: Options = {
        "version": version,
        "channel": channel,
        "max_staleness_ms": max_staleness_ms,
        "priority": priority,
    }
    with Client(gateway, timeout_s=timeout, **credentials()) as client:
        signature = client.signature(model)
        arrays = parsed_inputs(inputs, signature)
        if signature.decoupled:
            for part in client.generate(model, arrays, **options):
                _print(part, output, line=True)
        else:
            _print(client.predict(model, arrays, **options), output, line=False)


def _print(answer: Prediction, output: Format, *, line: bool) -> None:
    if output is Format.JSON:
        outputs = {name: _plain(array.tolist()) for name, array in answer.outputs.items()}
        record: Row = {
            "model": answer.model,
            "version": answer.version,
            "train_step": answer.train_step,
            "age_ms": answer.age_ms,
            "outputs": outputs,
        }
        if line:
            typer.echo(json.dumps(record))
        else:
            print_json(record)
        return
    typer.echo(f"{answer.model} version {answer.version}{_age_text(answer)}")
    for name, array in answer.outputs.items():
        typer.echo(f"{name} {list(array.shape)}\n{array}")


def _age_text(answer: Prediction) -> str:
    if answer.age_ms is None:
        return ""
    return f", train step {answer.train_step}, {answer.age_ms / 1000:.1f} s old"


def _plain(value: Any) -> Any:
    """Bytes as text, for JSON."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def parsed_inputs(texts: list[str], signature: Signature) -> dict[str, Any]:
    """Arrays in the signature's dtypes from name=value texts.

    Raises InvalidArgument (BAD_INPUT, UNKNOWN_INPUT).
    """
    from chassis.errors import InvalidArgument
    from chassis.tensors import NUMPY_TYPES

    specs = {spec.name: spec for spec in signature.inputs}
    arrays = {}
    for name, value in _named(texts):
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


def read_arrays(texts: Sequence[str]) -> dict[str, Any]:
    """Arrays from name=value texts, as they are. Raises InvalidArgument (BAD_INPUT)."""
    return {name: _read(name, value) for name, value in _named(texts)}


def _named(texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    for text in texts:
        name, _, value = text.partition("=")
        yield name, value


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
