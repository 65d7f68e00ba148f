"""Loads on a real server: what is measured, counted and tried again; by counts, not by speed."""

import asyncio
import json
from collections import Counter
from contextlib import ExitStack

import numpy as np
import pytest

from chassis.errors import InvalidArgument, ResourceExhausted, Unavailable
from chassis.guard import Guard
from chassis.identities import digest_text
from chassis.protection import Protection
from headrace.load.arrivals import Arrivals, Spacing
from headrace.load.capacity import CapacitySearch, Objective
from headrace.load.mix import Mix, Tenant, TrafficClass
from headrace.load.plan import LoadPlan, Trace
from headrace.load.run import measure, run
from headrace.load.trials import find_capacity
from tests.load.server import parameters_of, serving

pytestmark = pytest.mark.system


def plan(server, rate=200.0, seconds=0.5, **changes):
    given = {
        "address": server.address,
        "model": "echo",
        "arrivals": Arrivals.at_rate(rate, seconds, Spacing.CONSTANT),
        **changes,
    }
    return LoadPlan(**given)


def balanced(tally):
    """Whether every request ended in one way."""
    ends = tally.answered + tally.failures + tally.not_sent + tally.unfinished
    return tally.offered == ends


TRANSPORTS = pytest.mark.parametrize("streams", [0, 2], ids=["unary", "streams"])


@TRANSPORTS
def test_every_request_is_answered_once(streams):
    with serving() as server:
        result = run(plan(server, streams=streams, connections=2, rows=(1, 8)))
        rows = Counter(request.inputs[0].shape[0] for request in server.servicer.requests)
    total = result.total
    assert result.complete and balanced(total)
    assert total.offered == total.sent == total.tries == total.answered == total.good == 100
    assert total.versions == {"7": 100}
    assert sum(rows.values()) == 100 and set(rows) <= set(range(1, 9)) and len(rows) > 4
    assert len(result.lag) == 100 and result.requests == 100 and result.cpu_s > 0


@TRANSPORTS
def test_a_stall_shows_in_all_requests_that_were_due_meanwhile(streams):
    # Who waited for answers before sending on would see one slow request a connection.
    with serving(hold_s=1.0) as server:
        result = run(plan(server, rate=100, seconds=1.5, streams=streams, processes=2))
    total = result.total
    assert total.answered == total.offered == 150
    waits = np.concatenate([item.latencies_us for item in total.intervals.values()]) / 1e6
    # 100 a second were due; those of the first half of the stall waited for its second half.
    assert np.sum(waits >= 0.5) >= 50
    assert np.sum(waits >= 0.9) >= 10
    assert total.latencies.percentile_s(50) >= 0.2


def test_processes_share_one_schedule():
    with serving() as server:
        result = run(plan(server, processes=3, rate=100, seconds=1, interval_s=0.5))
    assert result.total.answered == 100
    assert {n: item.offered for n, item in result.total.intervals.items()} == {0: 50, 1: 50}


def test_the_warm_up_is_sent_and_not_counted():
    with serving() as server:
        result = run(plan(server, rate=100, seconds=0.5, warmup_s=0.5))
        assert len(server.servicer.requests) == 100
    assert result.total.offered == 50
    assert result.requests == 100
    assert result.seconds == 0.5


def test_classes_and_tenants_say_who_they_are():
    mix = Mix(
        (
            TrafficClass("gold", priority=1, deadline_s=20.0, share=1),
            TrafficClass("bulk", priority=3, share=3),
        ),
        (Tenant("a", share=1), Tenant("b", share=2)),
    )
    with serving() as server:
        result = run(plan(server, rate=400, mix=mix, timeout_parameter=True))
        priorities = Counter(parameters_of(server, "priority", "uint64_param"))
        tenants = Counter(parameters_of(server, "tenant", "string_param"))
        timeouts = parameters_of(server, "timeout", "int64_param")
        deadlines = server.servicer.deadlines
    assert {name: tally.offered for name, tally in result.by_class()} == {
        "gold": priorities[1],
        "bulk": priorities[3],
    }
    assert {name: tally.answered for name, tally in result.by_tenant()} == tenants
    assert sum(tally.offered for tally in result.cells.values()) == result.total.offered == 200
    for priority, timeout_us, deadline_s in zip(
        parameters_of(server, "priority", "uint64_param"), timeouts, deadlines, strict=True
    ):
        limit_s = 20.0 if priority == 1 else 30.0
        # gRPC rounds a deadline up on its way.
        assert limit_s - 10 < deadline_s <= limit_s + 1
        assert limit_s - 10 < timeout_us / 1e6 <= limit_s


