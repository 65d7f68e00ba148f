"""A bound of the age through the gateway: a replica with younger weights answers, or nobody."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chassis.clock import wall_time_ms
from chassis.errors import FailedPrecondition
from headrace import Client, Publisher
from model_store.publication import publish
from tests.system.integers import Integers, rows
from tests.system.stack import Stack, wait_until

pytestmark = pytest.mark.system

HOUR_MS = 3_600_000
X = {"x": rows(1, seed=1)}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """Of a gateway over two replicas: version 1 is young, version 2 an hour old."""
    directory = tmp_path_factory.mktemp("staleness")
    url = f"file://{directory}/store"
    with Publisher(url, model=Integers(), channel="young") as publisher:
        publisher.publish(Integers().build(), step=70)
        young = publisher.store.manifest("integers", 1)
        trained = wall_time_ms() - HOUR_MS
        old = replace(young, version=0, commit_id="", step=10, step_time_ms=trained)
        publish(publisher.store, old, channel="old")
    own = {0: {"models": "integers@young"}, 1: {"models": "integers@old"}}
    stack = Stack(directory, url, "integers", own_settings=own).start()
    with Client(stack.gateway.address) as client:
        wait_until(
            lambda: versions(client, 4) == {1, 2}, within_s=60, what="both replicas are asked"
        )
        yield client
    assert stack.stop() == [0, 0, 0]


def versions(client, requests, **options):
    return {client.predict("integers", X, **options).version for _ in range(requests)}


def test_a_bounded_request_gets_the_younger_version_wherever_it_went_first(client):
    assert versions(client, 30, max_staleness_ms=HOUR_MS // 2) == {1}
    answer = client.predict("integers", X, max_staleness_ms=HOUR_MS // 2)
    assert answer.train_step == 70
    assert 0 <= answer.age_ms < HOUR_MS // 2


def test_a_stream_names_the_age_of_each_answer(client):
    with client.stream() as stream:
        futures = [stream.predict("integers", X) for _ in range(40)]
        answers = [future.result() for future in futures]
    steps = {answer.version: answer.train_step for answer in answers}
    assert steps.items() <= {1: 70, 2: 10}.items()
    assert all((answer.age_ms >= HOUR_MS) == (answer.version == 2) for answer in answers)


def test_where_all_weights_are_too_old_nobody_answers(client):
    with pytest.raises(FailedPrecondition, match="max_staleness_ms is 1") as raised:
        client.predict("integers", X, max_staleness_ms=1)
    assert raised.value.reason == "TOO_STALE"
