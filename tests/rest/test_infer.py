"""Infer over HTTP: every datatype as JSON and as binary data, and what is refused."""

import gzip
import json
import struct
import zlib

import numpy as np
import pytest

from chassis.tensors import NUMPY_TYPES, encode_raw
from tests.rest.http import Client, ask

VALUES = {
    "BOOL": [True, False],
    "UINT8": [0, 255],
    "UINT16": [0, 65535],
    "UINT32": [0, 2**32 - 1],
    "UINT64": [0, 2**64 - 1],
    "INT8": [-128, 127],
    "INT16": [-32768, 32767],
    "INT32": [-(2**31), 2**31 - 1],
    "INT64": [-(2**63), 2**63 - 1],
    "FP32": [0.1, -1.5],
    "FP64": [0.1, 1e300],
    "BYTES": ["grün", ""],
}
BEYOND = {
    "UINT8": [256, -1],
    "UINT64": [-1, 1e30],
    "INT8": [128, -129],
    "INT32": [2**31, 1.5],
    "INT64": [2**63, True],
    "FP32": [1e39, "a"],
    "FP64": [None, "1.0"],
    "BOOL": [1, "true"],
    "BYTES": [1, None],
}


def infer_path(datatype: str) -> str:
    return f"/v2/models/echo_{datatype.lower()}/infer"


def request(datatype: str, data, shape=(1, 2), **more) -> dict:
    tensor = {"name": "in", "shape": list(shape), "datatype": datatype, "data": data}
    return {"inputs": [tensor], **more}


def binary(datatype: str, raw: bytes, shape=(1, 2), **more) -> tuple[bytes, dict[str, str]]:
    """A body with the tensor behind the JSON, and its header."""
    tensor = {
        "name": "in",
        "shape": list(shape),
        "datatype": datatype,
        "parameters": {"binary_data_size": len(raw)},
    }
    text = json.dumps({"inputs": [tensor], **more}).encode()
    return text + raw, {"inference-header-content-length": str(len(text))}


@pytest.mark.parametrize("datatype", VALUES)
@pytest.mark.parametrize("nested", [False, True])
async def test_json_goes_there_and_back(served, datatype, nested):
    values = VALUES[datatype]
    data = [values] if nested else values
    answer = await ask(served.port, "POST", infer_path(datatype), request(datatype, data, id="q"))
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"] == "application/json"
    output = {"name": "out", "datatype": datatype, "shape": [1, 2], "data": values}
    model = f"echo_{datatype.lower()}"
    assert answer.json == {
        "model_name": model,
        "model_version": "7",
        "id": "q",
        "outputs": [output],
    }


@pytest.mark.parametrize("datatype", NUMPY_TYPES)
async def test_binary_data_goes_there_and_back(served, datatype):
    if datatype == "BYTES":
        raw = encode_raw(np.array([b"\xff\x00", b""], dtype=object), "BYTES")
    else:
        raw = bytes(range(2 * NUMPY_TYPES[datatype].itemsize))
    body, headers = binary(datatype, raw, parameters={"binary_data_output": True})
    answer = await ask(served.port, "POST", infer_path(datatype), body, headers)
    assert answer.status == 200, answer.body
    length = int(answer.headers["inference-header-content-length"])
    told = json.loads(answer.body[:length])
    assert told["outputs"][0]["parameters"] == {"binary_data_size": len(raw)}
    assert "data" not in told["outputs"][0]
    assert answer.body[length:] == raw
    assert served.servicer.requests[0].raw_input_contents == [raw]
    assert not served.servicer.requests[0].parameters


@pytest.mark.parametrize(("datatype", "value"), [(d, v) for d in BEYOND for v in BEYOND[d]])
async def test_a_value_that_its_datatype_cannot_hold_is_refused(served, datatype, value):
    given = request(datatype, [VALUES[datatype][0], value])
    answer = await ask(served.port, "POST", infer_path(datatype), given)
    assert (answer.status, answer.reason) == (400, "BAD_CONTENTS")
    assert answer.json["field"] == "inputs[0].data"


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
async def test_half_floats_travel_only_as_binary_data(served, datatype):
    answer = await ask(served.port, "POST", infer_path(datatype), request(datatype, [1.0, 2.0]))
    assert (answer.status, answer.reason) == (400, "BAD_CONTENTS")
    body, headers = binary(datatype, b"\0\0\0\0")
    answer = await ask(served.port, "POST", infer_path(datatype), body, headers)
    assert (answer.status, answer.reason) == (400, "NOT_JSON")