@TRANSPORTS
def test_a_tenant_with_a_token_is_known_by_it(tmp_path, streams):
    tokens = {"a": "a-token-0123456789abc", "b": "b-token-0123456789abc"}
    auth = tmp_path / "auth.json"
    identities = [
        {"name": name, "token_digests": [digest_text(token)]} for name, token in tokens.items()
    ]
    auth.write_text(json.dumps({"identities": identities}))
    mix = Mix(tenants=tuple(Tenant(name, token=token) for name, token in tokens.items()))
    with serving(protection=Protection(guard=Guard(auth))) as server:
        result = run(plan(server, mix=mix, streams=streams))
        identities = Counter(server.servicer.identities)
    assert result.total.answered == 100
    if not streams:
        assert identities == {name: tally.answered for name, tally in result.by_tenant()}


def test_late_answers_are_answers_but_not_good():
    mix = Mix((TrafficClass(objective_s=0.4, deadline_s=20.0),))
    with serving(hold_s=1.0) as server:
        total = run(plan(server, rate=50, seconds=1, mix=mix)).total
    assert total.answered == 50
    # Those due within 0.6 s of the first have waited longer than the objective.
    assert total.good <= 20


@TRANSPORTS
def test_a_deadline_ends_what_is_not_answered(streams):
    mix = Mix((TrafficClass(deadline_s=0.2),))
    with serving() as server:
        total = run(plan(server, model="held", mix=mix, streams=streams)).total
    assert balanced(total) and total.answered == 0
    assert total.deadline_exceeded + total.not_sent == 100
    assert total.deadline_exceeded > 0


def shed(until, retry_after_s):
    def refuse(number):
        if number < until:
            return ResourceExhausted("QUEUE_FULL", "full", retry_after_s=retry_after_s)
        return None

    return refuse


@TRANSPORTS
def test_what_was_shed_is_counted_by_code_and_reason(streams):
    with serving(refuse=shed(30, None)) as server:
        total = run(plan(server, streams=streams)).total
    assert balanced(total)
    assert total.shed == total.failures == total.reasons["QUEUE_FULL"] == 30
    assert total.answered == 70 and total.retries == 0


def test_a_retry_waits_as_long_as_the_server_says():
    with serving(refuse=shed(10, 0.4)) as server:
        total = run(plan(server, rate=50, retries=20)).total
    assert total.answered == total.offered == 25
    assert total.retried == {"RESOURCE_EXHAUSTED": 10}
    assert total.retries == 10 and total.tries == 35
    waits = np.concatenate([item.latencies_us for item in total.intervals.values()]) / 1e6
    # Latency counts from the first intended time, over every try.
    assert total.latencies.max_s >= 0.4 and np.sum(waits >= 0.4) >= 1


def test_a_request_that_is_refused_too_often_fails():
    with serving(refuse=shed(10_000, 0.0)) as server:
        total = run(plan(server, rate=50, retries=2)).total
    assert total.shed == total.offered == 25
    assert total.tries == 75 and total.retried["RESOURCE_EXHAUSTED"] == 50


def test_a_retry_that_would_come_too_late_is_not_made():
    mix = Mix((TrafficClass(deadline_s=5.0),))
    with serving(refuse=shed(10_000, 60.0)) as server:
        total = run(plan(server, rate=50, retries=2, mix=mix)).total
    assert total.shed == 25 and total.retries == 0


async def test_what_is_due_beyond_the_bound_is_counted_not_sent():
    with serving() as server:

        def release(snapshot):
            if snapshot.progress.not_sent == 70:
                server.servicer.release.set()

        load = plan(server, rate=400, seconds=0.2, model="held", max_outstanding=10)
        total = (await measure(load, on_snapshot=release)).total
    assert (total.offered, total.sent, total.not_sent, total.answered) == (80, 10, 70, 10)
    assert total.latencies.max_s > 0


@TRANSPORTS
async def test_stopped_early_it_tells_what_it_measured(streams):
    stop = asyncio.Event()
    with serving() as server:

        def look(snapshot):
            if snapshot.progress.answered >= 20:
                stop.set()

        load = plan(server, rate=100, seconds=600, streams=streams)
        result = await measure(load, on_snapshot=look, stop=stop)
    assert not result.complete and result.seconds < 600
    assert balanced(result.total) and 20 <= result.total.answered < 60_000


async def test_what_is_under_way_at_a_stop_gets_a_while_and_is_told():
    stop = asyncio.Event()
    with serving() as server:

        def look(snapshot):
            if snapshot.progress.outstanding >= 10:
                stop.set()

        load = plan(server, rate=100, seconds=600, model="held")
        total = (await measure(load, on_snapshot=look, stop=stop)).total
    assert balanced(total)
    assert total.unfinished >= 10 and total.answered == total.failures == 0


