"""Requests over HTTP as raw bytes: valid ones damaged, and well-formed ones that mean harm."""

from __future__ import annotations

import json
import random

from tests.fuzz.hostile import EDGES, NAMES
from tests.fuzz.mutations import mutated
from tests.fuzz.shot import Shot

LENGTH_HEADER = "Inference-Header-Content-Length"
_INFER = "/v2/models/mix/infer"
_PATHS = (
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/mix",
    "/v2/models/mix/config",
    "/v2/models/mix/ready",
    "/v2/models/mix/versions/1",
    "/v2/models/stats",
    "/v2/trace/setting",
    "/v2/logging",
    "/openapi.json",
)


def request_bytes(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    """One request of HTTP/1.1; header names with _ for -."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body or method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "replace") + body


def body_of(rows: int = 1) -> dict[str, object]:
    """A request of the model with two inputs, as JSON."""
    return {
        "id": "7",
        "parameters": {"priority": 2, "anything": "a"},
        "inputs": [
            {"name": "a", "datatype": "FP32", "shape": [rows, 4], "data": [[1, 2, 3, 4]] * rows},
            {"name": "b", "datatype": "INT32", "shape": [rows], "data": [5] * rows},
        ],
        "outputs": [{"name": "sum", "parameters": {"binary_data": False}}],
    }


def _infer(body: dict[str, object]) -> bytes:
    return request_bytes("POST", _INFER, json.dumps(body).encode())


def _binary(length: int | str | None = None, size: int | None = None) -> bytes:
    """Both tensors behind the JSON; `length` and `size` may lie."""
    body = body_of()
    for tensor, count in zip(body["inputs"], (16, 4), strict=True):
        del tensor["data"]
        tensor["parameters"] = {"binary_data_size": count if size is None else size}
    text = json.dumps(body).encode()
    headers = {LENGTH_HEADER.replace("-", "_"): str(len(text) if length is None else length)}
    return request_bytes("POST", _INFER, text + bytes(20), **headers)


def _valid() -> tuple[bytes, ...]:
    return (_infer(body_of()), _binary(), *(request_bytes("GET", path) for path in _PATHS))


def mutation_shot(draw: random.Random, label: str) -> Shot:
    """The bytes of a request damaged, or its body alone, behind a length that is right."""
    valid = _valid()
    if draw.random() < 0.5:
        body = mutated(draw, json.dumps(body_of()).encode(), valid)
        return Shot(f"{label} body", "HTTP", (request_bytes("POST", _INFER, body),))
    content = mutated(draw, draw.choice(valid[:2] if draw.random() < 0.5 else valid), valid)
    return Shot(f"{label} bytes", "HTTP", (content,), parses=False)


def hostile_shot(draw: random.Random, label: str) -> Shot:
    """One of the ideas below."""
    idea = draw.choice(_IDEAS)
    return Shot(f"{label} {idea.__name__}", "HTTP", (idea(draw),))


def _shape(draw: random.Random) -> bytes:
    body = body_of()
    sizes = (*EDGES, 1.5, "1", None, [], 10**30, True)
    body["inputs"][0]["shape"] = [draw.choice(sizes) for _ in range(draw.choice((0, 1, 2, 3)))]
    return _infer(body)


def _data(draw: random.Random) -> bytes:
    body = body_of()
    body["inputs"][0]["data"] = draw.choice(
        ([], [1], [1] * 5, [[1, 2], [3, 4]], [[1, 2, 3]], "1234", None, {"a": 1}, [None] * 4,
         ["a"] * 4, [1e400] * 4, [True] * 4, [[[[1, 2, 3, 4]]]], [10**40] * 4, [[[]]])
    )  # fmt: skip
    return _infer(body)


def _kinds(draw: random.Random) -> bytes:
    """Any member of the body as something else."""
    body = body_of()
    odd = draw.choice((None, 0, -1, "", "x", [], {}, [[]], [None], True, 1e308, {"": None}))
    at = draw.choice((body, body["inputs"][0], body["outputs"][0], body["parameters"]))
    at[draw.choice(list(at))] = odd
    return _infer(body)


def _names(draw: random.Random) -> bytes:
    body = body_of()
    for key in ("inputs", "outputs"):
        body[key][0]["name"] = draw.choice(NAMES)[:2000]
    body["id"] = draw.choice(NAMES)[:2000]
    return _infer(body)


def _parameters(draw: random.Random) -> bytes:
    body = body_of()
    names = ("timeout", "priority", "sequence_id", "sequence_start", "binary_data_output",
             "classification", "shared_memory_region", "channel", "")  # fmt: skip
    values = (*EDGES, "", "x", 0.5, None, [1], {"a": 1}, True, 2**64, 10**30, float("nan"))
    body["parameters"] = {draw.choice(names): draw.choice(values) for _ in range(3)}
    body["outputs"][0]["parameters"] = {draw.choice(names): draw.choice(values)}
    return _infer(body)


def _binary_lies(draw: random.Random) -> bytes:
    lengths = (None, 0, 1, -1, 2**31, 2**64, "x", "1e3", "")
    return _binary(draw.choice(lengths), draw.choice((None, 0, -1, 3, 17, 2**31, 2**63)))


def _deep(draw: random.Random) -> bytes:
    depth = draw.choice((10, 1_000, 100_000))
    opening, closing = draw.choice((("[", "]"), ('{"a":', "}")))
    return request_bytes("POST", _INFER, (opening * depth + "1" + closing * depth).encode())


def _text(draw: random.Random) -> bytes:
    bodies = (b"", b"null", b"[]", b'"', b"{", b"\xff\xfe", b'{"inputs":1,"inputs":2}', b"NaN",
              b'{"\\ud800": "\\udfff"}', b"1" * 100_000, b"\0" * 100, b"{}")  # fmt: skip
    return request_bytes("POST", _INFER, draw.choice(bodies))


def _paths(draw: random.Random) -> bytes:
    paths = ("/", "//", "/v2/models/../x", "/v2/models/%2e%2e/infer", "/v2/models/%00/ready",
             "/v2/models/mix/versions/-1/infer", "/v2/models/mix/versions/99999999999999999999",
             "/v2/models/%ff%fe", "/v2/models/" + "a" * 5000, "/v2/models/mix/infer?x=" + "y" * 999,
             "*", "/v2/models/mix/nothing", "/v2/models/%F0%9F%92%A9/infer")  # fmt: skip
    method = draw.choice(("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "TRACE", "PATCH", "X"))
    return request_bytes(method, draw.choice(paths), b"{}" if method == "POST" else b"")


def _headers(draw: random.Random) -> bytes:
    odd = (
        {"Content_Encoding": "gzip"},
        {"Content_Encoding": "deflate"},
        {"Content_Encoding": "br"},
        {"Content_Type": "text/xml"},
        {"Expect": "100-continue"},
        {"X_Long": "v" * draw.choice((1_000, 7_000, 40_000, 100_000))},
        {f"X_{number}": "v" for number in range(draw.choice((50, 2_000)))},
        {"Accept_Encoding": "gzip, deflate"},
        {"Upgrade": "websocket"},
    )
    return request_bytes("POST", _INFER, json.dumps(body_of()).encode(), **draw.choice(odd))


def _control(draw: random.Random) -> bytes:
    paths = (
        "/v2/repository/models/spare/load",
        "/v2/repository/models/spare/unload",
        "/v2/repository/index",
        "/v2/systemsharedmemory/region/r/register",
        "/v2/systemsharedmemory/unregister",
        "/v2/cudasharedmemory/region/r/register",
        "/v2/models/mix/trace/setting",
        "/v2/logging",
    )
    bodies = (b"", b"{}", b"[]", b"1", b'{"parameters":{"config":1}}', b'{"key":"/x","offset":-1}',
              b'{"trace_level":[1]}', b'{"log_file":"/tmp/x"}', b'{"byte_size":1e99}')  # fmt: skip
    return request_bytes("POST", draw.choice(paths), draw.choice(bodies))


_IDEAS = (
    _shape,
    _data,
    _kinds,
    _names,
    _parameters,
    _binary_lies,
    _deep,
    _text,
    _paths,
    _headers,
    _control,
)
