"""Models that come and go at run time, pins and channels, as Triton's client asks for them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable

import numpy as np
import pytest
import torch
import tritonclient.grpc.aio as triton

from chassis import failpoints
from inference_service.repository import Repository
from model_store import Store
from model_store.publication import publish
from protos.inference import grpc_service_pb2 as oip
from tests.inference_service.line import GATE, WAITING, Line, expected
from tests.inference_service.served_replica import ServedReplica, request

X = np.arange(8, dtype=np.float32).reshape(2, 4)
WAITS = np.full((1, 4), 7, dtype=np.float32)
FOLLOW = json.dumps({"version_policy": {"latest": {}}})


def pin(version: int) -> str:
    return json.dumps({"version_policy": {"specific": {"versions": [version]}}})


def on_channel(name: str) -> str:
    return json.dumps({"parameters": {"channel": {"string_value": name}}})


def threads_of(model: str) -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.endswith(f"-{model}")}


class Operated(ServedReplica):
    """A replica and Triton's client of it."""

    async def __aenter__(self) -> Operated:
        await super().__aenter__()
        self.triton = triton.InferenceServerClient(f"127.0.0.1:{self.port}")
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.triton.close()
        await super().__aexit__(*error)

    async def index(self, *, ready: bool = False) -> list[tuple[str, str, str, str]]:
        reply = await self.oip.RepositoryIndex(oip.RepositoryIndexRequest(ready=ready))
        return [(m.name, m.version, m.state, m.reason) for m in reply.models]

    async def version(self, model: str = "affine") -> int:
        return (await self.infer(X, model=model))[0]


async def refused(call: Awaitable[object]) -> tuple[str, str]:
    """Code and sentence of a call that must fail."""
    with pytest.raises(triton.InferenceServerException) as caught:
        await call
    return caught.value.status().removeprefix("StatusCode."), caught.value.message()


@contextlib.asynccontextmanager
async def operated(store_url: str, **settings: object) -> AsyncIterator[Operated]:
    async with Operated(store_url, allow_control=True, **settings) as started:
        await started.wait_ready()
        yield started


@pytest.fixture
async def live(store_url: str, line: Line) -> AsyncIterator[Operated]:
    """A replica that may be operated and serves version 1 of "affine"."""
    line.publish(1.0)
    async with operated(store_url) as started:
        yield started


@pytest.fixture
def other(store: Store) -> Line:
    """Another model in the store."""
    return Line(store, "other")


async def test_a_version_that_was_removed_cannot_be_pinned(live, line, store):
    for weight in (2.0, 3.0, 4.0):
        await live.wait_serving(line.publish(weight))
    assert store.remove_versions("affine", [1]).removed == (1,)
    code, sentence = await refused(live.triton.load_model("affine", config=pin(1)))
    assert code == "NOT_FOUND"
    assert sentence == (
        "version 1 of model 'affine' was removed from the model store; its newest versions: 2, 3, 4"
    )
    assert await live.version() == 4


async def test_a_pinned_version_stays_until_it_is_followed_again(live, line):
    line.publish(2.0)
    await live.wait_serving(2)
    await live.triton.load_model("affine", config=pin(1))
    assert await live.version() == 1
    line.publish(3.0)
    code, sentence = await refused(live.triton.load_model("affine", config=pin(9)))
    assert code == "NOT_FOUND"
    assert sentence == (
        "version 9 of model 'affine' is not in the model store; its newest versions: 1, 2, 3"
    )
    assert await live.version() == 1
    assert (await live.status()).models[0].wanted_version == 1
    await live.triton.load_model("affine", config=FOLLOW)
    assert await live.version() == 3
    line.publish(4.0)
    await live.wait_serving(4)


async def test_a_load_without_config_follows_again_and_returns_when_it_serves(live, line):
    await live.triton.load_model("affine", config=pin(1))
    line.publish(2.0)
    assert await live.version() == 1
    await live.triton.load_model("affine")
    assert await live.version() == 2