async def test_a_load_that_is_cancelled_leaves_no_process(monkeypatch):
    spawned = []
    real = asyncio.create_subprocess_exec

    async def spawn(*arguments, **options):
        spawned.append(await real(*arguments, **options))
        return spawned[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", spawn)
    begun = asyncio.Event()
    with serving() as server:
        load = plan(server, seconds=600, processes=2)
        task = asyncio.create_task(measure(load, on_snapshot=lambda _snapshot: begun.set()))
        await asyncio.wait_for(begun.wait(), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len(spawned) == 2
    assert all(process.returncode is not None for process in spawned)


def test_a_trace_is_replayed(tmp_path):
    file = tmp_path / "trace.jsonl"
    lines = [{"at_s": n / 100, "priority": 1 + n % 2, "rows": 1 + n % 3} for n in range(30)]
    file.write_text("\n".join(map(json.dumps, lines)))
    with serving() as server:
        result = run(plan(server, arrivals=Trace(file), processes=2))
        rows = Counter(request.inputs[0].shape[0] for request in server.servicer.requests)
    assert {name: tally.answered for name, tally in result.by_class()} == {
        "priority-1": 15,
        "priority-2": 15,
    }
    assert rows == {1: 10, 2: 10, 3: 10}


def test_a_server_without_configurations_is_driven_by_its_metadata():
    with serving(configured=False) as server:
        total = run(plan(server, rows=(1, 20))).total
    assert total.answered == 100


def test_a_decoupled_model_is_asked_by_streams():
    with serving() as server:
        refused = run(plan(server, model="count")).total
        inputs = {"x": np.array([[3]])}
        total = run(plan(server, model="count", streams=1, inputs=inputs)).total
    assert refused.failed == {"UNIMPLEMENTED": 100}
    assert total.answered == 100


def test_a_stream_that_breaks_fails_what_waits_and_is_opened_anew():
    with serving() as server:
        total = run(plan(server, model="broken", streams=1)).total
    assert balanced(total)
    # gRPC itself says INTERNAL where the stream's end and our next message cross.
    assert total.failed.total() == 100 and set(total.failed) <= {"UNAVAILABLE", "INTERNAL"}
    assert total.reasons == {"STREAM_ENDED": total.failed["UNAVAILABLE"]}
    assert len(server.servicer.requests) > 1


def test_nobody_there_is_told_with_the_address():
    load = LoadPlan(address="127.0.0.1:1", model="echo", arrivals=Arrivals.at_rate(1, 1))
    with pytest.raises(Unavailable) as caught:
        run(load)
    assert caught.value.reason == "UNREACHABLE" and "127.0.0.1:1" in caught.value.message


def test_a_token_does_not_travel_in_plaintext():
    mix = Mix(tenants=(Tenant("a", token="t"),))
    load = LoadPlan(address="192.0.2.1:1", model="echo", arrivals=Arrivals.at_rate(1, 1), mix=mix)
    with pytest.raises(InvalidArgument) as caught:
        run(load)
    assert caught.value.reason == "TOKEN_IN_PLAINTEXT"


async def test_a_server_that_dies_fails_requests_not_the_load():
    stop = asyncio.Event()
    dying = []
    with ExitStack() as stack:
        server = stack.enter_context(serving())

        def look(snapshot):
            if snapshot.progress.answered >= 10 and not dying:
                dying.append(asyncio.create_task(asyncio.to_thread(stack.close)))
            if snapshot.progress.failed >= 10:
                stop.set()

        load = plan(server, rate=100, seconds=600)
        total = (await measure(load, on_snapshot=look, stop=stop)).total
        await dying[0]
    assert balanced(total)
    assert total.answered >= 10 and total.failed["UNAVAILABLE"] >= 1


async def test_capacity_is_found_where_the_server_sheds():
    # Sheds what is more than 60 requests in a trial of half a second: 120 a second.
    counts = []

    def refuse(_number):
        counts[-1] += 1
        return ResourceExhausted("FULL", "full") if counts[-1] > 60 else None

    counts.append(0)
    with serving(refuse=refuse) as server:
        search = CapacitySearch(50, 0.2)
        capacity = await find_capacity(
            plan(server, seconds=0.5),
            search,
            Objective(99, 20.0, 0.0),
            settle_s=0.0,
            on_trial=lambda _trial, _result: counts.append(0),
        )
    assert capacity.complete and capacity.search.capacity == 112.5
    assert [trial.rate for trial in search.trials] == [50, 100, 200, 150, 125, 112.5]
    assert capacity.best is not None and capacity.best.total.failures == 0


async def test_a_trace_has_no_capacity(tmp_path):
    load = LoadPlan(address="h:1", model="m", arrivals=Trace(tmp_path / "x"))
    with pytest.raises(InvalidArgument):
        await find_capacity(load, CapacitySearch(1), Objective(99, 1))
