"""A candidate gets its share, costs nobody an answer, and is compared with what serves."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

import grpc
import numpy as np
import pytest

from chassis.edge import Stub
from gateway.admin import SERVICE as ADMIN
from gateway.feedback import SERVICE as FEEDBACK
from protos.headrace.v1 import gateway_pb2 as admin
from tests.gateway.calls import Client, Load, ask, reason_of, refused, rows, tensor, until
from tests.gateway.processes import Running

SESSIONS = [f"user-{number}" for number in range(200)]


class Trials:
    """The file that fake replicas read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def say(self, **values: object) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(values))
        new.rename(self.path)


@pytest.fixture
def trials(tmp_path: Path) -> Trials:
    return Trials(tmp_path / "trial.json")


async def rollout(process: Running) -> admin.GetRolloutResponse:
    address = f"127.0.0.1:{process.serving['admin_port']}"
    async with grpc.aio.insecure_channel(address) as channel:
        return await Stub(channel, ADMIN).GetRollout(admin.GetRolloutRequest(model="sum"))


async def heard(process: Running, revision: int) -> None:
    """Returns once the gateway knows of the rollout's stage; 0: that there is none."""

    async def known() -> bool:
        return (await rollout(process)).revision == revision

    await until(known)


async def versions_of(client: Client, sessions: list[str], **options: object) -> list[str]:
    """The version that answered one request of each session."""
    answers = await asyncio.gather(
        *(ask(client, parameters={"session": name}, **options) for name in sessions)
    )
    return [answer.get_response().model_version for answer in answers]


async def test_a_candidate_gets_its_share_by_session(replica, gateway, connect, trials) -> None:
    trials.say(candidate=2, trial_revision=1, share=0.3)
    fake = replica("--trial", str(trials.path))
    process = gateway(fake)
    client = connect(process)
    await heard(process, 1)
    first = await versions_of(client, SESSIONS)
    # The hash of these names and the version decides: the same on every machine.
    assert Counter(first) == {"1": 138, "2": 62}
    assert await versions_of(client, SESSIONS) == first
    trials.say(candidate=2, share=0.6, trial_revision=2, stage=1)
    await heard(process, 2)
    second = await versions_of(client, SESSIONS)
    # Nobody who was on the candidate leaves it as its share grows.
    assert all(now == "2" for before, now in zip(first, second, strict=True) if before == "2")
    assert second.count("2") > first.count("2")
    # The figures are those of the stage.
    seen = await rollout(process)
    assert (seen.candidate.version, seen.control.version) == (2, 1)
    assert (seen.candidate.requests, seen.control.requests) == (
        second.count("2"),
        second.count("1"),
    )
    assert seen.candidate.latency_ms.count == seen.candidate.requests
    assert (seen.endpoints, seen.ready_endpoints) == (1, 1)


async def test_requests_that_say_where_to_go_are_left_alone(
    replica, gateway, connect, trials
) -> None:
    trials.say(candidate=2, trial_revision=1, share=1.0)
    process = gateway(replica("--trial", str(trials.path)))
    client = connect(process)
    await heard(process, 1)
    pinned = await ask(client, model_version="1")
    assert pinned.get_response().model_version == "1"
    named = await ask(client, parameters={"channel": "stable"})
    assert named.get_response().model_version == "1"
    assert (await ask(client)).get_response().model_version == "2"
    seen = await rollout(process)
    assert (seen.candidate.requests, seen.control.requests) == (1, 0)


@pytest.mark.parametrize("fault", ["INTERNAL", "INVALID_ARGUMENT"])
async def test_what_the_candidate_fails_is_answered_and_held_against_it(
    replica, gateway, connect, trials, fault: str
) -> None:
    trials.say(candidate=2, trial_revision=1, share=1.0, fail=fault)
    fakes = [replica("--trial", str(trials.path)) for _ in range(2)]
    process = gateway(*fakes)
    client = connect(process)
    await heard(process, 1)
    answers = await asyncio.gather(*(ask(client) for _ in range(50)))
    assert {answer.get_response().model_version for answer in answers} == {"1"}
    seen = await rollout(process)
    assert (seen.candidate.requests, seen.candidate.failed) == (50, 50)
    assert (seen.control.requests, seen.control.failed) == (0, 0)


