"""Start, drain, second start; the admin port, the statistics and the metrics."""

from __future__ import annotations

import asyncio
import signal
import urllib.request

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from chassis.edge import Stub, error_from_rpc
from chassis.errors import HeadraceError
from gateway.__main__ import main
from gateway.admin import SERVICE as ADMIN
from protos.headrace.v1 import gateway_pb2 as admin
from tests.gateway.calls import Load, ask, batches_of, code_of, refused, rows, until


async def test_sigterm_finishes_what_waits_and_what_runs(replica, gateway, connect):
    fake = replica("--alpha-s", "0.15", "--max-batch", "4")
    process = gateway(fake, max_inflight_batches=1)
    client = connect(process)
    calls = [asyncio.create_task(ask(client, rows(1, number))) for number in range(16)]

    async def begun() -> bool:
        return sum((await batches_of(fake)).values()) >= 1

    await until(begun)
    process.send(signal.SIGTERM)

    async def not_ready() -> bool:
        return not await client.is_server_ready()

    await until(not_ready)
    assert len(await asyncio.gather(*calls)) == 16
    assert await asyncio.to_thread(process.wait) == 0
    assert process.events("stopped") and not process.events("drain ended with requests unanswered")


async def test_requests_are_taken_for_a_notice_then_refused(replica, gateway, connect):
    process = gateway(replica("--alpha-s", "0.6"), drain_notice_s=0.5)
    client = connect(process)
    slow = asyncio.create_task(ask(client, rows(1, 1.0)))
    await ask(client, rows(1, 2.0))
    process.send(signal.SIGTERM)
    async with Load(client, callers=2) as load:
        await load.answers(3)
    await slow
    assert load.answered >= 1
    assert {failure.partition(":")[0] for failure in load.failures} <= {"UNAVAILABLE"}
    assert await asyncio.to_thread(process.wait) == 0


async def test_a_drain_ends_even_if_a_replica_does_not(replica, gateway, connect):
    fake = replica("--alpha-s", "600")
    process = gateway(fake, drain_s=0.5)
    call = asyncio.create_task(ask(connect(process)))

    async def begun() -> bool:
        return sum((await batches_of(fake)).values()) >= 1

    await until(begun)
    process.send(signal.SIGTERM)
    assert code_of(await refused(call)) in ("UNAVAILABLE", "CANCELLED")
    assert await asyncio.to_thread(process.wait) == 0
    ended = process.events("drain ended with requests unanswered")
    assert [event["inflight_batches"] for event in ended] == [1]


def exit_of(capfd, *settings: str) -> tuple[int, str]:
    """The exit code and what was written of a gateway that cannot start."""
    flags = [flag for setting in settings for flag in ("--set", setting)]
    code = main(flags)
    return code, capfd.readouterr().err


def test_a_taken_port_is_told_in_a_sentence(plain, capfd):
    code, written = exit_of(capfd, f"port={plain[0].port}", "admin_port=-1", "metrics_port=-1")
    assert code == 2
    sentence = written.strip().splitlines()[-1]
    assert sentence == f"error: cannot listen on 127.0.0.1:{plain[0].port}: the port is taken"
    assert "Traceback" not in written


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("prot=1", "did you mean gateway.port?"),
        ("endpoints=nowhere", "expected host:port"),
        ("registry=http://x", "expected redis://host:port/db"),
        ("port", "expected KEY=VALUE"),
    ],
)
def test_wrong_settings_stop_the_process(capfd, setting, sentence):
    code, written = exit_of(capfd, setting)
    assert code == 2
    assert sentence in written and "Traceback" not in written