async def test_a_load_that_fails_tells_why_and_changes_nothing(live, line):
    bad = line.publish(2.0, change=line.with_tensor("weight", torch.ones(4, 3)))
    await live.wait(lambda model: model.failures)
    code, sentence = await refused(live.triton.load_model("affine", config=pin(bad)))
    assert code == "FAILED_PRECONDITION"
    assert "version 2 of model 'affine' does not load" in sentence
    assert "'weight'" in sentence
    assert await live.version() == 1
    line.publish(3.0)
    await live.wait_serving(3)


async def test_another_channel_is_followed_once_its_version_serves(live, line, store):
    canary = publish(store, line.manifest(2.0), channel="canary").manifest.version
    assert (await refused(live.triton.load_model("affine", config=on_channel("night"))))[0] == (
        "NOT_FOUND"
    )
    await live.triton.load_model("affine", config=on_channel("canary"))
    assert (await live.infer(X, channel="canary"))[0] == canary
    code, sentence = await live.refusal(request(X, channel="stable"))
    assert code.name == "NOT_FOUND"
    assert "follows the channel 'canary'" in sentence
    canary = publish(store, line.manifest(3.0), channel="canary").manifest.version
    await live.wait_serving(canary)
    line.publish(4.0)
    await live.triton.load_model("affine")
    assert (await live.infer(X, channel="stable"))[0] == 4


async def test_a_model_of_the_store_comes_goes_and_comes_back(live, other):
    other.publish(5.0)
    assert (await live.refusal(request(X, model="other")))[0].name == "NOT_FOUND"
    await live.triton.load_model("other")
    assert await live.triton.is_model_ready("other")
    version, y = await live.infer(X, model="other")
    assert version == 1
    np.testing.assert_array_equal(y, expected(5.0, X))
    assert [m.model for m in (await live.status()).models] == ["affine", "other"]
    await live.triton.unload_model("other", unload_dependents=True)
    assert not await live.triton.is_model_ready("other")
    code, sentence = await live.refusal(request(X, model="other"))
    assert (code.name, sentence) == (
        "NOT_FOUND",
        "model 'other' is not served here; expected one of affine",
    )
    await live.triton.unload_model("other")
    await live.triton.load_model("other")
    await live.infer(X, model="other")
    statistics = await live.triton.get_inference_statistics("other", as_json=True)
    assert statistics["model_stats"][0]["inference_count"] == "4", "what was counted stays"


async def test_a_model_without_a_version_is_not_found(live):
    code, sentence = await refused(live.triton.load_model("nothing"))
    assert code == "NOT_FOUND"
    assert "model 'nothing' is not in the model store" in sentence
    assert (await refused(live.triton.unload_model("nothing")))[0] == "NOT_FOUND"


async def test_a_model_that_does_not_load_leaves_the_replica_ready(live, other):
    other.publish(1.0, change=other.with_tensor("bias", torch.full((3,), float("nan"))))
    code, _ = await refused(live.triton.load_model("other"))
    assert code == "FAILED_PRECONDITION"
    assert live.replica.readiness.ready
    assert not threads_of("other")
    [entry] = [each for each in await live.index() if each[0] == "other"]
    assert entry[1:3] == ("1", "UNAVAILABLE")
    assert entry[3].startswith("NON_FINITE: ")
    other.publish(2.0)
    await live.triton.load_model("other")
    assert await live.version("other") == 2


async def test_an_unload_waits_for_running_work_and_takes_no_more(store_url, line):
    line.publish_moody(1.0)
    async with operated(store_url) as live:
        running = asyncio.create_task(live.infer(WAITS))
        await asyncio.to_thread(WAITING.wait)
        code, _ = await refused(live.triton.unload_model("affine", client_timeout=0.3))
        assert code == "DEADLINE_EXCEEDED"
        assert (await live.refusal(request(X)))[0].name == "NOT_FOUND"
        assert not running.done()
        unloading = asyncio.create_task(live.triton.unload_model("affine"))
        GATE.set()
        assert (await running)[0] == 1
        await unloading
        assert await live.index(ready=True) == []
        assert live.replica.readiness.ready


async def test_an_unload_lets_go_of_slots_and_threads(live, other):
    other.publish(5.0)
    await live.triton.load_model("other")
    weights = weakref.ref(live.replica.models["other"].slots.serving.instance)
    assert threads_of("other") == {"watch-other", "load-other", "lease-other"}
    await live.infer(X, model="other")
    await live.triton.unload_model("other")
    assert not threads_of("other")
    gc.collect()
    assert weights() is None