async def test_a_candidate_that_takes_its_replicas_along_costs_no_answer(
    replica, gateway, connect, trials
) -> None:
    trials.say(candidate=2, trial_revision=1, share=1.0, fail="UNAVAILABLE")
    process = gateway(*(replica("--trial", str(trials.path)) for _ in range(2)))
    client = connect(process)
    await heard(process, 1)
    answers = await asyncio.gather(*(ask(client) for _ in range(50)))
    assert {answer.get_response().model_version for answer in answers} == {"1"}
    await heard(process, 1)
    seen = (await rollout(process)).candidate
    assert seen.failed == seen.requests > 0


async def test_what_neither_answers_is_nobodys_fault(replica, gateway, connect, trials) -> None:
    trials.say(candidate=2, trial_revision=1, share=1.0)
    process = gateway(replica("--trial", str(trials.path)))
    client = connect(process)
    await heard(process, 1)
    poisoned = tensor("x", np.array([[666.0, 0, 0, 0]], np.float32), "FP32")
    await refused(client.infer("sum", [poisoned]))
    seen = await rollout(process)
    assert (seen.candidate.requests, seen.candidate.failed) == (0, 0)


async def test_the_end_of_a_rollout_hurts_no_request(replica, gateway, connect, trials) -> None:
    trials.say(candidate=2, trial_revision=1, share=0.5)
    fakes = [replica("--trial", str(trials.path), "--alpha-s", "0.002") for _ in range(2)]
    process = gateway(*fakes)
    await heard(process, 1)
    async with Load(connect(process), callers=16) as load:
        await load.answers(200)
        # Given up, and its weights gone from the replicas at once.
        trials.say(trial_revision=2)
        await load.answers(200)
        await heard(process, 0)
        trials.say(candidate=3, share=0.5, trial_revision=5)
        await heard(process, 5)
        await load.answers(200)
    assert load.failures == []


async def test_who_has_not_heard_of_the_end_sends_nobody_there(
    replica, gateway, connect, trials, tmp_path
) -> None:
    other = Trials(tmp_path / "other.json")
    trials.say(candidate=2, share=1.0, trial_revision=1)
    other.say(trial_revision=1)
    cut_off, rest = (replica("--trial", str(each.path)) for each in (trials, other))
    process = gateway(cut_off, rest)
    client = connect(process)
    await heard(process, 1)
    # Half of the fleet has it: half of the share.
    assert 70 < (await versions_of(client, SESSIONS)).count("2") < 130
    other.say(trial_revision=2)
    await heard(process, 0)
    assert set(await versions_of(client, SESSIONS[:20])) == {"1"}
    # Not either when whoever heard of it is gone.
    await asyncio.to_thread(rest.kill)
    assert set(await versions_of(client, SESSIONS[:20])) == {"1"}
    trials.say(candidate=2, share=1.0, trial_revision=3)
    await heard(process, 3)
    assert (await ask(client)).get_response().model_version == "2"


async def test_nobody_waits_for_a_candidate_that_hangs(replica, gateway, connect, trials) -> None:
    trials.say(candidate=2, share=1.0, trial_revision=1, alpha_s=60.0)
    other = replica("--trial", str(trials.path.with_name("none")))
    hangs = replica("--trial", str(trials.path))
    process = gateway(hangs, other)
    client = connect(process)
    await heard(process, 1)
    # Speeds are learned from the version beside it.
    for _ in range(20):
        await ask(client, model_version="1")
    answers = await asyncio.gather(*(ask(client, client_timeout=9.0) for _ in range(50)))
    assert {answer.get_response().model_version for answer in answers} == {"1"}


async def test_a_neighbours_bad_input_is_not_held_against_it(
    replica, gateway, connect, trials
) -> None:
    trials.say(candidate=2, share=1.0, trial_revision=1)
    process = gateway(replica("--trial", str(trials.path), "--alpha-s", "0.02"))
    client = connect(process)
    await heard(process, 1)
    poisoned = tensor("x", np.array([[666.0, 0, 0, 0]], np.float32), "FP32")
    bad = refused(client.infer("sum", [poisoned]))
    await asyncio.gather(ask(client), bad, *(ask(client) for _ in range(30)))
    assert (await rollout(process)).candidate.failed == 0


