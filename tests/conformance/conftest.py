"""One stack for the whole suite: store, two replicas, a gateway over them, as real processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import tritonclient.grpc as triton

from headrace import Client, Publisher
from tests.conformance.models import all_models
from tests.conformance.target import MEMORY_PREFIX, Target
from tests.system.stack import Stack, wait_until

READY_WITHIN_S = 60.0


@pytest.fixture(scope="session")
def served(tmp_path_factory) -> Iterator[Stack]:
    """Everything published, loaded and ready."""
    directory = tmp_path_factory.mktemp("conformance")
    store = f"file://{directory}/store"
    models = all_models()
    for model in models:
        with Publisher(store, model=model) as publisher:
            publisher.publish(model.build())
    names = [model.name for model in models]
    settings = {
        "http_port": 0,
        "allow_control": "true",
        "shared_memory": "true",
        "shared_memory_prefix": MEMORY_PREFIX,
    }
    stack = Stack(directory, store, ",".join(names), replica_settings=dict(settings))
    try:
        stack.start(replicas=2, **settings)
        for address in (stack.gateway.address, *(one.address for one in stack.replicas)):
            _wait_ready(address, names)
        yield stack
    finally:
        stack.stop()


def _wait_ready(address: str, names: list[str]) -> None:
    with Client(address) as client:
        for name in names:
            wait_until(
                lambda name=name: client.ready(name), within_s=READY_WITHIN_S, what=f"{name} ready"
            )


@pytest.fixture(scope="session")
def gateway(served) -> Target:
    return Target("gateway", served.gateway.serving)


@pytest.fixture(scope="session")
def replica(served) -> Target:
    return Target("replica", served.replicas[0].serving)


@pytest.fixture(scope="session", params=["gateway", "replica"])
def target(request, gateway, replica) -> Target:
    """The gateway, and a replica called alone."""
    return {"gateway": gateway, "replica": replica}[request.param]


@pytest.fixture(scope="session")
def client(target) -> Iterator[triton.InferenceServerClient]:
    """Triton's blocking gRPC client of the target."""
    with ExitStack() as stack:
        client = triton.InferenceServerClient(target.address)
        stack.callback(client.close)
        yield client