async def test_unloading_what_was_never_ready_makes_the_rest_ready(store_url, line):
    line.publish(1.0)
    async with Operated(store_url, allow_control=True, models="affine,nothing") as live:
        await live.wait_serving(1)
        assert not await live.triton.is_server_ready()
        await live.triton.unload_model("nothing")
        assert await live.triton.is_server_ready()


async def test_a_callers_deadline_ends_the_call_not_the_load(live, other):
    other.publish(5.0)
    failpoints.arm("load.after_fetch=sleep:0.7")
    code, _ = await refused(live.triton.load_model("other", client_timeout=0.2))
    assert code == "DEADLINE_EXCEEDED"
    states = {(name, state) for name, _, state, _ in await live.index()}
    assert ("other", "READY") not in states
    await live.triton.load_model("other")
    assert await live.version("other") == 1


async def test_loads_of_one_model_take_turns(live, line):
    for weight in (2.0, 3.0):
        line.publish(weight)
    await live.wait_serving(3)
    await asyncio.gather(
        *(live.triton.load_model("affine", config=pin(v)) for v in (1, 2, 3, 2, 1))
    )
    served = await live.version()
    assert served == (await live.status()).models[0].wanted_version
    await live.triton.load_model("affine")
    assert await live.version() == 3


async def test_a_draining_replica_loads_nothing(live, other):
    other.publish(1.0)
    live.replica.repository.close()
    assert (await refused(live.triton.load_model("other")))[0] == "UNAVAILABLE"
    assert (await refused(live.triton.unload_model("affine")))[0] == "UNAVAILABLE"


async def test_a_stop_gives_up_a_load_under_way(store_url, line, store):
    line.publish(1.0)
    Line(store, "other").publish(1.0)
    async with operated(store_url) as live:
        failpoints.arm("load.after_fetch=sleep:0.7")
        loading = asyncio.create_task(live.triton.load_model("other"))
        async with asyncio.timeout(20):
            while ("other", "UNAVAILABLE") not in [(n, s) for n, _, s, _ in await live.index()]:
                pass
        loading.cancel()
    assert not threads_of("other")


async def test_the_index_names_what_is_stored_and_why_it_is_not_loaded(store_url, line, other):
    for weight in range(1, 6):
        line.publish(float(weight))
    other.publish(1.0)
    async with operated(store_url, index_versions=3) as live:
        assert await live.index() == [
            ("affine", "3", "UNAVAILABLE", "not loaded"),
            ("affine", "4", "UNAVAILABLE", "not loaded"),
            ("affine", "5", "READY", ""),
            ("other", "1", "UNAVAILABLE", "not loaded"),
        ]
        reply = await live.triton.get_model_repository_index(as_json=True)
        assert reply["models"][2] == {"name": "affine", "version": "5", "state": "READY"}
        await live.triton.unload_model("affine")
        assert ("affine", "5", "UNAVAILABLE", "unloaded") in await live.index()
        assert await live.index(ready=True) == []


async def test_the_ready_index_reads_no_store(live, monkeypatch):
    async def unread(_self: Repository) -> dict[str, list[int]]:
        raise AssertionError("the store was read")

    monkeypatch.setattr(Repository, "newest_stored", unread)
    assert await live.index(ready=True) == [("affine", "1", "READY", "")]


async def test_the_index_outlives_the_store(live, other, monkeypatch):
    other.publish(1.0)
    monkeypatch.setattr("inference_service.stored.READ_TIMEOUT_S", 0.05)
    release = threading.Event()
    monkeypatch.setattr(
        type(live.replica.repository._store), "models", lambda _self: release.wait(10)
    )
    try:
        assert await live.index() == [("affine", "1", "READY", "")]
    finally:
        release.set()


async def test_strangers_load_nothing(replica):
    async with triton.InferenceServerClient(f"127.0.0.1:{replica.port}") as client:
        assert (await refused(client.load_model("affine", config=pin(1))))[0] == "PERMISSION_DENIED"
        assert (await refused(client.unload_model("affine")))[0] == "PERMISSION_DENIED"
        assert await client.is_model_ready("affine")
