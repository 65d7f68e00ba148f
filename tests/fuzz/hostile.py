"""Requests that parse and mean harm: one function for each idea, all driven by one seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from tests.fuzz.shot import Shot
from tests.fuzz.valid import REGION, REGION_BYTES, classes, count, mix, tally, texts

EDGES = (
    -(2**63),
    -(2**31),
    -4,
    -1,
    0,
    1,
    3,
    5,
    2**16,
    2**31 - 1,
    2**31,
    2**32,
    2**32 + 1,
    2**40,
    2**61,
    2**62,
    2**63 - 1,
)
NAMES = (
    "",
    ".",
    "..",
    "../../../etc/passwd",
    "/etc/passwd",
    "mix/../mix",
    "mix\0",
    "\0",
    "mix ",
    "MIX",
    "\u202emix",
    "\U0001f4a9" * 50,
    "a" * 128,
    "a" * 129,
    "a" * 100_000,
    "%s%n%x",
    "${jndi:x}",
    "'; DROP TABLE models; --",
    "mix\r\nx: y",
)
PARAMETERS = (
    "priority",
    "timeout",
    "sequence_id",
    "sequence_start",
    "sequence_end",
    "channel",
    "max_staleness_ms",
    "classification",
    "shared_memory_region",
    "shared_memory_byte_size",
    "shared_memory_offset",
    "binary_data",
    "binary_data_output",
    "triton_enable_empty_final_response",
    "triton_final_response",
    "headrace_code",
    "config",
    "file:../../x",
    "",
    "\0",
    "__class__",
    "a" * 5000,
)
TENSOR_PARAMETERS = (
    "shared_memory_region",
    "shared_memory_byte_size",
    "shared_memory_offset",
    "classification",
    "binary_data_size",
    "anything",
)

Idea = Callable[[random.Random], pb.ModelInferRequest]


def fp32(shape: list[int], content: bytes | None) -> pb.ModelInferRequest:
    """A request of identity-fp32."""
    request = pb.ModelInferRequest(model_name="identity-fp32")
    request.inputs.add(name="x", datatype="FP32", shape=shape)
    if content is not None:
        request.raw_input_contents.append(content)
    return request


def _dims(draw: random.Random) -> pb.ModelInferRequest:
    shape = [draw.choice(EDGES) for _ in range(draw.choice((0, 1, 2, 2, 2, 3, 8)))]
    return fp32(shape, bytes(draw.choice((0, 1, 15, 16, 17, 4096))))


def _product_wraps(draw: random.Random) -> pb.ModelInferRequest:
    """Sizes whose product is small modulo 2**64."""
    shape = draw.choice(([2**32, 2**32], [2**62, 4], [2**63 - 1, 2, 2], [2**33, 2**31, 4]))
    request = fp32(list(shape), bytes(draw.choice((0, 16))))
    if draw.random() < 0.5:
        request.model_name = "ragged"
    return request


def _many_dims(draw: random.Random) -> pb.ModelInferRequest:
    return fp32([draw.choice((0, 1, 2))] * draw.choice((9, 64, 1000, 100_000)), bytes(16))


def _byte_count(draw: random.Random) -> pb.ModelInferRequest:
    rows = draw.randint(1, 9)
    return fp32([rows, 4], bytes(max(0, rows * 16 + draw.choice((-16, -4, -1, 1, 4, 16)))))


def _too_many_rows(draw: random.Random) -> pb.ModelInferRequest:
    rows = draw.choice((8, 9, 10, 1000, 50_000))
    return fp32([rows, 4], bytes(rows * 16))


def _floats(draw: random.Random) -> pb.ModelInferRequest:
    row = draw.choices((np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, 0.0), k=4)
    return fp32([1, 4], np.array(row, np.float32).tobytes())


def _both_contents(draw: random.Random) -> pb.ModelInferRequest:
    request = fp32([1, 4], bytes(16))
    field = draw.choice(("fp32_contents", "int_contents", "bool_contents", "fp64_contents"))
    getattr(request.inputs[0].contents, field).extend([1] * draw.choice((0, 1, 4)))
    request.inputs[0].contents.SetInParent()
    return request


def _typed_counts(draw: random.Random) -> pb.ModelInferRequest:
    request = fp32([draw.choice(EDGES), 4], None)
    count = draw.choice((0, 1, 3, 4, 5, 10_000))
    request.inputs[0].contents.fp32_contents.extend([1.0] * count)
    return request


def _typed_ranges(draw: random.Random) -> pb.ModelInferRequest:
    datatype = draw.choice(("INT8", "UINT8", "INT16", "UINT16", "BOOL", "INT32", "UINT32"))
    request = pb.ModelInferRequest(model_name=f"identity-{datatype.lower()}")
    tensor = request.inputs.add(name="x", datatype=datatype, shape=[1, 4])
    if datatype.startswith("U"):
        tensor.contents.uint_contents.extend(draw.choices((0, 2**8, 2**16, 2**32 - 1), k=4))
    else:
        tensor.contents.int_contents.extend(draw.choices((-(2**31), -129, 128, 2**31 - 1), k=4))
    return request


def _datatype(draw: random.Random) -> pb.ModelInferRequest:
    request = fp32([1, 4], bytes(16))
    names = ("", "fp32", "FP32 ", "FLOAT", "BYTES", "TYPE_FP32", "FP16", "a" * 10_000, "\0")
    request.inputs[0].datatype = draw.choice(names)
    return request


def _bytes_lengths(draw: random.Random) -> pb.ModelInferRequest:
    """BYTES elements whose lengths lie, at a model of texts and at one of numbers."""
    length = draw.choice((0, 1, 4, 5, 2**31 - 1, 2**31, 2**32 - 1))
    content = length.to_bytes(4, "little") + draw.randbytes(draw.choice((0, 1, 4, 5)))
    request = pb.ModelInferRequest(model_name=draw.choice(("text", "text", "identity-fp32")))
    request.inputs.add(name="x", datatype="BYTES", shape=[draw.choice((1, 2)), 4])
    request.raw_input_contents.append(content * draw.choice((1, 4, 8, 300)))
    return request


def _tensor_names(draw: random.Random) -> pb.ModelInferRequest:
    request = mix(1)
    for tensor in request.inputs:
        if draw.random() < 0.7:
            tensor.name = draw.choice((*NAMES, "a", "b"))
    return request


def _model_names(draw: random.Random) -> pb.ModelInferRequest:
    request = mix(1)
    request.model_name = draw.choice(NAMES)
    return request


def _versions(draw: random.Random) -> pb.ModelInferRequest:
    request = mix(1)
    request.model_version = draw.choice((*NAMES, "0", "-1", "2", "99999999999999999999", "1e3"))
    return request


def _ids(draw: random.Random) -> pb.ModelInferRequest:
    request = mix(1)
    request.id = draw.choice(NAMES)
    return request


def _outputs(draw: random.Random) -> pb.ModelInferRequest:
    request = mix(1)
    names = draw.choices((*NAMES, "sum", "sum", "twice", "wide"), k=draw.choice((1, 2, 3, 300)))
    for name in names:
        request.outputs.add(name=name[:1000])
    return request


def _set(draw: random.Random, parameter: pb.InferParameter) -> None:
    kind = draw.choice(
        ("bool_param", "int64_param", "string_param", "double_param", "uint64_param", "")
    )
    if kind == "bool_param":
        parameter.bool_param = draw.random() < 0.5
    elif kind == "int64_param":
        parameter.int64_param = draw.choice(EDGES)
    elif kind == "string_param":
        parameter.string_param = draw.choice((*NAMES, "1", "stable", "true", "-1"))
    elif kind == "double_param":
        parameter.double_param = draw.choice((float("nan"), float("inf"), -1.0, 1e308, 0.5))
    elif kind == "uint64_param":
        parameter.uint64_param = draw.choice((0, 1, 2**32, 2**63, 2**64 - 1))


def _parameters(draw: random.Random) -> pb.ModelInferRequest:
    request = mix(1)
    for _ in range(draw.choice((1, 1, 2, 5))):
        _set(draw, request.parameters[draw.choice(PARAMETERS)])
    return request


def _many_parameters(draw: random.Random) -> pb.ModelInferRequest:
    request = mix(1)
    for number in range(draw.choice((64, 1000, 5000))):
        request.parameters[f"p{number}"].int64_param = number
    return request


def _tensor_parameters(draw: random.Random) -> pb.ModelInferRequest:
    request = mix(1)
    if draw.random() < 0.5:
        del request.raw_input_contents[:]
    request.outputs.add(name="sum")
    for tensor in (*request.inputs, *request.outputs):
        for _ in range(draw.randint(0, 3)):
            _set(draw, tensor.parameters[draw.choice(TENSOR_PARAMETERS)])
    return request


def _shared_memory(draw: random.Random) -> pb.ModelInferRequest:
    """Regions that are there or not, offsets and sizes within and beyond them."""
    request = mix(1)
    del request.raw_input_contents[:]
    for tensor in (*request.inputs, request.outputs.add(name="sum")):
        region = draw.choice((REGION, REGION, draw.choice(NAMES)[:500]))
        tensor.parameters["shared_memory_region"].string_param = region
        size = draw.choice((4, 16, REGION_BYTES, draw.choice(EDGES)))
        tensor.parameters["shared_memory_byte_size"].int64_param = size
        offset = draw.choice((0, 16, REGION_BYTES - 16, REGION_BYTES, draw.choice(EDGES)))
        tensor.parameters["shared_memory_offset"].int64_param = offset
    return request


def _sequence(draw: random.Random) -> pb.ModelInferRequest:
    request = draw.choice((mix(1), fp32([1, 4], bytes(16)), tally(1), tally(1), tally(2)))
    identity = request.parameters["sequence_id"]
    if draw.random() < 0.5:
        identity.string_param = draw.choice((*NAMES, "s1", "s2"))
    else:
        identity.uint64_param = draw.choice((0, 1, 2, 2**64 - 1))
    for name in ("sequence_start", "sequence_end"):
        if draw.random() < 0.5:
            request.parameters[name].bool_param = draw.random() < 0.7
    return request


def _responses(draw: random.Random) -> pb.ModelInferRequest:
    """A model that answers any number of times, and not at all where it is asked for one."""
    request = count(draw.choice((-(2**31), -1, 0, 1, 3, 40)))
    if draw.random() < 0.5:
        request.parameters["triton_enable_empty_final_response"].bool_param = draw.random() < 0.8
    return request


def _endless(_draw: random.Random) -> pb.ModelInferRequest:
    """More responses than anybody waits for: the caller goes away in the middle."""
    return count(2**31 - 1)


def _classes(draw: random.Random) -> pb.ModelInferRequest:
    """The best classes of outputs that have some, or none."""
    request = draw.choice((classes(), mix(1), texts()))
    name = draw.choice(("scores", "sum", "y", "length"))
    kind = request.outputs.add(name=name).parameters["classification"]
    kind.int64_param = draw.choice((*EDGES, 1, 2, 3))
    return request


def _index(draw: random.Random) -> pb.ModelInferRequest:
    """An index outside the model's table: poison for the batch that it joins."""
    request = pb.ModelInferRequest(model_name="lookup")
    request.inputs.add(name="index", datatype="INT64", shape=[1])
    request.raw_input_contents.append(np.array([draw.choice((*EDGES, 9, 10))]).tobytes())
    return request


