"""Rollouts at a replica: a candidate stands by, answers who asks for it, serves once promoted."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import grpc
import numpy as np
import pytest
import torch

from chassis import failpoints
from chassis.errors import Unavailable
from chassis.sequences import Step, add_step
from inference_service.served import Directive, ServedModel
from inference_service.settings import Followed
from inference_service.slot import SlotState
from model_store.promotion import abort, advance, begin, promote
from model_store.publication import existing_channel
from model_store.records import Channel
from model_store.rollout import RolloutPlan
from protos.inference import grpc_service_pb2 as oip
from tests.inference_service.follower import Follower
from tests.inference_service.line import SIGNATURE, Line, expected
from tests.inference_service.served_replica import ServedReplica, request
from tests.inference_service.test_leases import eventually, leased
from tests.inference_service.test_swaps import checked

X = np.arange(12, dtype=np.float32).reshape(3, 4)
ROLLOUTS = 60
PLAN = RolloutPlan(shares=(0.1, 0.5), shadow=0.25)


def begun(line: Line, weight: float, **how: object) -> int:
    """The version of a rollout that begins now."""
    version = line.publish(weight, channel="canary", **how)
    begin(line.store, line.model, version, plan=PLAN)
    return version


def serving(follower: Follower, version: int, weight: float) -> None:
    answered, y = follower.answer(X)
    assert answered == version
    np.testing.assert_array_equal(y, expected(weight, X))


def wait_ready(follower: Follower, version: int) -> None:
    follower.wait(lambda s: s.candidate_ready and s.candidate_version == version)
    np.testing.assert_array_equal(follower.answer(X, version)[1], expected(float(version), X))


def stable(line: Line) -> Channel:
    return existing_channel(line.store, line.model, "stable")


def canary(line: Line) -> Channel:
    return existing_channel(line.store, line.model, "canary")


async def index(
    replica: ServedReplica, *, ready: bool = True
) -> list[oip.RepositoryIndexResponse.ModelIndex]:
    reply = await replica.oip.RepositoryIndex(oip.RepositoryIndexRequest(ready=ready))
    return list(reply.models)


def test_a_candidate_is_loaded_beside_what_serves_and_a_promotion_flips_to_it(
    line, follower, monkeypatch
):
    line.publish(1.0)
    follower.wait_serving(1)
    assert begun(line, 2.0) == 2
    wait_ready(follower, 2)
    serving(follower, 1, 1.0)
    before = follower.served.snapshot()
    assert (before.serving_version, before.wanted_version, before.swaps) == (1, 1, 1)
    assert [slot.state for slot in before.slots] == [SlotState.SERVING, SlotState.STANDBY]
    monkeypatch.setattr(follower.store, "read_blob", None)
    monkeypatch.setattr(follower.store, "manifest", None)
    promote(line.store, "affine", reason="it did well")
    after = follower.wait(lambda s: s.serving_version == 2 and not s.candidate_version)
    assert (after.swaps, after.revision) == (2, stable(line).revision)
    assert (after.failures, after.candidate_ready) == ((), False)
    serving(follower, 2, 2.0)
    np.testing.assert_array_equal(follower.answer(X, 1)[1], expected(1.0, X))


def test_a_smaller_version_can_be_the_candidate(line, follower):
    for weight in (1.0, 2.0, 3.0):
        follower.wait_serving(line.publish(weight))
    begin(line.store, "affine", 1, plan=PLAN)
    wait_ready(follower, 1)
    serving(follower, 3, 3.0)
    promote(line.store, "affine", despite_newer=True, reason="it did well")
    follower.wait_serving(1)
    serving(follower, 1, 1.0)


def test_an_aborted_rollout_changes_nothing(line, follower):
    line.publish(1.0)
    follower.wait_serving(1)
    begun(line, 2.0)
    wait_ready(follower, 2)
    before = follower.served.snapshot().slots
    abort(line.store, "affine", reason="worse")
    after = follower.wait(lambda s: not s.candidate_version)
    assert after.slots == before
    assert (after.serving_version, after.swaps, after.candidate_ready) == (1, 1, False)
    follower.wait_serving(line.publish(3.0))
    serving(follower, 3, 3.0)


def test_a_version_published_meanwhile_comes_first_and_the_candidate_again_after_it(line, follower):
    line.publish(1.0)
    follower.wait_serving(1)
    begun(line, 2.0)
    wait_ready(follower, 2)
    follower.wait_serving(line.publish(3.0))
    wait_ready(follower, 2)
    serving(follower, 3, 3.0)
    assert follower.served.snapshot().swaps == 2


def test_a_candidate_promoted_while_it_loads_flips_at_the_end(line, follower):
    line.publish(1.0)
    follower.wait_serving(1)
    failpoints.arm("load.before_flip=sleep:0.3")
    begun(line, 2.0)
    follower.wait(lambda s: s.load_step == "probe")
    promote(line.store, "affine", reason="now")
    after = follower.wait_serving(2)
    assert (after.swaps, after.failures, after.revision) == (2, (), stable(line).revision)


def test_a_replica_started_during_a_rollout_serves_first_and_loads_the_candidate_then(
    line, store_url
):
    line.publish(1.0)
    begun(line, 2.0)
    with Follower(store_url) as follower:
        wait_ready(follower, 2)
        serving(follower, 1, 1.0)
        assert [slot.state for slot in follower.served.snapshot().slots] == [
            SlotState.SERVING,
            SlotState.STANDBY,
        ]


def with_nan(line: Line):
    weight = torch.ones(3, 4)
    weight[1, 2] = math.nan
    return line.with_tensor("weight", weight)


def with_other_weights(line: Line):
    return line.with_tensor("weight", torch.full((3, 4), 9.0))


def with_another_signature(_line: Line):
    other = replace(SIGNATURE, max_batch_size=16)
    return lambda manifest: replace(manifest, signature=other)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (with_nan, "NON_FINITE"),
        (with_other_weights, "PROBE_FAILED"),
        (with_another_signature, "SIGNATURE_CHANGED"),
    ],
)
def test_a_bad_candidate_is_refused_and_nothing_that_serves_changes(line, follower, damage, reason):
    line.publish(1.0)
    follower.wait_serving(1)
    begun(line, 2.0, change=damage(line))
    snapshot = follower.wait_failed(2)
    assert (snapshot.failures[0].reason, snapshot.failures[0].permanent) == (reason, True)
    assert (snapshot.serving_version, snapshot.wanted_version, snapshot.swaps) == (1, 1, 1)
    assert (snapshot.candidate_version, snapshot.candidate_ready) == (2, False)
    assert follower.served.progress().failure is None, "what is wanted did not fail"
    serving(follower, 1, 1.0)
    abort(line.store, "affine", reason="it does not load")
    follower.wait_serving(line.publish(3.0))
    serving(follower, 3, 3.0)


def test_a_damaged_blob_of_a_candidate_is_found(tmp_path, file_store):
    line = Line(file_store)
    line.publish(1.0)
    version = line.publish(2.0, channel="canary")
    tensors = file_store.manifest("affine", version).tensors
    (digest,) = [entry.digest for entry in tensors if entry.name == "weight"]
    (blob,) = [path for path in tmp_path.rglob("*") if path.is_file() and path.name in digest]
    blob.chmod(0o600)
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    with Follower(f"file://{tmp_path}/store") as follower:
        follower.wait_serving(1)
        begin(file_store, "affine", version, plan=PLAN)
        assert follower.wait_failed(version).failures[0].reason == "DIGEST_MISMATCH"
        serving(follower, 1, 1.0)


def test_a_candidate_that_failed_on_the_way_is_tried_again(line, follower):
    line.publish(1.0)
    follower.wait_serving(1)
    failpoints.arm("load.after_fill=error@1")
    begun(line, 2.0)
    wait_ready(follower, 2)
    assert follower.served.snapshot().failures[0].reason == "FAILPOINT"


def test_with_one_slot_a_candidate_is_refused_by_name_and_a_promotion_is_a_load(line, store_url):
    with Follower(store_url, one_slot=True) as follower:
        line.publish(1.0)
        follower.wait_serving(1)
        begun(line, 2.0)
        snapshot = follower.wait_failed(2)
        assert snapshot.failures[0].reason == "ONE_SLOT"
        assert (snapshot.candidate_version, snapshot.candidate_ready) == (2, False)
        serving(follower, 1, 1.0)
        promote(line.store, "affine", reason="seen elsewhere")
        follower.wait_serving(2)
        serving(follower, 2, 2.0)


def test_a_rollout_against_another_channel_is_none_of_this_replicas(line, follower):
    line.publish(1.0)
    line.publish(2.0, channel="beta")
    follower.wait_serving(1)
    version = line.publish(3.0, channel="canary")
    begin(line.store, "affine", version, plan=PLAN, against="beta")
    follower.wait(lambda s: follower.served.candidate_record == canary(line))
    assert follower.served.candidate is None
    abort(line.store, "affine", reason="enough")
    begin(line.store, "affine", version, plan=PLAN)
    wait_ready(follower, version)


def test_whoever_follows_the_candidates_channel_has_no_candidate(line, follower):
    line.publish(1.0)
    begun(line, 2.0)
    wait_ready(follower, 2)
    follower.served.direct(Directive("canary"), canary(line))
    follower.wait_serving(2)
    assert follower.served.candidate is None
    follower.served.direct(Directive("stable"), stable(line))
    follower.wait_serving(1)
    assert follower.served.snapshot().candidate_version == 2


def test_a_candidates_channel_is_left_alone_where_none_is_named(line, store_url):
    line.publish(1.0)
    begun(line, 2.0)
    with Follower(store_url, candidate_channel="") as follower:
        follower.wait_serving(1)
        follower.wait_serving(line.publish(3.0))
        assert follower.served.candidate_record is None


def test_a_candidates_channel_that_went_back_or_cannot_be_read_keeps_the_last_view(
    line, follower, monkeypatch
):
    line.publish(1.0)
    begun(line, 2.0)
    wait_ready(follower, 2)
    read, seen = follower.store.channel, canary(line)

    def gone_back(model, name):
        found = read(model, name)
        return replace(found, version=1, revision=1, rollout=None) if name == "canary" else found

    def gone(model, name):
        if name == "canary":
            raise Unavailable("STORE_UNAVAILABLE", "not that one")
        return read(model, name)

    for broken, reason in ((gone_back, "CHANNEL_WENT_BACK"), (gone, "STORE_UNAVAILABLE")):
        monkeypatch.setattr(follower.store, "channel", broken)
        follower.wait(lambda s, reason=reason: s.store_error.startswith(reason))
        assert follower.served.candidate_record == seen
    # What is followed does not suffer.
    follower.wait_serving(line.publish(3.0))
    monkeypatch.undo()
    follower.wait(lambda s: not s.store_error)


def test_what_stands_by_as_a_candidate_is_leased(line, store, store_url):
    with Follower(store_url, lease_s=0.6) as follower:
        follower.wait_serving(line.publish(1.0))
        begun(line, 2.0)
        wait_ready(follower, 2)
        eventually(lambda: leased(store) == [1, 2])
    assert leased(store) == []


def test_a_version_serves_since_the_revision_that_named_it(line, follower):
    def revision() -> int:
        return follower.served.snapshot().revision

    assert revision() == 0
    for weight in (1.0, 2.0, 3.0):
        version = line.publish(weight)
        follower.wait_serving(version)
        assert revision() == version
    # Back to what stood by: the newest move with that version counts.
    line.rollback(2)
    follower.wait_serving(2)
    assert revision() == 4
    held = stable(line)
    line.store.move_channel("affine", "stable", 2, expected_revision=4, reason="release")
    follower.wait(lambda s: s.revision == 5)
    assert follower.served.snapshot().swaps == 4, held
    follower.served.direct(Directive("stable", 3), stable(line))
    follower.wait_serving(3)
    assert revision() == 0, "a pin is no revision"
    follower.served.direct(Directive("stable"), stable(line))
    follower.wait_serving(2)
    assert revision() == 5


def test_a_version_that_flips_late_serves_since_its_own_revision(line):
    served = ServedModel(Followed("affine", "stable"), lambda: None)

    def flipped(version: int, *, published_meanwhile: int) -> int:
        manifest = line.store.manifest("affine", version)
        slot = served.slots.begin_load(manifest)
        for _ in range(published_meanwhile):
            line.publish(1.0)
        served.on_channel(stable(line))
        assert served.flip(slot, manifest, load_ms=0.0)
        return served.snapshot().revision

    line.publish(1.0)
    assert flipped(1, published_meanwhile=5) == 1
    # The history keeps 32 moves: to say more than is known would let a session go back.
    assert flipped(2, published_meanwhile=40) == 0


async def test_the_index_and_the_status_tell_gateways_and_operators(replica, line):
    await replica.wait_serving(1)
    version = begun(line, 2.0)
    status = await replica.wait(lambda model: model.candidate_ready)
    assert (status.revision, status.candidate_version) == (1, version)
    one, two = await index(replica)
    assert (one.version, one.revision, one.HasField("rollout")) == ("1", 1, False)
    assert (two.version, two.revision, two.state) == ("2", 0, "READY")
    told = two.rollout
    assert (told.share, told.shadow, told.stage) == (0.1, 0.25, 0)
    assert told.revision == canary(line).revision
    advance(line.store, canary(line), reason="it does well")
    while (await index(replica))[1].rollout.stage != 1:
        pass
    told = (await index(replica, ready=False))[1].rollout
    assert (told.share, told.revision) == (0.5, canary(line).revision)
    promote(line.store, "affine", reason="it did well")
    await replica.wait(lambda model: model.serving_version == 2 and not model.candidate_version)
    one, two = await index(replica)
    assert (one.version, one.revision, one.HasField("rollout")) == ("1", 0, False)
    assert (two.version, two.revision, two.HasField("rollout")) == ("2", 2, False)


async def test_only_what_serves_tells_its_revision(replica, line):
    begun(line, 2.0)
    await replica.wait(lambda model: model.candidate_ready)
    served = await replica.oip.ModelInfer(request(X))
    assert served.parameters["headrace.revision"].int64_param == 1
    named = await replica.oip.ModelInfer(request(X, version="1"))
    assert named.parameters["headrace.revision"].int64_param == 1
    tried = await replica.oip.ModelInfer(request(X, version="2"))
    assert tried.model_version == "2"
    assert "headrace.revision" not in tried.parameters


async def test_a_request_bounds_the_revision_of_what_serves(replica, line):
    assert (await replica.infer(X, min_revision=1))[0] == 1
    code, sentence = await replica.refusal(request(X, min_revision=2))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "revision 1 of its channel" in sentence
    assert "min_revision is 2" in sentence
    assert (await replica.infer(X, version="1", min_revision=2))[0] == 1, "it asks for a version"
    # No refusal kept its slot: the next two loads need both.
    for weight in (2.0, 3.0):
        await replica.wait_serving(line.publish(weight))
    assert (await replica.infer(X, min_revision=3))[0] == 3
    code, sentence = await replica.refusal(request(X, min_revision="soon"))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "moves of the channel" in sentence


def of_sequence(*, version: str = "", **step: bool | int) -> oip.ModelInferRequest:
    made = request(X, version=version)
    if "min_revision" in step:
        made.parameters["min_revision"].int64_param = step.pop("min_revision")
    add_step(made.parameters, Step(7, **step))
    return made


async def test_a_sequence_is_bound_by_a_revision_where_it_starts(replica, line):
    code, _ = await replica.refusal(of_sequence(start=True, end=False, min_revision=2))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    await replica.oip.ModelInfer(of_sequence(start=True, end=False, min_revision=1))
    await replica.wait_serving(line.publish(2.0))
    reply = await replica.oip.ModelInfer(of_sequence(start=False, end=True, min_revision=2))
    assert reply.model_version == "1", "it stays on its version"


async def test_a_candidate_waits_for_sequences_on_what_stood_by(replica, line):
    await replica.oip.ModelInfer(of_sequence(start=True, end=False))
    await replica.wait_serving(line.publish(2.0))
    version = begun(line, 3.0)
    await replica.wait(lambda model: model.load_step == "hold")
    reply = await replica.oip.ModelInfer(of_sequence(start=False, end=False))
    assert reply.model_version == "1"
    assert not (await replica.status()).models[0].candidate_ready
    await replica.oip.ModelInfer(of_sequence(start=False, end=True))
    await replica.wait(lambda model: model.candidate_ready)
    assert (await replica.infer(X, version=str(version)))[0] == version
    assert (await replica.infer(X))[0] == 2


async def test_a_promotion_is_no_first_reply(replica, line):
    begun(line, 2.0)
    await replica.wait(lambda model: model.candidate_ready)
    await replica.infer(X)
    assert (await replica.status()).models[0].first_reply_ms == 0
    await replica.infer(X, version="2")
    first = (await replica.status()).models[0].first_reply_ms
    assert first > 0
    promote(line.store, "affine", reason="it did well")
    await replica.wait_serving(2)
    await replica.infer(X)
    assert (await replica.status()).models[0].first_reply_ms == first


async def test_no_answer_is_torn_and_no_session_goes_back_over_rollouts_under_load(replica, line):
    """Weight = version. Each caller asks for at least the newest revision it has seen."""
    done, tried = False, []

    async def session() -> None:
        revision, versions = 1, set()
        while not done:
            reply = await replica.oip.ModelInfer(request(X, min_revision=revision))
            versions.add(checked(reply, X))
            told = reply.parameters
            # One computed at the moment of a flip tells none.
            seen = told["headrace.revision"].int64_param if "headrace.revision" in told else 0
            assert seen == 0 or seen >= revision
            revision = max(revision, seen)
        assert versions <= promoted | {1}

    async def on_trial() -> None:
        while not done:
            candidate = (await replica.status()).models[0].candidate_version
            try:
                reply = await replica.oip.ModelInfer(request(X, version=str(candidate or 1)))
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
            else:
                assert int(reply.model_version) == (candidate or 1)
                tried.append(checked(reply, X))

    promoted: set[int] = set()
    async with asyncio.TaskGroup() as load:
        for caller in (session(), session(), on_trial()):
            load.create_task(caller)
        for weight in range(2, ROLLOUTS + 2):
            version = await asyncio.to_thread(begun, line, float(weight))
            await replica.wait(
                lambda model, v=version: model.candidate_ready and model.candidate_version == v
            )
            if weight % 3:
                promoted.add(version)
                await asyncio.to_thread(promote, line.store, "affine", reason="well")
                await replica.wait_serving(version)
            else:
                await asyncio.to_thread(abort, line.store, "affine", reason="badly")
        done = True
    status = (await replica.status()).models[0]
    assert status.swaps == 1 + len(promoted)
    assert len(status.failures) == 0
    assert len(set(tried)) > 5


async def test_a_channel_of_candidates_with_no_name_stops_the_process(store_url):
    with pytest.raises(ValueError, match="candidate_channel"):
        ServedReplica(store_url, candidate_channel="no/name")
