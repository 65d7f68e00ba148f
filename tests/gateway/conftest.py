"""Processes and clients for the tests against a real gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import tritonclient.grpc.aio as triton

from tests.gateway.processes import Running

Start = Callable[..., Running]
ALL_MODELS = "sum,pair,seq,text,whole,count,pad,classes"


def start_replica(*options: str, port: int = 0) -> Running:
    """A fake replica; options as `fake_replica.parse` takes them."""
    return Running("tests.gateway.fake_replica", "--port", str(port), *options)


def start_gateway(*endpoints: str, **settings: object) -> Running:
    """A gateway on free ports in front of `endpoints`."""
    values = {
        "port": 0,
        "http_port": -1,
        "admin_port": 0,
        "metrics_port": -1,
        "drain_notice_s": 0.05,
        # A machine busy with other tests may stall a sound replica for long.
        "health_timeout_s": 10,
        "endpoints": ",".join(endpoints),
    } | settings
    flags = [flag for key, value in values.items() for flag in ("--set", f"{key}={value}")]
    return Running("gateway.__main__", *flags)


@pytest.fixture
def running() -> Iterator[list[Running]]:
    """Processes of one test; stopped at its end, whatever happened."""
    started: list[Running] = []
    yield started
    for process in reversed(started):
        process.stop()


@pytest.fixture
def replica(running: list[Running]) -> Start:
    """Starts fake replicas."""

    def start(*options: str, port: int = 0) -> Running:
        running.append(start_replica(*options, port=port))
        return running[-1]

    return start


@pytest.fixture
def gateway(running: list[Running]) -> Start:
    """Starts gateways."""

    def start(*endpoints: Running | str, **settings: object) -> Running:
        addresses = [each if isinstance(each, str) else each.address for each in endpoints]
        running.append(start_gateway(*addresses, **settings))
        return running[-1]

    return start


@pytest.fixture(scope="session")
def plain() -> Iterator[tuple[Running, Running]]:
    """A gateway and its one replica with every model, shared by tests that leave them alone."""
    replica = start_replica("--models", ALL_MODELS, "--beta-s", "0.0002")
    gateway = start_gateway(replica.address)
    yield gateway, replica
    gateway.stop()
    replica.stop()


@pytest.fixture
async def connect() -> AsyncIterator[Callable[[Running], triton.InferenceServerClient]]:
    """Opens Triton's asyncio client; closed at the test's end."""
    clients: list[triton.InferenceServerClient] = []

    def open_client(process: Running) -> triton.InferenceServerClient:
        clients.append(triton.InferenceServerClient(process.address))
        return clients[-1]

    yield open_client
    for client in clients:
        await client.close()