def _contents_count(draw: random.Random) -> pb.ModelInferRequest:
    request = mix(1)
    del request.raw_input_contents[:]
    for _ in range(draw.choice((1, 3, 100, 5000))):
        request.raw_input_contents.append(bytes(draw.choice((0, 4, 16))))
    return request


def _many_inputs(draw: random.Random) -> pb.ModelInferRequest:
    request = mix(1)
    for _ in range(draw.choice((1, 100, 3000))):
        request.inputs.add()
    return request


def _good(draw: random.Random) -> pb.ModelInferRequest:
    return mix(draw.randint(1, 8))


IDEAS: tuple[Idea, ...] = (
    _dims,
    _product_wraps,
    _many_dims,
    _byte_count,
    _too_many_rows,
    _floats,
    _both_contents,
    _typed_counts,
    _typed_ranges,
    _datatype,
    _bytes_lengths,
    _tensor_names,
    _model_names,
    _versions,
    _ids,
    _outputs,
    _parameters,
    _many_parameters,
    _tensor_parameters,
    _shared_memory,
    _sequence,
    _responses,
    _endless,
    _classes,
    _index,
    _contents_count,
    _many_inputs,
)
# Empty entries by the number of their field in ModelInferRequest: inputs, outputs, raw contents.
EMPTY_ENTRIES = (b"\x2a\x00", b"\x32\x00", b"\x3a\x00")
EMPTY_COUNT = 1_000_000