async def test_health_follows_the_fleet(replica, gateway):
    fake = replica("--unready")
    process = gateway(fake)
    async with grpc.aio.insecure_channel(process.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        async def says(status: int) -> bool:
            reply = await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
            return reply.status == status

        assert await says(health_pb2.HealthCheckResponse.NOT_SERVING)
        fake.send(signal.SIGUSR2)
        await until(lambda: says(health_pb2.HealthCheckResponse.SERVING))


async def test_the_admin_port_tells_and_takes_out(replica, gateway, connect):
    # Long batches: what a busy machine adds makes neither look slow.
    first, second = replica("--alpha-s", "0.05"), replica("--alpha-s", "0.05", "--no-stream")
    # A machine under load can stall a healthy replica beyond the default; states are asserted here.
    process = gateway(first, second, health_timeout_s=10, hedging="false")
    client = connect(process)
    for number in range(6):
        await ask(client, rows(2, number))
    await refused(ask(client, rows(65)))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{process.serving['admin_port']}") as channel:
        stub = Stub(channel, ADMIN)
        status = await stub.GetStatus(admin.GatewayGetStatusRequest())
        endpoints = {each.address: each for each in status.endpoints}
        assert [each.error for each in status.endpoints] == ["", ""]
        assert {each.state for each in status.endpoints} == {admin.ENDPOINT_STATE_HEALTHY}
        assert endpoints[first.address].streaming and not endpoints[second.address].streaming
        assert sum(each.batches for each in status.endpoints) == 6
        (model,) = status.models
        assert (model.model, model.succeeded, model.failed, model.rows) == ("sum", 6, 1, 12)
        assert not status.draining

        drained = await stub.DrainEndpoint(admin.DrainEndpointRequest(address=first.address))
        assert drained.endpoint.state == admin.ENDPOINT_STATE_DRAINING
        before = await batches_of(first)
        for number in range(4):
            await ask(client, rows(1, number))
        assert await batches_of(first) == before
        back = await stub.RestoreEndpoint(admin.RestoreEndpointRequest(address=first.address))
        assert back.endpoint.state == admin.ENDPOINT_STATE_HEALTHY
        for number in range(4):
            await ask(client, rows(1, number))
        assert await batches_of(first) != before

        with pytest.raises(grpc.RpcError) as caught:
            await stub.DrainEndpoint(admin.DrainEndpointRequest(address="1.2.3.4:5"))
        refusal: HeadraceError = error_from_rpc(caught.value)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "ENDPOINT_NOT_FOUND")


async def test_statistics_add_up_and_only_grow(replica, gateway, connect):
    first, second = replica("--alpha-s", "0.01"), replica("--version", "2", "--alpha-s", "0.01")
    client = connect(gateway(first, second))

    async def totals() -> dict[str, int]:
        statistics = await client.get_inference_statistics("sum")
        entries = statistics.model_stats
        return {
            "answered": sum(entry.inference_stats.success.count for entry in entries),
            "failed": sum(entry.inference_stats.fail.count for entry in entries),
            "rows": sum(entry.inference_count for entry in entries),
            "batches": sum(entry.execution_count for entry in entries),
            "queued": sum(entry.inference_stats.queue.count for entry in entries),
            "sized": sum(s.compute_infer.count for entry in entries for s in entry.batch_stats),
        }

    await asyncio.gather(*(ask(client, rows(1 + number % 3, number)) for number in range(30)))
    await refused(ask(client, rows(65)))
    seen = await totals()
    assert seen["answered"] == seen["queued"] == 30 and seen["failed"] == 1
    assert seen["rows"] == sum(1 + number % 3 for number in range(30))
    assert seen["batches"] == seen["sized"] < 30
    entries = (await client.get_inference_statistics("sum")).model_stats
    assert {entry.version for entry in entries} == {"1", "2"}
    for entry in entries:
        stats = entry.inference_stats
        assert stats.success.ns >= stats.compute_infer.ns > 0 and entry.last_inference > 0

    await asyncio.to_thread(first.kill)
    await ask(client)
    later = await totals()
    assert all(later[name] >= seen[name] for name in seen)
    assert later["answered"] == 31


async def test_metrics_are_served(replica, gateway, connect):
    fake = replica()
    process = gateway(fake, metrics_port=0)
    client = connect(process)
    await ask(client)
    await refused(ask(client, rows(65)))
    url = f"http://127.0.0.1:{process.serving['metrics_port']}/metrics"
    text = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=5).read().decode())
    assert 'headrace_gateway_requests_total{model="sum",status="OK"} 1.0' in text
    assert 'headrace_gateway_requests_total{model="sum",status="INVALID_ARGUMENT"} 1.0' in text
    assert 'headrace_gateway_batch_rows_count{model="sum"} 1.0' in text
    state = f'headrace_gateway_endpoint_state{{endpoint="{fake.address}",state="healthy"}} 1.0'
    assert state in text
