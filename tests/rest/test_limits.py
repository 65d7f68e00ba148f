"""Every bound of the HTTP server, at its edge and beyond."""

import asyncio
import json
from collections.abc import Callable

import pytest

from tests.rest.http import Client, ask, request_bytes
from tests.rest.served import Served

ECHO = "/v2/models/echo_uint8/infer"


def body_of(size: int, **more) -> bytes:
    """A valid request of exactly `size` bytes, most of them an unknown parameter."""
    tensor = {"name": "in", "shape": [1, 2], "datatype": "UINT8", "data": [1, 2]}
    empty = json.dumps({"inputs": [tensor], "parameters": {"a": ""} | more})
    return empty.replace('"a": ""', f'"a": "{"x" * (size - len(empty))}"').encode()


def chunked(body: bytes, size: int = 1000) -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    framed = [b"%x\r\n%s\r\n" % (len(part), part) for part in parts]
    return b"".join([*framed, b"0\r\n\r\n"])


@pytest.mark.parametrize(("excess", "status"), [(0, 200), (1, 413)])
@pytest.mark.parametrize("in_chunks", [False, True])
async def test_bytes_of_a_body(excess, status, in_chunks):
    async with Served(body_bytes=200_000, json_bytes=200_000) as served:
        body = body_of(200_000 + excess)
        async with Client(served.port) as client:
            if in_chunks:
                head = f"POST {ECHO} HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
                await client.send(head.encode() + chunked(body))
            else:
                await client.send(request_bytes("POST", ECHO, body))
            answer = await client.answer()
            assert answer.status == status, answer.body
            assert status == 200 or answer.reason == "BODY_TOO_LARGE"
            # What was refused is read to its end: the connection goes on.
            assert (await client.ask("GET", "/v2/health/live")).status == 200
        assert served.held_bytes == 0


async def test_a_body_announced_too_large_is_refused_before_it_comes():
    async with Served(body_bytes=1000) as served, Client(served.port) as client:
        head = f"POST {ECHO} HTTP/1.1\r\ncontent-length: 1001\r\nexpect: 100-continue\r\n\r\n"
        await client.send(head.encode())
        assert (await client.answer()).status == 413


@pytest.mark.parametrize(("excess", "status"), [(0, 200), (1, 413)])
async def test_bytes_of_json(excess, status):
    async with Served(json_bytes=5000) as served:
        answer = await ask(served.port, "POST", ECHO, body_of(5000 + excess))
        assert answer.status == status
        assert status == 200 or answer.reason == "JSON_TOO_LARGE"


@pytest.mark.parametrize(("size", "status"), [(2000, 200), (2001, 413)])
async def test_bytes_that_an_answer_writes_as_json(size, status):
    tensor = {
        "name": "in",
        "shape": [1, size],
        "datatype": "UINT8",
        "parameters": {"binary_data_size": size},
    }
    text = json.dumps({"inputs": [tensor]}).encode()
    headers = {"inference-header-content-length": str(len(text))}
    async with Served(json_bytes=2000) as served:
        answer = await ask(served.port, "POST", ECHO, text + bytes(size), headers)
        assert answer.status == status
        assert status == 200 or "binary data" in answer.json["error"]


async def test_bytes_of_all_bodies_at_once():
    async with Served(buffered_bytes=10_000) as served:
        served.servicer.gate.clear()
        async with Client(served.port) as first:
            await first.send(request_bytes("POST", ECHO, body_of(6000)))
            await served.servicer.entered.wait()
            refused = await ask(served.port, "POST", ECHO, body_of(4001))
            assert (refused.status, refused.reason) == (429, "TOO_MANY_BYTES")
            assert refused.headers["retry-after"] == "1"
            served.servicer.gate.set()
            assert (await first.answer()).status == 200
        assert (await ask(served.port, "POST", ECHO, body_of(10_000))).status == 200
        assert served.held_bytes == 0


def head_of(size: int) -> bytes:
    """A GET whose URL and headers count `size` bytes."""
    counted = len("/v2/health/live") + len("host") + len("test") + 4 + len("x") + 4
    filler = "a" * (size - counted)
    return f"GET /v2/health/live HTTP/1.1\r\nhost: test\r\nx: {filler}\r\n\r\n".encode()


@pytest.mark.parametrize(("excess", "status"), [(0, 200), (1, 431)])
async def test_bytes_of_a_head(excess, status):
    async with Served(header_bytes=3000) as served, Client(served.port) as client:
        await client.send(head_of(3000 + excess))
        answer = await client.answer()
        assert answer.status == status
        assert status == 200 or answer.reason == "HEADERS_TOO_LARGE"


@pytest.mark.parametrize("start", [b"GET /", b"GET / HTTP/1.1\r\nx: ", b"GET / HTTP/1.1\r\nx"])
async def test_a_head_without_an_end(start):
    async with Served(header_bytes=3000) as served, Client(served.port) as client:
        await client.send(start + b"a" * 100_000)
        assert (await client.answer()).status == 431
        assert await client.closed()