@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
@pytest.mark.parametrize("text", ["[NaN, -Infinity]", '["NaN", "-Infinity"]'])
async def test_values_that_are_not_finite_are_valid_json_in_the_answer(served, datatype, text):
    body = json.dumps(request(datatype, "DATA")).replace('"DATA"', text).encode()
    answer = await ask(served.port, "POST", infer_path(datatype), body)
    assert answer.status == 200, answer.body
    assert answer.json["outputs"][0]["data"] == ["NaN", "-Infinity"]


async def test_bytes_that_are_no_text_cannot_be_json(served):
    raw = encode_raw(np.array([b"\xff", b"a"], dtype=object), "BYTES")
    body, headers = binary("BYTES", raw)
    answer = await ask(served.port, "POST", infer_path("BYTES"), body, headers)
    assert (answer.status, answer.reason) == (400, "NOT_JSON")
    assert "binary data" in answer.json["error"]


async def test_an_output_says_itself_how_it_travels(served):
    output = {"name": "out", "parameters": {"binary_data": False, "classification": 1}}
    given = request(
        "FP32", [1, 2], outputs=[output], parameters={"binary_data_output": True, "priority": 1}
    )
    answer = await ask(served.port, "POST", infer_path("FP32"), given)
    assert answer.json["outputs"][0]["data"] == [1.0, 2.0]
    [asked] = served.servicer.requests
    assert asked.outputs[0].parameters["classification"].int64_param == 1
    assert list(asked.outputs[0].parameters) == ["classification"]
    assert asked.parameters["priority"].uint64_param == 1


async def test_parameters_keep_their_types(served):
    parameters = {
        "a": True,
        "b": -(2**63),
        "c": 2**64 - 1,
        "d": "text",
        "e": 0.5,
        "sequence_id": 7,
        "timeout": 5000,
    }
    given = request("FP32", [1, 2], parameters=parameters)
    given["inputs"][0]["parameters"] = {"shared_memory_offset": 3}
    assert (await ask(served.port, "POST", infer_path("FP32"), given)).status == 200
    [asked] = served.servicer.requests
    choices = {
        name: value.WhichOneof("parameter_choice") for name, value in asked.parameters.items()
    }
    assert choices == {
        "a": "bool_param",
        "b": "int64_param",
        "c": "uint64_param",
        "d": "string_param",
        "e": "double_param",
        "sequence_id": "int64_param",
        "timeout": "int64_param",
    }
    assert asked.inputs[0].parameters["shared_memory_offset"].int64_param == 3


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [
        ({"inputs": {}}, "BAD_JSON", "inputs"),
        ({"inputs": [1]}, "BAD_JSON", "inputs[0]"),
        ({"inputs": []}, "MISSING_INPUT", None),
        ({"id": 3}, "BAD_JSON", "id"),
        ({"outputs": [{"name": 3}]}, "BAD_JSON", "outputs[0].name"),
        ({"outputs": [{"name": "no"}] * 1025}, "TOO_MANY_TENSORS", "outputs"),
        ({"parameters": []}, "BAD_JSON", "parameters"),
        ({"parameters": {"a": None}}, "BAD_PARAMETER", "parameters[a]"),
        ({"parameters": {"a": [1]}}, "BAD_PARAMETER", "parameters[a]"),
        ({"parameters": {"binary_data_output": 1}}, "BAD_JSON", "parameters[binary_data_output]"),
    ],
)
async def test_a_wrong_request_is_named(served, change, reason, field):
    answer = await ask(served.port, "POST", infer_path("FP32"), request("FP32", [1, 2]) | change)
    assert (answer.status, answer.reason) == (400, reason)
    assert field is None or answer.json["field"] == field


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": None}, "BAD_JSON"),
        ({"datatype": "FP8"}, "BAD_DATATYPE"),
        ({"datatype": 1}, "BAD_JSON"),
        ({"shape": [1, "2"]}, "BAD_SHAPE"),
        ({"shape": [1, -2]}, "BAD_SHAPE"),
        ({"shape": [1, 2.0]}, "BAD_SHAPE"),
        ({"shape": [2**62, 2**62]}, "BAD_SHAPE"),
        ({"shape": [1] * 65}, "BAD_SHAPE"),
        ({"shape": None}, "BAD_BYTE_COUNT"),
        ({"data": 1}, "BAD_JSON"),
        ({"data": [1]}, "BAD_BYTE_COUNT"),
        ({"data": [[1], [2]]}, "BAD_SHAPE"),
        ({"data": [[1, 2], 3]}, "BAD_SHAPE"),
        ({"data": [1, [2]]}, "BAD_CONTENTS"),
        ({"data": ["\ud800", "a"]}, "MALFORMED_JSON"),
        ({"parameters": {"binary_data_size": -1}}, "BAD_PARAMETER"),
        ({"parameters": {"binary_data_size": 8}}, "BAD_CONTENTS"),
    ],
)
async def test_a_wrong_input_is_named(served, change, reason):
    given = request("FP32", [1, 2])
    given["inputs"][0] |= change
    answer = await ask(served.port, "POST", infer_path("FP32"), given)
    assert (answer.status, answer.reason) == (400, reason)
    assert "inputs" in answer.json.get("field", "inputs")