async def test_copies_are_compared_and_never_answer(replica, gateway, connect, trials) -> None:
    trials.say(candidate=2, trial_revision=1, share=0.0, shadow=1.0, bias=0.5)
    process = gateway(replica("--trial", str(trials.path)))
    client = connect(process)
    await heard(process, 1)

    async def compared() -> bool:
        answer = await ask(client, rows(3))
        assert answer.get_response().model_version == "1"
        return (await rollout(process)).shadow.rows >= 6

    await until(compared)
    shadow = (await rollout(process)).shadow
    # `sum`, one value a row, moved by an eighth; `copy` keeps its order.
    assert shadow.changed_rows == shadow.rows
    assert shadow.max_difference == pytest.approx(0.5)
    assert shadow.difference.sum / shadow.difference.count == pytest.approx(0.5)
    assert (shadow.failed, (await rollout(process)).candidate.requests) == (0, 0)


async def test_scores_go_to_the_version_that_answered(replica, gateway, connect, trials) -> None:
    trials.say(candidate=2, trial_revision=1, share=0.5)
    process = gateway(replica("--trial", str(trials.path)))
    client = connect(process)
    await heard(process, 1)
    await versions_of(client, SESSIONS[:20])
    async with grpc.aio.insecure_channel(process.address) as channel:
        report = Stub(channel, FEEDBACK).Report
        reply = await report(scores(("accuracy", 1, 1.0), ("accuracy", 2, 0.0), ("accuracy", 9, 1)))
        assert reply.taken == 2
        for wrong in (("", 1, 1.0), ("accuracy", 1, float("nan")), ("accuracy", 1, 1e7)):
            with pytest.raises(grpc.RpcError) as caught:
                await report(scores(("accuracy", 2, 1.0), wrong))
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert reason_of(caught.value) in ("BAD_NAME", "BAD_SCORE")
        with pytest.raises(grpc.RpcError) as caught:
            await report(scores(*((f"junk-{number}", 2, 1.0) for number in range(40))))
        assert reason_of(caught.value) == "TOO_MANY_METRICS"
    seen = await rollout(process)
    candidate, control = (arm.scores["accuracy"] for arm in (seen.candidate, seen.control))
    assert (candidate.count, candidate.sum, control.count, control.sum) == (1, 0.0, 1, 1.0)


def scores(*given: tuple[str, int, float]) -> admin.ReportRequest:
    report = admin.ReportRequest(model="sum")
    for metric, version, value in given:
        report.scores.add(metric=metric, version=version, value=value)
    return report


async def test_no_session_goes_back_once_one_endpoint_is_ahead(
    replica, gateway, connect, trials, tmp_path
) -> None:
    ahead = Trials(tmp_path / "ahead.json")
    trials.say(revision=1)
    ahead.say(revision=1)
    late = [replica("--trial", str(trials.path)) for _ in range(2)]
    early = replica("--trial", str(ahead.path), "--version", "2")
    process = gateway(*late, early, monotonic_versions=True)
    client = connect(process)

    async def all_answer() -> bool:
        return {"1", "2"} <= set(await versions_of(client, SESSIONS[:50]))

    await until(all_answer)
    ahead.say(revision=2)

    async def ahead_alone() -> bool:
        return set(await versions_of(client, SESSIONS[:1])) == {"2"}

    await until(ahead_alone)
    # From the first answer of the new revision on there is none of the old one.
    assert set(await versions_of(client, SESSIONS)) == {"2"}
    trials.say(revision=2)
    await until(all_answer)
    # A replica that dies takes its revision with it: the others are the newest now.
    ahead.say(revision=3)
    await until(ahead_alone)
    await asyncio.to_thread(early.kill)

    async def others() -> bool:
        return set(await versions_of(client, SESSIONS[:5])) == {"1"}

    await until(others)
