"""The door for model descriptions: ModelMetadata and ModelConfig as signatures and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chassis.errors import InvalidArgument
from chassis.tensors import Signature, TensorSpec
from protos.inference import grpc_service_pb2 as oip
from protos.inference import model_config_pb2 as config_pb2

SERVICE = "inference.GRPCInferenceService"
PLATFORM = "pytorch"

# ModelConfig names datatypes by an enum; BYTES is TYPE_STRING there.
_CONFIG_NAMES = {"BYTES": "STRING"}


def metadata_reply(
    model: str, versions: Sequence[str], signature: Signature
) -> oip.ModelMetadataResponse:
    """Shapes with a leading -1 where the model batches."""
    reply = oip.ModelMetadataResponse(name=model, versions=versions, platform=PLATFORM)
    for specs, tensors in (
        (signature.inputs, reply.inputs),
        (signature.outputs, reply.outputs),
    ):
        for spec in specs:
            tensors.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
    return reply


def config_reply(model: str, signature: Signature) -> oip.ModelConfigResponse:
    """Dims without the batch dimension, as Triton's clients expect them."""
    config = config_pb2.ModelConfig(
        name=model, platform=PLATFORM, backend=PLATFORM, max_batch_size=signature.max_batch_size
    )
    leading = 1 if signature.max_batch_size else 0
    for spec in signature.inputs:
        config.input.add(
            name=spec.name, data_type=_config_type(spec.datatype), dims=spec.shape[leading:]
        )
    for spec in signature.outputs:
        config.output.add(
            name=spec.name, data_type=_config_type(spec.datatype), dims=spec.shape[leading:]
        )
    if signature.max_batch_size:
        config.dynamic_batching.SetInParent()
    return oip.ModelConfigResponse(config=config)


def signature_of(metadata: oip.ModelMetadataResponse, max_batch_size: int) -> Signature:
    """The signature another OIP server describes. Raises InvalidArgument (BAD_SPEC)."""

    def specs(tensors: Any) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(item.name, item.datatype, tuple(item.shape)) for item in tensors)

    return Signature(specs(metadata.inputs), specs(metadata.outputs), max_batch_size)


def checked_version(text: str) -> int:
    """The version a `model_version` field names; 0 for empty.

    Raises InvalidArgument (BAD_VERSION).
    """
    if not text:
        return 0
    if text.isascii() and text.isdigit() and not text.startswith("0") and len(text) <= 18:
        return int(text)
    raise InvalidArgument(
        "BAD_VERSION",
        f"model_version {text[:40]!r} is not a version: expected a positive decimal integer "
        "or nothing",
        field="model_version",
    )


def _config_type(datatype: str) -> int:
    name = f"TYPE_{_CONFIG_NAMES.get(datatype, datatype)}"
    return int(config_pb2.DataType.Value(name))
