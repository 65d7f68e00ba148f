"""Everything but infer: what each path asks of the servicer and how its answer reads."""

import base64

import pytest

from chassis.errors import (
    Aborted,
    AlreadyExists,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from tests.rest.http import Client, ask
from tests.rest.served import Served

FLAT = {"inputs": [{"name": "in", "shape": [3], "datatype": "FP32", "data": [1, 2, 3]}]}


async def got(served: Served, path: str):
    answer = await ask(served.port, "GET", path)
    assert answer.status == 200, answer.body
    return answer.json


async def posted(served: Served, path: str, body=b""):
    """The answer, and the message that the servicer was asked."""
    answer = await ask(served.port, "POST", path, body)
    assert answer.status == 200, answer.body
    return answer.json, served.servicer.requests[-1]


async def test_health_is_a_status(served):
    live = await ask(served.port, "GET", "/v2/health/live")
    assert (live.status, live.json) == (200, {"live": True})
    ready = await ask(served.port, "GET", "/v2/health/ready")
    assert (ready.status, ready.json) == (400, {"ready": False})


@pytest.mark.parametrize("version", ["", "/versions/7"])
async def test_a_model_describes_itself(served, version):
    metadata = await got(served, f"/v2/models/flat{version}")
    assert metadata == {
        "name": "flat",
        "versions": ["7"],
        "platform": "pytorch",
        "inputs": [{"name": "in", "datatype": "FP32", "shape": [3]}],
        "outputs": [{"name": "out", "datatype": "FP32", "shape": [3]}],
    }
    config = await got(served, f"/v2/models/echo_int64{version}/config")
    assert (config["max_batch_size"], config["input"][0]["dims"]) == (64, [-1])
    assert config["input"][0]["data_type"] == "TYPE_INT64"


async def test_the_index_is_a_list(served):
    told, asked = await posted(served, "/v2/repository/index", {"ready": True})
    assert told == [
        {"name": "flat", "version": "7", "state": "READY"},
        {"name": "gone", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"},
    ]
    assert asked.ready


async def test_loading_needs_control():
    body = {"parameters": {"config": "{}", "file:1/a": base64.b64encode(b"\0\xff").decode()}}
    async with Served() as served:
        answer = await ask(served.port, "POST", "/v2/repository/models/m/load", body)
        assert (answer.status, answer.reason) == (403, "CONTROL_NOT_ALLOWED")
    async with Served(control=True) as served:
        told, asked = await posted(served, "/v2/repository/models/m/load", body)
    assert told == {}
    assert (asked.model_name, asked.parameters["config"].string_param) == ("m", "{}")
    assert asked.parameters["file:1/a"].bytes_param == b"\0\xff"


async def test_unloading_says_what_else_goes(served):
    body = {"parameters": {"unload_dependents": True}}
    _, asked = await posted(served, "/v2/repository/models/m/unload", body)
    assert asked.parameters["unload_dependents"].bool_param


@pytest.mark.parametrize("path", ["/v2/trace/setting", "/v2/models/flat/trace/setting"])
async def test_trace_settings(served, path):
    expected = {"trace_level": ["OFF"], "trace_rate": "1000"}
    assert await got(served, path) == expected
    assert not served.servicer.requests[-1].settings
    told, asked = await posted(
        served, path, {"trace_level": ["TIMESTAMPS"], "trace_rate": "5", "log_frequency": None}
    )
    assert told == expected
    assert asked.model_name == ("flat" if "models" in path else "")
    values = {name: list(setting.value) for name, setting in asked.settings.items()}
    assert values == {"trace_level": ["TIMESTAMPS"], "trace_rate": ["5"], "log_frequency": []}


async def test_log_settings(served):
    expected = {"log_format": "default", "log_info": True, "log_verbose_level": 2}
    assert await got(served, "/v2/logging") == expected
    told, asked = await posted(
        served, "/v2/logging", {"log_info": False, "log_verbose_level": 1, "log_format": "x"}
    )
    assert told == expected
    assert asked.settings["log_verbose_level"].uint32_param == 1
    assert asked.settings["log_info"].WhichOneof("parameter_choice") == "bool_param"


async def test_system_shared_memory(served):
    region = {"name": "r", "key": "/k", "offset": 0, "byte_size": 2**40}
    assert await got(served, "/v2/systemsharedmemory/status") == [region]
    assert await got(served, "/v2/systemsharedmemory/region/r/status") == [region]
    assert served.servicer.requests[-1].name == "r"
    _, asked = await posted(
        served, "/v2/systemsharedmemory/region/a/register", {"key": "/k", "byte_size": 64}
    )
    assert (asked.name, asked.key, asked.offset, asked.byte_size) == ("a", "/k", 0, 64)
    assert (await posted(served, "/v2/systemsharedmemory/region/a/unregister"))[1].name == "a"
    assert (await posted(served, "/v2/systemsharedmemory/unregister"))[1].name == ""


async def test_cuda_shared_memory(served):
    handle = base64.b64encode(b"\1" * 64).decode()
    body = {"raw_handle": {"b64": handle}, "device_id": 1, "byte_size": 8}
    _, asked = await posted(served, "/v2/cudasharedmemory/region/c/register", body)
    assert (asked.raw_handle, asked.device_id, asked.byte_size) == (b"\1" * 64, 1, 8)


async def test_an_rpc_that_the_server_lacks_is_501(served):
    for method, path in (("GET", "/v2"), ("GET", "/v2/cudasharedmemory/status")):
        answer = await ask(served.port, method, path)
        assert (answer.status, answer.reason) == (501, "NOT_IMPLEMENTED")


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v2/repository/index", {"ready": 1}, "ready"),
        ("/v2/repository/models/m/load", {"parameters": {"file:a": "%"}}, "parameters[file:a]"),
        ("/v2/repository/models/m/load", {"parameters": {"a": 2**63}}, "parameters[a]"),
        ("/v2/repository/models/m/unload", {"parameters": {"a": []}}, "parameters[a]"),
        ("/v2/trace/setting", {"trace_rate": 5}, "trace_rate"),
        ("/v2/trace/setting", {"trace_level": [1]}, "trace_level"),
        ("/v2/logging", {"log_verbose_level": -1}, "log_verbose_level"),
        ("/v2/logging", {"log_info": None}, "log_info"),
        ("/v2/systemsharedmemory/region/a/register", {"byte_size": 1}, "key"),
        ("/v2/systemsharedmemory/region/a/register", {"key": "k"}, "byte_size"),
        (
            "/v2/systemsharedmemory/region/a/register",
            {"key": "k", "byte_size": 1, "offset": -1},
            "offset",
        ),
        ("/v2/cudasharedmemory/region/a/register", {"byte_size": 1}, "raw_handle.b64"),
    ],
)
async def test_a_wrong_body_is_named(served, path, body, field):
    answer = await ask(served.port, "POST", path, body)
    assert (answer.status, answer.json["code"]) == (400, "INVALID_ARGUMENT")
    assert answer.json["field"] == field