def hostile_shot(draw: random.Random, label: str) -> Shot:
    """One of the ideas, unary or on a stream with good neighbours, sometimes in haste."""
    idea = draw.choice(IDEAS)
    frame = idea(draw).SerializeToString()
    shot = Shot(f"{label} {idea.__name__}", "ModelInfer", (frame,))
    if idea is _endless:
        span_s = draw.choice((0.002, 0.01, 0.05, 0.2))
        return replace(shot, method="ModelStreamInfer", streams=True, cancel_after_s=span_s)
    if draw.random() < 0.25:
        good = _good(draw).SerializeToString()
        shot = replace(shot, method="ModelStreamInfer", streams=True, frames=(good, frame, good))
    return _hurried(draw, shot)


def _hurried(draw: random.Random, shot: Shot) -> Shot:
    chance = draw.random()
    if chance < 0.06:
        return replace(shot, timeout_s=draw.choice((0.0, 1e-4, 0.001, 0.003, 0.01)))
    if chance < 0.14:
        # From before the request is read to after its answer is there.
        return replace(shot, cancel_after_s=draw.choice((0.0, 0.0005, 0.002, 0.004, 0.01)))
    if chance < 0.16:
        return replace(shot, metadata=(("x-header", "v" * draw.choice((1, 1000, 7000))),))
    return shot


def heavy_shot(draw: random.Random, label: str) -> Shot:
    """A million empty entries, or a message of many megabytes."""
    kind = draw.randrange(4)
    if kind < len(EMPTY_ENTRIES):
        frame = mix(1).SerializeToString() + EMPTY_ENTRIES[kind] * EMPTY_COUNT
        return Shot(f"{label} million", "ModelInfer", (frame,))
    size = draw.choice((4, 8)) * 1024 * 1024
    frame = fp32([1, 4], bytes(size)).SerializeToString()
    return Shot(f"{label} megabytes", "ModelInfer", (frame,))
