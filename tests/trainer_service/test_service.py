"""The trainer service as processes: runs, kills and resumptions, through gRPC."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import grpc
import pytest

from chassis.edge import error_from_rpc
from chassis.errors import AlreadyExists, FailedPrecondition, HeadraceError, NotFound
from model_store import Store, open_store
from model_store.signing import load_trusted_keys, new_key, verify
from protos.headrace.v1 import trainer_pb2 as pb
from tests.trainer_service.service import (
    TrainerService,
    job_processes,
    listening_beyond_loopback,
    wait_until,
)
from trainer_service.run_files import RunFiles

# Each start of a job imports torch, which takes long where cores are shared.
pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

MODELS = "tests.trainer_service.models"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("trainer")


@pytest.fixture(scope="module")
def service(folder) -> Iterator[TrainerService]:
    started = TrainerService(folder).start()
    yield started
    assert started.terminate() == 0, started.log.read_text()[-3000:]
    assert job_processes(started.state_dir) == []


@pytest.fixture(scope="module")
def store(folder) -> Iterator[Store]:
    with open_store(f"file://{folder}/store") as opened:
        yield opened


def spec(store: Store, model: str = "Tiny", **fields: object) -> pb.RunSpec:
    given = {
        "publish": pb.PublishPolicy(every_steps=40),
        "checkpoint_every_steps": 20,
        "max_steps_per_s": 200,
    }
    return pb.RunSpec(model=f"{MODELS}:{model}", store=store.url, **(given | fields))


def start(service: TrainerService, run_id: str, found: pb.RunSpec) -> pb.Run:
    return service.stub.StartRun(pb.StartRunRequest(run_id=run_id, spec=found)).run


def refused(call, request) -> HeadraceError:
    with pytest.raises(grpc.RpcError) as error:
        call(request, timeout=30)
    return error_from_rpc(error.value)


def assert_whole(store: Store, model: str) -> None:
    """Every version's record and blobs are there and undamaged; the channel is at the newest."""
    versions = store.versions(model)
    for version in versions:
        for name in store.manifest(model, version).digests():
            store.read_blob(name)
    assert store.channel(model, "stable").version == versions[-1]


def test_a_run_from_start_to_stop(service, store):
    asked = spec(store, publish_as="renamed")
    assert start(service, "life", asked).state == pb.RUN_STATE_STARTING
    assert start(service, "life", asked).run_id == "life"
    run = service.until("life", lambda run: run.versions_published >= 3)
    assert run.state == pb.RUN_STATE_RUNNING
    assert run.last_version == run.versions_published
    assert run.step >= 80 and run.loss > 0 and run.metrics["error"] > 0
    assert 0 < run.steps_per_s < 400
    assert run.pid in job_processes(service.state_dir)
    assert [store.manifest("renamed", at).step for at in (1, 2, 3)] == [0, 40, 80]

    other = refused(service.stub.StartRun, pb.StartRunRequest(run_id="life", spec=spec(store)))
    assert isinstance(other, AlreadyExists)

    paused = service.stub.PauseRun(pb.PauseRunRequest(run_id="life"), timeout=30).run
    assert (paused.state, paused.pid, paused.error) == (pb.RUN_STATE_PAUSED, 0, "")
    assert paused.checkpoint_step == paused.step
    now = refused(service.stub.PublishNow, pb.PublishNowRequest(run_id="life"))
    assert isinstance(now, FailedPrecondition) and "is paused" in now.message

    service.stub.ResumeRun(pb.ResumeRunRequest(run_id="life"))
    run = service.until("life", lambda run: run.state == pb.RUN_STATE_RUNNING)
    assert run.step >= paused.step and run.restarts == 0
    before = service.stub.PublishNow(pb.PublishNowRequest(run_id="life")).run.last_version
    service.until("life", lambda run: run.last_version > before)
    stopped = service.stub.StopRun(pb.StopRunRequest(run_id="life"), timeout=30).run
    assert stopped.state == pb.RUN_STATE_STOPPED
    assert stopped.step > paused.step
    assert stopped in service.stub.ListRuns(pb.ListRunsRequest()).runs
    assert [c.run for c in service.stub.WatchRun(pb.WatchRunRequest(run_id="life"))] == [stopped]
    manifests = [store.manifest("renamed", at) for at in store.versions("renamed")]
    assert [m.parent for m in manifests] == list(range(len(manifests)))
    assert {m.epoch for m in manifests} == {1, 2}
    assert_whole(store, "renamed")


