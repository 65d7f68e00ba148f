"""How the server starts and ends: beside other work, without signals, within its grace."""

import socket

import pytest

from chassis.errors import InvalidArgument
from chassis.rest.server import HttpServer
from tests.rest.http import Client, ask, request_bytes
from tests.rest.served import LIMITS, Served, Servicer
from tests.rest.test_limits import ECHO, body_of


async def test_a_draining_server_ends_each_connection_with_its_answer(served):
    async with Client(served.port) as client:
        assert "connection" not in (await client.ask("GET", "/v2/health/live")).headers
        served.server.start_draining()
        answer = await client.ask("GET", "/v2/health/live")
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await client.closed()


async def test_a_stopped_server_answers_what_runs(served):
    async with Client(served.port) as client, Client(served.port) as idle:
        await idle.ask("GET", "/v2/health/live")
        served.servicer.gate.clear()
        await client.send(request_bytes("POST", ECHO, body_of(500)))
        await served.servicer.entered.wait()
        served.servicer.gate.set()
        await served.server.stop(5)
        assert (await client.answer()).status == 200
        assert await client.closed()
        assert await idle.closed()
    with pytest.raises(ConnectionError):
        await ask(served.port, "GET", "/v2")


async def test_what_outlives_the_grace_is_told_so(served):
    async with Client(served.port) as client:
        served.servicer.gate.clear()
        await client.send(request_bytes("POST", ECHO, body_of(500)))
        await served.servicer.entered.wait()
        await served.server.stop(0.05)
        answer = await client.answer()
        assert (answer.status, answer.reason) == (503, "DRAINING")
        assert await client.closed()
    assert served.servicer.cancelled.is_set()


async def test_a_taken_port_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = HttpServer(Servicer(), "127.0.0.1", port, limits=LIMITS)
        with pytest.raises(InvalidArgument, match=f"HTTP cannot listen on 127.0.0.1:{port}"):
            await server.start()


async def test_minus_one_is_off():
    server = HttpServer(Servicer(), "127.0.0.1", -1, limits=LIMITS)
    assert await server.start() is None
    await server.stop(0)


async def test_two_servers_do_not_share_a_budget():
    async with Served(buffered_bytes=10) as first, Served() as second:
        assert (await ask(first.port, "POST", ECHO, body_of(500))).status == 429
        assert (await ask(second.port, "POST", ECHO, body_of(500))).status == 200
