"""The door for model descriptions: ModelMetadata and ModelConfig as signatures and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from chassis.errors import InvalidArgument
from chassis.tensors import Padding, Signature, TensorSpec
from protos.inference import grpc_service_pb2 as oip
from protos.inference import model_config_pb2 as config_pb2

SERVICE = "inference.GRPCInferenceService"
PLATFORM = "pytorch"
# What every server of ours speaks beside the protocol itself, by Triton's names.
EXTENSIONS = (
    "classification",
    "sequence",
    "model_repository",
    "model_repository(unload_dependents)",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
)

# ModelConfig names datatypes by an enum; BYTES is TYPE_STRING there.
_CONFIG_NAMES = {"BYTES": "STRING"}
_OIP_NAMES = {name: datatype for datatype, name in _CONFIG_NAMES.items()}

# Parameters of ModelConfig that carry the parts of a signature Triton has no field for.
PADDING_PARAMETER = "headrace.padding"
LABELS_PARAMETER = "headrace.labels"


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
    for spec in signature.states:
        config.sequence_batching.state.add(
            input_name=spec.name,
            output_name=spec.name,
            data_type=_config_type(spec.datatype),
            dims=spec.shape[leading:],
        )
    if signature.max_batch_size and not signature.states:
        config.dynamic_batching.SetInParent()
    if signature.decoupled:
        config.model_transaction_policy.decoupled = True
    for key, value in _extras(signature).items():
        config.parameters[key].string_value = json.dumps(value)
    return oip.ModelConfigResponse(config=config)


def signature_of(metadata: oip.ModelMetadataResponse, config: Any) -> Signature:
    """The signature another OIP server describes; `config` is its ModelConfig message.

    Raises InvalidArgument (BAD_SPEC).
    """

    def specs(tensors: Any) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(item.name, item.datatype, tuple(item.shape)) for item in tensors)

    leading = (-1,) if config.max_batch_size else ()
    # Another server's states may have sizes that ours have not: they are its own affair.
    states = tuple(
        TensorSpec(state.input_name, _datatype(state.data_type), (*leading, *state.dims))
        for state in config.sequence_batching.state
        if -1 not in state.dims
    )
    padding, labels = _read_extras(config)
    return Signature(
        specs(metadata.inputs),
        specs(metadata.outputs),
        config.max_batch_size,
        config.model_transaction_policy.decoupled,
        states,
        padding,
        labels,
    )


def _extras(signature: Signature) -> dict[str, Any]:
    """What Triton's configuration has no field for, as JSON values by parameter."""
    extras: dict[str, Any] = {}
    if signature.padding:
        extras[PADDING_PARAMETER] = [
            {
                "axis": padding.axis,
                "buckets": padding.buckets,
                "inputs": padding.inputs,
                "outputs": padding.outputs,
            }
            for padding in signature.padding
        ]
    if signature.labels:
        extras[LABELS_PARAMETER] = dict(signature.labels)
    return extras


def _read_extras(config: Any) -> tuple[tuple[Padding, ...], Any]:
    """Raises InvalidArgument (BAD_SPEC)."""
    try:
        padding = tuple(
            Padding(
                item["axis"],
                tuple(item["buckets"]),
                tuple((name, fill) for name, fill in item["inputs"]),
                tuple(item["outputs"]),
            )
            for item in _extra(config, PADDING_PARAMETER, [])
        )
        labels = tuple(
            (name, tuple(names)) for name, names in _extra(config, LABELS_PARAMETER, {}).items()
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidArgument(
            "BAD_SPEC", f"the configuration of model {config.name!r} has unreadable parameters"
        ) from error
    return padding, labels


def _extra(config: Any, key: str, default: Any) -> Any:
    if key not in config.parameters:
        return default
    return json.loads(config.parameters[key].string_value)


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


def _datatype(config_type: int) -> str:
    name = str(config_pb2.DataType.Name(config_type)).removeprefix("TYPE_")
    return _OIP_NAMES.get(name, name)


def _config_type(datatype: str) -> int:
    name = f"TYPE_{_CONFIG_NAMES.get(datatype, datatype)}"
    return int(config_pb2.DataType.Value(name))
