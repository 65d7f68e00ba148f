"""Headrace: keep a PyTorch model training and serve its newest good weights over gRPC.

`Model` and `TensorSpec` describe a model, `Publisher` publishes weights from any training loop,
`Client` and `AsyncClient` ask for predictions, `export_folder` and `load_folder` exchange weights
with Hugging Face's libraries, `LightningPublisher` and `HFTrainerPublisher` are callbacks of those
trainers. Names load on first use: `import headrace` alone imports neither torch nor grpc.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chassis.errors import InvalidArgument
    from chassis.tensors import Padding, Signature, TensorSpec
    from headrace.client import AsyncClient, Client
    from headrace.folder.export import export_folder
    from headrace.folder.state import load_folder
    from headrace.integrations.lightning import LightningPublisher
    from headrace.integrations.transformers import HFTrainerPublisher
    from headrace.model import Model
    from headrace.prediction import Prediction
    from headrace.publisher import Publisher

__all__ = [
    "AsyncClient",
    "Client",
    "HFTrainerPublisher",
    "InvalidArgument",
    "LightningPublisher",
    "Model",
    "Padding",
    "Prediction",
    "Publisher",
    "Signature",
    "TensorSpec",
    "export_folder",
    "load_folder",
]
__version__ = "0.1.0"

_HOMES = {
    "AsyncClient": "headrace.client",
    "Client": "headrace.client",
    "HFTrainerPublisher": "headrace.integrations.transformers",
    "InvalidArgument": "chassis.errors",
    "LightningPublisher": "headrace.integrations.lightning",
    "Model": "headrace.model",
    "Padding": "chassis.tensors",
    "Prediction": "headrace.prediction",
    "Publisher": "headrace.publisher",
    "Signature": "chassis.tensors",
    "TensorSpec": "chassis.tensors",
    "export_folder": "headrace.folder.export",
    "load_folder": "headrace.folder.state",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'headrace' has no attribute {name!r}")
    return getattr(import_module(home), name)