@pytest.mark.parametrize(
    ("path", "method", "status", "reason"),
    [
        ("/", "GET", 404, "NO_SUCH_PATH"),
        ("/v2/", "GET", 404, "NO_SUCH_PATH"),
        ("/v2/models/a%2fb/infer", "POST", 404, "NO_SUCH_PATH"),
        ("/v2/models/%00/infer", "POST", 400, "MALFORMED_JSON"),
        ("/v2/models/%ff", "GET", 404, "MODEL_NOT_FOUND"),
        ("/v2/models/flat/infer", "GET", 405, "METHOD_NOT_ALLOWED"),
        ("/v2/models/flat", "OPTIONS", 405, "METHOD_NOT_ALLOWED"),
        ("/v2/trace/setting", "DELETE", 405, "METHOD_NOT_ALLOWED"),
    ],
)
async def test_paths_and_methods_that_nobody_serves(served, path, method, status, reason):
    answer = await ask(served.port, method, path, b"{" if method == "POST" else b"")
    assert (answer.status, answer.reason) == (status, reason)
    assert answer.headers["content-type"] == "application/json"


async def test_every_method_of_a_path_is_allowed(served):
    answer = await ask(served.port, "DELETE", "/v2/trace/setting")
    assert answer.headers["allow"] == "GET, HEAD, POST"


async def test_head_has_no_body(served):
    async with Client(served.port) as client:
        await client.send(b"HEAD /v2/health/live HTTP/1.1\r\n\r\n")
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        # The next answer follows at once.
        assert (await client.ask("GET", "/v2/health/live")).json == {"live": True}


@pytest.mark.parametrize(
    ("category", "status"),
    [
        (InvalidArgument, 400),
        (Unauthenticated, 401),
        (PermissionDenied, 403),
        (NotFound, 404),
        (AlreadyExists, 409),
        (Aborted, 409),
        (FailedPrecondition, 412),
        (ResourceExhausted, 429),
        (DataLoss, 500),
        (Unimplemented, 501),
        (Unavailable, 503),
        (DeadlineExceeded, 504),
    ],
)
async def test_an_error_is_a_status_and_a_sentence(served, category, status):
    served.servicer.error = category("WHY", "a sentence \ud800", field="f", retry_after_s=0.2)
    answer = await ask(served.port, "POST", "/v2/models/flat/infer", FLAT)
    assert answer.status == status
    told = {"error": "a sentence ?", "code": category.code.name, "reason": "WHY", "field": "f"}
    assert answer.json == told
    assert answer.headers["retry-after"] == "1"
    assert ("www-authenticate" in answer.headers) == (status == 401)


async def test_one_connection_carries_many_requests_in_order(served):
    async with Client(served.port) as client:
        first = b"GET /v2/health/live HTTP/1.1\r\n\r\n"
        await client.send(first + b"GET /v2/health/ready HTTP/1.1\r\n\r\n" + first)
        assert [(await client.answer()).status for _ in range(3)] == [200, 400, 200]