async def test_an_input_without_data_is_refused_unless_it_lies_in_shared_memory(served):
    given = request("FP32", [1, 2])
    del given["inputs"][0]["data"]
    answer = await ask(served.port, "POST", infer_path("FP32"), given)
    assert (answer.status, answer.reason) == (400, "BAD_CONTENTS")
    given["inputs"][0]["parameters"] = {"shared_memory_region": "r", "shared_memory_byte_size": 8}
    await ask(served.port, "POST", infer_path("FP32"), given)
    [asked] = served.servicer.requests
    assert asked.inputs[0].parameters["shared_memory_region"].string_param == "r"
    assert not asked.raw_input_contents


@pytest.mark.parametrize("length", ["", "-1", "x", "99999", "9" * 30, "3"])
async def test_a_wrong_header_length_is_refused(served, length):
    body, _ = binary("FP32", b"\0" * 8)
    headers = {"inference-header-content-length": length}
    answer = await ask(served.port, "POST", infer_path("FP32"), body, headers)
    assert answer.status == 400
    assert answer.reason in ("BAD_HEADER_LENGTH", "MALFORMED_JSON")


@pytest.mark.parametrize("size", [7, 9])
async def test_binary_data_of_another_length_is_refused(served, size):
    body, headers = binary("FP32", b"\0" * 8)
    content = body + b"\0" if size == 9 else body[:-1]
    answer = await ask(served.port, "POST", infer_path("FP32"), content, headers)
    assert (answer.status, answer.reason) == (400, "BAD_BYTE_COUNT")


@pytest.mark.parametrize("text", [b"", b"[]", b"1", b"{", b"\xff", b'{"a":\xc3(}', b"[" * 10_000])
async def test_a_body_that_is_no_object_is_refused(served, text):
    answer = await ask(served.port, "POST", infer_path("FP32"), text)
    assert answer.status == 400
    assert answer.reason in ("MALFORMED_JSON", "MISSING_INPUT")


async def test_deep_nesting_with_a_nan_is_refused(served):
    answer = await ask(served.port, "POST", infer_path("FP32"), b"[" * 100_000 + b"NaN")
    assert (answer.status, answer.reason) == (400, "MALFORMED_JSON")


