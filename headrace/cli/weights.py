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
    """The model's module, filled from a safetensors file or a folder of them where one is named.

    Raises InvalidArgument (BAD_WEIGHTS, PICKLED_WEIGHTS) naming the file, or the tensors that
    differ.
    """
    module = model.build()
    if weights is not None:
        from headrace.folder.state import fill

        fill(module, weights, model.name)
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