def test_a_killed_job_resumes_from_its_checkpoint(service, store):
    start(service, "killed", spec(store))
    run = service.until("killed", lambda run: run.checkpoint_step >= 40)
    os.kill(run.pid, signal.SIGKILL)
    failed = service.until("killed", lambda run: run.restarts == 1)
    assert failed.error == f"rank 0 (process {run.pid}) died of SIGKILL"
    again = service.until("killed", lambda run: run.state == pb.RUN_STATE_RUNNING)
    assert again.step >= again.checkpoint_step >= 40
    assert again.pid != run.pid
    more = service.until("killed", lambda now: now.versions_published > run.versions_published)
    assert more.last_version == more.versions_published
    # The agent this time: its workers must not go on without it.
    os.kill(os.getpgid(more.pid), signal.SIGKILL)
    service.until("killed", lambda run: run.restarts == 2)
    service.stub.StopRun(pb.StopRunRequest(run_id="killed"), timeout=30)
    wait_until(lambda: more.pid not in job_processes(service.state_dir), what="it is gone")
    assert_whole(store, "tiny")


def test_two_processes_train_one_model(service, store):
    asked = spec(store, "Agreeing", processes=2, max_steps=60, max_steps_per_s=60)
    start(service, "two", asked)
    service.until("two", lambda run: run.state == pb.RUN_STATE_RUNNING)
    workers = job_processes(service.state_dir)
    assert len(workers) == 3
    assert listening_beyond_loopback(workers) == []
    run = service.until("two", lambda run: run.state == pb.RUN_STATE_COMPLETED)
    assert (run.step, run.restarts, run.checkpoint_step) == (60, 0, 60)
    assert [store.manifest("agreeing", at).step for at in (1, 2, 3)] == [0, 40, 60]
    checkpoint = service.state_dir / "runs" / "two" / "checkpoints" / "step-000000000060"
    assert {"rank0.json", "rank1.json"} <= {path.name for path in checkpoint.iterdir()}
    assert_whole(store, "agreeing")


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("Missing", "Missing is no headrace.Model"),
        ("Unbuildable", "cannot be prepared: TypeError: four is not a layer"),
    ],
)
def test_a_class_that_will_never_do_fails_without_restarts(service, store, model, sentence):
    start(service, model.lower(), spec(store, model))
    run = service.until(model.lower(), lambda run: run.state == pb.RUN_STATE_FAILED)
    assert sentence in run.error
    assert run.restarts == 0


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"processes": 65}, "BAD_SPEC"),
        ({"max_steps": -1}, "BAD_SPEC"),
        ({"channel": "no channel"}, "BAD_NAME"),
    ],
)
def test_a_bad_spec_is_an_invalid_argument(service, store, fields, reason):
    request = pb.StartRunRequest(run_id="bad", spec=spec(store, **fields))
    assert refused(service.stub.StartRun, request).reason == reason
    missing = refused(service.stub.GetRun, pb.GetRunRequest(run_id="bad"))
    assert isinstance(missing, NotFound)


def test_kills_while_publishing_and_of_the_service_cost_nothing_that_was_acknowledged(tmp_path):
    """The job dies between blobs and manifest, then the service dies, then both go on."""
    service = TrainerService(tmp_path).start(HEADRACE_FAILPOINTS="publish.after_blobs=kill@3")
    with open_store(f"file://{tmp_path}/store") as store:
        start(service, "crash", spec(store))
        run = service.until("crash", lambda run: run.restarts == 1)
        assert "died of SIGKILL" in run.error
        assert store.versions("tiny") == [1, 2]
        assert_whole(store, "tiny")
        run = service.until("crash", lambda run: run.versions_published >= 3)
        service.kill()
        wait_until(
            lambda: job_processes(service.state_dir) == [],
            what="the job dies with its service",
            within_s=10,
        )
        acknowledged = run.last_version
        assert_whole(store, "tiny")

        service.start()
        run = service.until("crash", lambda run: run.state == pb.RUN_STATE_RUNNING)
        assert run.checkpoint_step >= 40
        service.until("crash", lambda now: now.last_version >= run.last_version + 3)
        assert service.terminate() == 0
        assert job_processes(service.state_dir) == []

        versions = store.versions("tiny")
        assert versions == list(range(1, len(versions) + 1)) and len(versions) > acknowledged
        # Every step that was due was published, some of them twice.
        steps = {store.manifest("tiny", at).step for at in versions}
        assert steps == {0, *range(40, max(steps) + 1, 40)}
        assert_whole(store, "tiny")
        (record,) = RunFiles(service.state_dir).load()
        assert record.state.name == "RUNNING"
        assert record.checkpoint_step == record.step >= max(steps)


def test_versions_of_a_run_are_signed(tmp_path):
    made = new_key(tmp_path / "key")
    service = TrainerService(tmp_path)
    service.settings["signing_key"] = made.private
    service.start()
    with open_store(f"file://{tmp_path}/store") as store:
        start(service, "signed", spec(store, publish_as="signed", max_steps=45))
        service.until("signed", lambda run: run.state == pb.RUN_STATE_COMPLETED)
        keys = load_trusted_keys([made.public])
        assert len(store.versions("signed")) >= 2
        for version in store.versions("signed"):
            verify(store.manifest("signed", version), keys)
    assert service.terminate() == 0
