"""Weights and metrics as the command line gives them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chassis.errors import InvalidArgument

if TYPE_CHECKING:
    from torch import nn

    from headrace.model import Model


def built_module(model: Model, weights: Path | None) -> nn.Module:
    """The model's module, filled from a safetensors file where one is named.

    Raises InvalidArgument (BAD_WEIGHTS) naming the file, or the tensors that differ.
    """
    module = model.build()
    if weights is None:
        return module
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(weights.read_bytes())
    except (OSError, SafetensorError) as error:
        raise InvalidArgument("BAD_WEIGHTS", f"{weights} cannot be read: {error}") from None
    own = module.state_dict()
    wrong = sorted(
        name
        for name in own.keys() | tensors.keys()
        if name not in own
        or name not in tensors
        or own[name].shape != tensors[name].shape
        or own[name].dtype != tensors[name].dtype
    )
    if wrong:
        raise InvalidArgument(
            "BAD_WEIGHTS",
            f"{weights} does not fit {model.name}: name, shape or dtype differ for "
            + ", ".join(wrong[:8]),
        )
    module.load_state_dict(tensors)
    return module


def parsed_metrics(texts: Sequence[str]) -> dict[str, float]:
    """Metrics from name=value texts. Raises InvalidArgument (BAD_METRIC)."""
    metrics = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            metrics[name] = float(value)
        except ValueError:
            raise InvalidArgument(
                "BAD_METRIC", f"metric {text!r}: expected name=value with a number"
            ) from None
    return metrics
