"""ModelInfer from HTTP: JSON, and with the binary extension raw tensors behind it.

Every tensor's bytes go into raw_input_contents, so that what follows costs the same for both.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from chassis.errors import InvalidArgument
from chassis.rest.json_text import Object, flag_at, list_at, object_at, parsed, text_at
from chassis.rest.parameters import put_parameters
from chassis.rest.tensor_json import raw_of
from protos.inference import grpc_service_pb2 as oip

HEADER_LENGTH = b"inference-header-content-length"
# Parameters that belong to HTTP and go no further.
BINARY_OUTPUT = "binary_data_output"
BINARY_SIZE = "binary_data_size"
BINARY = "binary_data"
SHARED_MEMORY = "shared_memory_region"
# Tensors of a request that are looked at; what a model takes is checked later.
MAX_TENSORS = 1024
MAX_DIMENSIONS = 64


@dataclass(slots=True)
class Wanted:
    """How outputs shall travel: `binary` unless `outputs` says otherwise, by name."""

    binary: bool = False
    outputs: dict[str, bool] = field(default_factory=dict)

    def is_binary(self, name: str) -> bool:
        """Whether that output goes behind the JSON."""
        return self.outputs.get(name, self.binary)


def infer_request(
    body: bytes, header_length: bytes | None, *, model: str, version: str, json_bytes: int
) -> tuple[oip.ModelInferRequest, Wanted]:
    """The message that a body stands for; `header_length` is what its header of that name says.

    Raises InvalidArgument naming what is wrong, ResourceExhausted (JSON_TOO_LARGE).
    """
    text, binary = _parted(body, header_length)
    given = parsed(text, json_bytes)
    message = oip.ModelInferRequest(
        model_name=model, model_version=version, id=text_at(given, "id", "id", "")
    )
    wanted = Wanted()
    parameters = object_at(given, "parameters", "parameters")
    if parameters:
        wanted.binary = flag_at(
            parameters, BINARY_OUTPUT, f"parameters[{BINARY_OUTPUT}]", default=False
        )
        put_parameters(message.parameters, parameters, "parameters", (BINARY_OUTPUT,))
    _add_inputs(message, _listed(given, "inputs"), binary)
    _add_outputs(message, _listed(given, "outputs"), wanted)
    return message, wanted


def _parted(body: bytes, header_length: bytes | None) -> tuple[bytes, memoryview]:
    if header_length is None:
        return body, memoryview(b"")
    if not header_length.isdigit() or len(header_length) > 18 or int(header_length) > len(body):
        raise InvalidArgument(
            "BAD_HEADER_LENGTH",
            "Inference-Header-Content-Length is not the length of the JSON in a body of "
            f"{len(body)} bytes",
        )
    length = int(header_length)
    return body[:length], memoryview(body)[length:]


def _listed(given: Object, key: str) -> list[Object]:
    items = list_at(given, key, key)
    if len(items) > MAX_TENSORS:
        raise InvalidArgument(
            "TOO_MANY_TENSORS",
            f"the request has {len(items)} {key}; expected at most {MAX_TENSORS}",
            field=key,
        )
    for index, item in enumerate(items):
        if type(item) is not dict:
            raise InvalidArgument(
                "BAD_JSON", f"{key}[{index}] is not an object", field=f"{key}[{index}]"
            )
    return items


def _add_inputs(message: oip.ModelInferRequest, inputs: list[Object], binary: memoryview) -> None:
    at = 0
    for index, given in enumerate(inputs):
        path = f"inputs[{index}]"
        shape = _shape(given, path)
        tensor = message.inputs.add(
            name=text_at(given, "name", f"{path}.name"),
            datatype=text_at(given, "datatype", f"{path}.datatype"),
            shape=shape,
        )
        parameters = object_at(given, "parameters", f"{path}.parameters")
        size = _binary_size(parameters, path)
        if parameters:
            put_parameters(tensor.parameters, parameters, f"{path}.parameters", (BINARY_SIZE,))
        if size is not None:
            if "data" in given:
                raise InvalidArgument(
                    "BAD_CONTENTS",
                    f"{path} has data besides binary data; expected one of them",
                    field=f"{path}.data",
                )
            if at + size > len(binary):
                raise _wrong_size(path, at + size, len(binary))
            message.raw_input_contents.append(bytes(binary[at : at + size]))
            at += size
        elif "data" in given:
            values = list_at(given, "data", f"{path}.data")
            message.raw_input_contents.append(raw_of(values, tensor.datatype, shape, path))
        elif SHARED_MEMORY not in parameters:
            raise InvalidArgument(
                "BAD_CONTENTS",
                f"{path} has no data; expected data, or the parameter {BINARY_SIZE} or "
                f"{SHARED_MEMORY}",
                field=f"{path}.data",
            )
    if at != len(binary):
        raise InvalidArgument(
            "BAD_BYTE_COUNT",
            f"the body holds {len(binary)} bytes of binary data; the inputs need {at}",
            field="inputs",
        )


def _shape(given: Object, path: str) -> list[int]:
    shape = list_at(given, "shape", f"{path}.shape")
    fits = "shape" in given and len(shape) <= MAX_DIMENSIONS
    if not fits or any(type(size) is not int or not 0 <= size < 2**63 for size in shape):
        raise InvalidArgument(
            "BAD_SHAPE",
            f"{path}.shape is not a list of at most {MAX_DIMENSIONS} sizes",
            field=f"{path}.shape",
        )
    return shape


def _binary_size(parameters: Object, path: str) -> int | None:
    if BINARY_SIZE not in parameters:
        return None
    size = parameters[BINARY_SIZE]
    if type(size) is not int or size < 0:
        raise InvalidArgument(
            "BAD_PARAMETER",
            f"{path}.parameters[{BINARY_SIZE}] is not a number of bytes",
            field=f"{path}.parameters[{BINARY_SIZE}]",
        )
    return size


def _wrong_size(path: str, needed: int, held: int) -> InvalidArgument:
    return InvalidArgument(
        "BAD_BYTE_COUNT",
        f"{path} ends {needed} bytes behind the JSON; the body holds {held} there",
        field=f"{path}.parameters[{BINARY_SIZE}]",
    )


def _add_outputs(message: oip.ModelInferRequest, outputs: list[Object], wanted: Wanted) -> None:
    for index, given in enumerate(outputs):
        path = f"outputs[{index}]"
        name = text_at(given, "name", f"{path}.name")
        output = message.outputs.add(name=name)
        parameters = object_at(given, "parameters", f"{path}.parameters")
        if BINARY in parameters:
            wanted.outputs[name] = flag_at(
                parameters, BINARY, f"{path}.parameters[{BINARY}]", default=False
            )
        put_parameters(output.parameters, parameters, f"{path}.parameters", (BINARY,))
