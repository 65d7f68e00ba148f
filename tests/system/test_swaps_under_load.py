"""The promise: versions come and go under load; every reply is the named version's, bit by bit."""

import asyncio
import itertools
import threading

import numpy as np
import pytest
import tritonclient.grpc.aio as triton

from headrace import Client, Publisher
from tests.system.integers import Integers, computed, filled, rows
from tests.system.stack import Stack, wait_until

pytestmark = pytest.mark.system

OUTSTANDING = 16
VERSIONS = 60


class Publishing:
    """Publishes random versions one after another and remembers their weights."""

    def __init__(self, store):
        self.publisher = Publisher(store, model=Integers())
        self.module = Integers().build()
        self.weights = {}
        self.seeds = itertools.count()

    def publish(self):
        weights = filled(self.module, next(self.seeds))
        version = self.publisher.publish(self.module)
        self.weights[version] = weights
        return version


@pytest.fixture(scope="module", params=["file", "redis", "s3"])
def publishing(request, tmp_path_factory):
    if request.param == "redis":
        store = request.getfixturevalue("redis_url")
    elif request.param == "s3":
        store = request.getfixturevalue("s3_server").url("swaps")
    else:
        store = f"file://{tmp_path_factory.mktemp('publishing')}/store"
    publishing = Publishing(store)
    publishing.publish()
    yield publishing
    publishing.publisher.close()


@pytest.fixture(scope="module")
def stack(publishing, tmp_path_factory):
    stack = Stack(tmp_path_factory.mktemp("stack"), publishing.publisher.store.url, "integers")
    stack.start()
    yield stack
    assert stack.stop() == [0, 0, 0]


def asked(x):
    tensor = triton.InferInput("x", list(x.shape), "FP32")
    tensor.set_data_from_numpy(x)
    return [tensor]


async def load(address, done, replies):
    """Keeps OUTSTANDING requests out until `done`; appends (version, input, output)."""
    client = triton.InferenceServerClient(address)

    async def caller(seed):
        for number in itertools.count():
            if done.is_set():
                return
            x = rows(1 + (seed + number) % 3, seed=seed * 100_000 + number)
            reply = await client.infer("integers", asked(x), client_timeout=20)
            replies.append((int(reply.get_response().model_version), x, reply.as_numpy("y")))

    async with asyncio.TaskGroup() as group:
        for seed in range(OUTSTANDING):
            group.create_task(caller(seed))
    await client.close()


def in_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_every_reply_is_exactly_the_named_versions(publishing, stack):
    done, replies, before = threading.Event(), [], len(publishing.weights)

    def publish_all():
        try:
            for _ in range(VERSIONS):
                publishing.publish()
                done.wait(0.05)
        finally:
            done.set()

    with Client(stack.gateway.address) as client:
        wait_until(lambda: client.ready("integers"), within_s=60, what="the model is ready")
    publisher = in_thread(publish_all)
    asyncio.run(load(stack.gateway.address, done, replies))
    publisher.join()

    assert len(publishing.weights) == before + VERSIONS
    served = {version for version, _, _ in replies}
    assert len(served) >= 10
    wrong = [
        version
        for version, x, y in replies
        if not np.array_equal(y, computed(publishing.weights[version], x))
    ]
    assert wrong == []


def test_the_newest_version_reaches_every_replica(publishing, stack):
    newest = [publishing.publish() for _ in range(5)][-1]
    x = rows(1, seed=7)
    for replica in stack.replicas:
        with Client(replica.address) as client:
            wait_until(
                lambda client=client: client.predict("integers", {"x": x}).version == newest,
                within_s=30,
                what="the newest version answers",
            )
            answer = client.predict("integers", {"x": x})
            assert np.array_equal(answer["y"], computed(publishing.weights[newest], x))