async def test_a_trailer_without_an_end():
    async with Served(header_bytes=3000) as served, Client(served.port) as client:
        await client.send(f"POST {ECHO} HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        await client.send(b"0\r\nx: " + b"a" * 100_000)
        assert (await client.answer()).status == 431
        assert await client.closed()


async def test_the_time_of_a_head():
    async with Served(header_s=0.05) as served, Client(served.port) as client:
        await client.send(b"GET /v2 HTTP/1.1\r\nx: ")
        answer = await client.answer()
        assert (answer.status, answer.reason) == (408, "REQUEST_TIMEOUT")
        assert await client.closed()


async def test_the_time_of_a_body():
    async with Served(body_s=0.05) as served, Client(served.port) as client:
        await client.send(request_bytes("POST", ECHO, b"{", {"content-length": "100"}))
        answer = await client.answer()
        assert (answer.status, answer.reason) == (408, "REQUEST_TIMEOUT")
        assert await client.closed()
        assert not served.servicer.requests


@pytest.mark.parametrize("sent", [b"", b"\r\n"])
async def test_a_connection_that_asks_nothing(sent):
    async with Served(header_s=0.05) as served, Client(served.port) as client:
        await client.send(sent)
        assert await client.closed()


async def test_blank_lines_between_requests_do_not_keep_a_connection():
    async with Served(header_s=0.2) as served, Client(served.port) as client:
        assert (await client.ask("GET", "/v2/health/live")).status == 200
        await client.send(b"\r\n")
        assert await client.closed()


async def test_an_idle_connection_ends():
    async with Served(idle_s=0.05) as served, Client(served.port) as client:
        assert (await client.ask("GET", "/v2/health/live")).status == 200
        assert await client.closed()


async def test_a_slow_answer_is_no_slow_client():
    """The bounds on a client's time end with its request."""
    async with Served(header_s=0.05, body_s=0.05, idle_s=0.05) as served:
        served.servicer.gate.clear()
        async with Client(served.port) as client:
            await client.send(request_bytes("POST", ECHO, body_of(500)))
            await served.servicer.entered.wait()
            # An idle connection beside it ends meanwhile.
            async with Client(served.port) as idle:
                assert await idle.closed()
            served.servicer.gate.set()
            assert (await client.answer()).status == 200


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def connections_fall_to(served: Served, count: int) -> None:
    await until(lambda: len(served.server._server.server_state.connections) <= count)


async def test_a_client_that_does_not_read_is_cut_off():
    async with Served(body_s=0.2) as served, Client(served.port) as client:
        body = json.dumps({"text_input": "x" * 100_000, "count": 10**6}).encode()
        await client.send(request_bytes("POST", "/v2/models/words/generate_stream", body))
        await served.servicer.entered.wait()
        client.reader._transport.pause_reading()
        await connections_fall_to(served, 0)
        # Given back when the answer's task has seen its cancellation.
        await until(lambda: served.held_bytes == 0)


async def test_connections_at_once():
    async with Served(connections=2) as served, Client(served.port) as first:
        async with Client(served.port) as second:
            assert (await first.ask("GET", "/v2/health/live")).status == 200
            assert (await second.ask("GET", "/v2/health/live")).status == 200
            async with Client(served.port) as third:
                answer = await third.answer()
                assert (answer.status, answer.reason) == (503, "TOO_MANY_CONNECTIONS")
                assert await third.closed()
        await connections_fall_to(served, 1)
        async with Client(served.port) as fourth:
            assert (await fourth.ask("GET", "/v2/health/live")).status == 200


@pytest.mark.parametrize(
    "content",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\n\r\n",
    ],
)
async def test_bytes_that_are_no_request_are_answered_in_json(served, content):
    async with Client(served.port) as client:
        await client.send(content)
        answer = await client.answer()
        assert answer.status in (400, 404), answer.body
        assert answer.json["reason"] in ("MALFORMED_HTTP", "NO_SUCH_PATH")
    assert (await ask(served.port, "GET", "/v2/health/live")).status == 200


async def test_garbage_behind_a_request_does_not_reach_its_answer(served):
    served.servicer.gate.clear()
    async with Client(served.port) as client:
        await client.send(request_bytes("POST", ECHO, body_of(500)))
        await served.servicer.entered.wait()
        await client.send(b"\0garbage\r\n\r\n")
        assert await client.closed()
    await served.servicer.cancelled.wait()


async def test_an_upgrade_is_not_offered(served):
    async with Client(served.port) as client:
        headers = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x"
        await client.send(f"GET /v2/health/live HTTP/1.1\r\n{headers}\r\n\r\n".encode())
        assert (await client.answer()).status == 200