def deflated(body: bytes) -> bytes:
    return zlib.compress(body)


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", deflated)])
async def test_requests_and_answers_may_be_compressed(served, encoding, compress):
    raw = struct.pack("<600f", *range(600))
    body, headers = binary("FP32", raw, (1, 600), parameters={"binary_data_output": True})
    headers |= {"content-encoding": encoding, "accept-encoding": f"br, {encoding};q=0.5"}
    answer = await ask(served.port, "POST", infer_path("FP32"), compress(body), headers)
    assert answer.status == 200, answer.body
    assert answer.headers["content-encoding"] == encoding
    whole = gzip.decompress(answer.body) if encoding == "gzip" else zlib.decompress(answer.body)
    assert whole[int(answer.headers["inference-header-content-length"]) :] == raw


@pytest.mark.parametrize("wanted", ["identity", "gzip;q=0", "br", "gzip;q=x"])
async def test_an_answer_is_compressed_only_if_asked_for(served, wanted):
    body, headers = binary("FP32", b"\0" * 2400, (1, 600), parameters={"binary_data_output": True})
    headers["accept-encoding"] = wanted
    answer = await ask(served.port, "POST", infer_path("FP32"), body, headers)
    assert "content-encoding" not in answer.headers
    assert answer.body.endswith(b"\0" * 2400)


@pytest.mark.parametrize(
    ("content", "encoding", "expected"),
    [
        (b"no gzip", "gzip", (400, "MALFORMED_BODY")),
        (gzip.compress(b"{}", mtime=0)[:-3], "gzip", (400, "MALFORMED_BODY")),
        (gzip.compress(b"{}", mtime=0) * 2, "gzip", (400, "MALFORMED_BODY")),
        (b"{}", "br", (415, "UNSUPPORTED_ENCODING")),
        (b"{}", "gzip, gzip", (415, "UNSUPPORTED_ENCODING")),
        # Inflates to 64 MiB.
        (gzip.compress(b"\0" * 2**26, mtime=0), "gzip", (413, "BODY_TOO_LARGE")),
        (zlib.compress(b"\0" * 2**26), "deflate", (413, "BODY_TOO_LARGE")),
    ],
    ids=["no gzip", "cut off", "twice", "br", "listed twice", "gzip bomb", "deflate bomb"],
)
async def test_a_body_that_is_not_what_its_encoding_says(served, content, encoding, expected):
    headers = {"content-encoding": encoding}
    answer = await ask(served.port, "POST", infer_path("FP32"), content, headers)
    assert (answer.status, answer.reason) == expected
    assert served.held_bytes == 0


async def test_the_header_names_the_time_that_is_left(served):
    headers = {"headrace-timeout-ms": "1500.5"}
    await ask(served.port, "POST", infer_path("FP32"), request("FP32", [1, 2]), headers)
    await ask(served.port, "POST", infer_path("FP32"), request("FP32", [1, 2]))
    timed, untimed = served.servicer.calls
    assert 0 <= timed.time_remaining() <= 1.5005
    assert untimed.time_remaining() is None


@pytest.mark.parametrize("given", ["0", "-1", "soon", "nan", "inf", "1e10", ""])
async def test_a_wrong_timeout_is_refused(served, given):
    headers = {"headrace-timeout-ms": given}
    answer = await ask(served.port, "POST", infer_path("FP32"), request("FP32", [1, 2]), headers)
    assert (answer.status, answer.reason) == (400, "BAD_TIMEOUT")


async def test_a_client_that_goes_away_cancels_its_request(served):
    servicer = served.servicer
    servicer.gate.clear()
    async with Client(served.port) as client:
        body = json.dumps(request("FP32", [1, 2])).encode()
        head = f"POST {infer_path('FP32')} HTTP/1.1\r\ncontent-length: {len(body)}\r\n\r\n"
        await client.send(head.encode() + body)
        await servicer.entered.wait()
    await servicer.cancelled.wait()


async def test_a_defect_is_told_by_an_id_only(served):
    served.servicer.error = RuntimeError("/secret/path")
    answer = await ask(served.port, "POST", infer_path("FP32"), request("FP32", [1, 2]))
    assert (answer.status, answer.json["code"]) == (500, "INTERNAL")
    assert "secret" not in answer.body.decode()
    assert answer.json["error"].startswith("internal error ")
