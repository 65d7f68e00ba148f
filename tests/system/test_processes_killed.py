"""kill -9 of replicas and of the gateway under load."""

import asyncio
import threading

import pytest

from headrace import AsyncClient, Client, Publisher
from headrace.cli.calls import GATEWAY_ADMIN, calling
from protos.headrace.v1 import gateway_pb2
from tests.system.integers import Integers, computed, filled, rows
from tests.system.stack import Stack, wait_until

pytestmark = pytest.mark.system

OUTSTANDING = 16


@pytest.fixture
def served(tmp_path):
    """A stack with two replicas that serves version 1 of Integers, and that version's weights."""
    store = f"file://{tmp_path}/store"
    module = Integers().build()
    weights = filled(module, 1)
    with Publisher(store, model=Integers()) as publisher:
        publisher.publish(module)
    stack = Stack(tmp_path, store, "integers").start()
    with Client(stack.gateway.address) as client:
        wait_until(lambda: client.ready("integers"), within_s=60, what="the model is ready")
    yield stack, weights
    stack.stop()


class Load:
    """Keeps OUTSTANDING requests out from a thread; counts answers and collects failures."""

    def __init__(self, address):
        self.address = address
        self.answers = 0
        self.wrong = []
        self.failures = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()

    async def _run(self):
        async with AsyncClient(self.address) as client, asyncio.TaskGroup() as group:
            for seed in range(OUTSTANDING):
                group.create_task(self._caller(client, rows(2, seed=seed)))

    async def _caller(self, client, x):
        while not self._done.is_set():
            try:
                answer = await client.predict("integers", {"x": x}, timeout_s=20)
            except Exception as error:
                self.failures.append(error)
                await asyncio.sleep(0.05)
            else:
                self.answers += 1
                if not (answer["y"] == computed(self.weights, x)).all():
                    self.wrong.append(answer)

    def after(self, count):
        """Waits for `count` more answers."""
        wanted = self.answers + count
        wait_until(lambda: self.answers >= wanted, within_s=30, what=f"{count} more answers")


@pytest.fixture
def loaded(served):
    stack, weights = served
    load = Load(stack.gateway.address)
    load.weights = weights
    return stack, load


def endpoint_states(stack):
    address = f"127.0.0.1:{stack.gateway.serving['admin_port']}"
    with calling(address, GATEWAY_ADMIN) as stub:
        status = stub.GetStatus(gateway_pb2.GatewayGetStatusRequest())
    return [gateway_pb2.EndpointState.Name(endpoint.state) for endpoint in status.endpoints]


HEALTHY = ["ENDPOINT_STATE_HEALTHY"] * 2


def test_a_killed_replica_costs_no_request_and_rejoins(loaded):
    stack, load = loaded
    wait_until(lambda: endpoint_states(stack) == HEALTHY, within_s=60, what="both are healthy")
    with load:
        load.after(200)
        for replica in stack.replicas:
            replica.kill()
            load.after(200)
            wait_until(
                lambda: "ENDPOINT_STATE_EJECTED" in endpoint_states(stack),
                within_s=10,
                what="it is ejected",
            )
            replica.start()
            wait_until(lambda: endpoint_states(stack) == HEALTHY, within_s=30, what="it rejoins")
        load.after(200)
    assert load.failures == []
    assert load.wrong == []


def test_a_killed_gateway_starts_again_and_serves(loaded):
    stack, load = loaded
    with load:
        load.after(100)
        stack.gateway.kill()
        stack.gateway.start()
        load.after(100)
    # Requests that were inside the killed process are lost with it, as errors the caller can see.
    assert [error for error in load.failures if error.code.name != "UNAVAILABLE"] == []
    assert load.wrong == []
    assert endpoint_states(stack) == HEALTHY


def test_a_drained_gateway_answers_everything_it_took(loaded):
    stack, load = loaded
    with load:
        load.after(100)
        assert stack.gateway.stop() == 0
    assert load.answers > 100
    assert [error for error in load.failures if error.code.name != "UNAVAILABLE"] == []
    assert load.wrong == []
