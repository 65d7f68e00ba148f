"""Scheduling by real processes: who is answered, who is refused and how, what the status shows."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections import Counter

import grpc
import pytest

from tests.gateway.calls import ask, rows, status_of
from tests.gateway.test_deadlines_wire import reason_of, request
from tests.gateway.test_infer_wire import typed_call

pytestmark = pytest.mark.system

# l(b) in seconds: four rows take 60 ms, so one replica answers 66 rows a second.
LATENCY = ("--alpha-s", "0.04", "--beta-s", "0.005", "--max-batch", "4")


def tenant(name: str, priority: int = 2):
    made = request(tenant=name)
    made.parameters["priority"].int64_param = priority
    return made


async def taught(client) -> None:
    """The gateway has seen batches of both sizes."""
    for _ in range(12):
        await ask(client)
        await asyncio.gather(*(ask(client) for _ in range(4)))


async def outcome(process, message) -> str:
    """OK, or the reason of the refusal."""
    try:
        await typed_call(process.address, message)
    except grpc.aio.AioRpcError as error:
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, error.details()
        pushback = dict(error.trailing_metadata())["grpc-retry-pushback-ms"]
        assert int(pushback) > 0
        return reason_of(error)
    return "OK"


async def flood(process, *messages) -> Counter[str]:
    return Counter(await asyncio.gather(*(outcome(process, message) for message in messages)))


async def test_an_objective_refuses_what_would_be_late_and_answers_the_others(
    replica, gateway, connect
):
    process = gateway(replica(*LATENCY), latency_objective_ms="1500")
    await taught(connect(process))
    seen = await flood(process, *(request() for _ in range(600)))
    assert seen["OK"] >= 20 and seen["WOULD_BE_LATE"] >= 200
    assert set(seen) <= {"OK", "WOULD_BE_LATE", "GIVEN_UP"}
    status = await status_of(process)
    (model,) = status.models
    assert model.rejected + model.shed == 600 - seen["OK"] == model.failed
    (speed,) = status.endpoints[0].speeds
    assert speed.model == "sum" and speed.batches > 20 and not speed.slow
    assert speed.batch_ms + 4 * speed.row_ms > 55
    assert await flood(process, request()) == {"OK": 1}, "afterwards all is well"


async def test_a_tenant_that_floods_takes_nothing_from_another(replica, gateway, connect):
    process = gateway(replica(*LATENCY), latency_objective_ms="1500")
    await taught(connect(process))
    loud, quiet = await asyncio.gather(
        flood(process, *(tenant("loud") for _ in range(600))),
        flood(process, *(tenant("quiet") for _ in range(8))),
    )
    assert quiet == {"OK": 8} and loud["OK"] < 500
    tenants = {each.tenant: each for each in (await status_of(process)).tenants}
    assert tenants["quiet"].rows == 8


async def test_a_flood_of_the_lowest_class_takes_nothing_from_the_highest(
    replica, gateway, connect
):
    process = gateway(replica(*LATENCY), latency_objective_ms="1500")
    await taught(connect(process))
    low, high = await asyncio.gather(
        flood(process, *(tenant("", 3) for _ in range(600))),
        flood(process, *(tenant("", 1) for _ in range(12))),
    )
    assert high == {"OK": 12} and low["OK"] < 500


async def test_late_ones_are_answered_behind_the_others_where_settings_say_so(
    replica, gateway, connect
):
    process = gateway(
        replica("--alpha-s", "0.01", "--max-batch", "4"),
        latency_objective_ms="100",
        timeout_action="delay",
    )
    client = connect(process)
    for _ in range(12):
        await ask(client)
    assert await flood(process, *(request() for _ in range(300))) == {"OK": 300}


async def test_a_stopped_replica_s_batch_is_answered_by_another_one(replica, gateway, connect):
    first, second = replica(*LATENCY), replica(*LATENCY)
    # Neither health checks nor timeouts come to the rescue.
    process = gateway(first, second, health_timeout_s=60, attempt_timeout_s=60)
    client = connect(process)
    await taught(client)
    first.send(signal.SIGSTOP)
    try:
        for number in range(6):
            await ask(client, rows(1, number))
    finally:
        first.send(signal.SIGCONT)
    (model,) = (await status_of(process)).models
    assert model.failed == 0


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("latency_objective_ms", "fast", "expected milliseconds above 0"),
        ("latency_objective_ms", "9=50", "names class '9'"),
        ("tenant_weights", "gold=-1", "tenant_weights has 'gold=-1'"),
        ("preferred_batch_size", "many", "preferred_batch_size has 'many'"),
        ("max_queue_size", "low=3", "max_queue_size has 'low=3'"),
    ],
)
def test_a_wrong_setting_is_named(setting, value, says):
    settings = ["endpoints=127.0.0.1:9", f"{setting}={value}"]
    flags = [flag for pair in settings for flag in ("--set", pair)]
    ended = subprocess.run(
        [sys.executable, "-m", "gateway", *flags], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode != 0
    assert says in ended.stderr and "Traceback" not in ended.stderr
