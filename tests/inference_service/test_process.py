"""The replica as a process: swaps under load, SIGTERM, kill -9 in the middle of a load."""

from __future__ import annotations

import asyncio
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from chassis.connections import open_aio_channel
from chassis.edge import Stub
from chassis.infer import decoded_outputs
from inference_service.__main__ import main
from model_store import Store
from protos.headrace.v1 import replica_pb2
from tests.inference_service.line import Line, expected
from tests.inference_service.served_replica import request
from tests.system.stack import Service

X = np.arange(8, dtype=np.float32).reshape(2, 4)
SLOW = np.full((1, 4), 8, dtype=np.float32)
WITHIN_S = 30.0

pytestmark = pytest.mark.system


@pytest.fixture
def service(tmp_path: Path, file_store: Store) -> Iterator[Service]:
    settings = {
        "store": file_store.url,
        "port": 0,
        "models": "affine",
        "threads": 1,
        "metrics_port": 0,
        "poll_s": 0.2,
    }
    made = Service("inference_service", settings, tmp_path / "replica.log")
    yield made
    if made.process is not None:
        made.kill()


class Calls:
    """A client of the process that lives as long as one `async with`."""

    def __init__(self, service: Service) -> None:
        self.channel = open_aio_channel(service.address)
        self.oip = Stub(self.channel, "inference.GRPCInferenceService")
        self.own = Stub(self.channel, "headrace.v1.Replica")

    async def __aenter__(self) -> Calls:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.channel.close()

    async def wait(self, condition) -> replica_pb2.ReplicaGetStatusResponse:
        asked = replica_pb2.ReplicaGetStatusRequest()
        async with asyncio.timeout(WITHIN_S):
            while True:
                reply = await self.own.GetStatus(asked, wait_for_ready=True)
                if condition(reply):
                    return reply
                await asyncio.sleep(0.005)

    async def wait_serving(self, version: int) -> replica_pb2.ReplicaModelStatus:
        reply = await self.wait(lambda status: status.models[0].serving_version == version)
        return reply.models[0]


async def test_swaps_under_load_then_a_drain(service, file_store):
    line = Line(file_store)
    line.publish(1.0)
    service.start()
    seen, done = set(), asyncio.Event()

    async def load(calls: Calls) -> None:
        call = calls.oip.ModelStreamInfer()
        for n in range(8):
            await call.write(request(X * n, request_id=str(n)))
        while True:
            answer = await call.read()
            assert not answer.error_message, answer
            reply = answer.infer_response
            version, x = int(reply.model_version), X * int(reply.id)
            np.testing.assert_array_equal(decoded_outputs(reply)["y"], expected(float(version), x))
            seen.add(version)
            if done.is_set():
                break
            await call.write(request(x, request_id=reply.id))
        call.cancel()

    async with Calls(service) as calls, asyncio.TaskGroup() as group:
        await calls.wait_serving(1)
        group.create_task(load(calls))
        for weight in range(2, 62):
            version = await asyncio.to_thread(line.publish, float(weight))
            status = await calls.wait_serving(version)
        done.set()
    assert (status.swaps, len(status.failures)) == (61, 0)
    assert len(seen) > 10
    scraped = await asyncio.to_thread(metrics_of, service)
    assert scraped['headrace_replica_loads_total{model="affine",result="flipped"}'] == 61
    assert scraped['headrace_replica_serving_version{model="affine"}'] == 61
    assert scraped['headrace_replica_load_seconds_count{model="affine"}'] == 61
    assert scraped['headrace_replica_batches_total{code="OK",model="affine"}'] > 10
    assert service.stop() == 0


def metrics_of(service: Service) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{service.serving['metrics_port']}") as page:
        lines = page.read().decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


async def test_sigterm_finishes_what_runs(service, file_store):
    Line(file_store).publish_moody(1.0)
    service.start()
    async with Calls(service) as calls:
        await calls.wait_serving(1)
        stream = calls.oip.ModelStreamInfer()
        await stream.write(request(SLOW, request_id="streamed"))
        slow = calls.oip.ModelInfer(request(SLOW, request_id="unary"))
        await calls.wait(lambda status: status.inflight == 2)
        service.process.send_signal(signal.SIGTERM)
        assert (await stream.read()).infer_response.id == "streamed"
        assert (await slow).id == "unary"
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK
    assert await asyncio.to_thread(service.process.wait, 10) == 0
    log = service.log.read_text()
    assert "stopped" in log
    assert "Traceback" not in log


async def test_killed_in_the_middle_of_a_load_it_comes_back(service, file_store, monkeypatch):
    line = Line(file_store)
    line.publish(1.0)
    # The first load of the process passes, the second kills it.
    monkeypatch.setenv("HEADRACE_FAILPOINTS", "load.before_flip=kill@2")
    service.start()
    async with Calls(service) as calls:
        await calls.wait_serving(1)
        line.publish(2.0)
        assert await asyncio.to_thread(service.process.wait, 20) == -signal.SIGKILL
    monkeypatch.delenv("HEADRACE_FAILPOINTS")
    service.start()
    async with Calls(service) as calls:
        await calls.wait_serving(2)
        reply = await calls.oip.ModelInfer(request(X))
        np.testing.assert_array_equal(decoded_outputs(reply)["y"], expected(2.0, X))
    assert service.stop() == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "stor=memory://a"], "replica.stor is unknown; did you mean replica.store?"),
        (["--set", "store"], "expected KEY=VALUE"),
        ([], "setting replica.store: Field required"),
        (["--set", "store=memory://a", "--set", "device=tpu"], "setting replica.device"),
        (["--set", "store=ftp://a"], "a store URL cannot start with 'ftp'"),
        (["--set", "store=memory://a", "--set", "models=../x"], "not a valid name"),
        (["--set", "store=memory://a", "--set", "device=cuda:99"], "torch finds"),
    ],
)
def test_a_setting_that_is_wrong_is_named(arguments, words, capsys):
    assert main(arguments) == 2
    assert words in capsys.readouterr().err
