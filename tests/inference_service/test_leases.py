"""What a replica holds or loads is leased, so that collections beside it take nothing from it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from chassis.clock import wall_time_ms
from chassis.errors import FailedPrecondition, Unavailable
from inference_service.served import Directive
from model_store import open_store
from model_store.faults import Fault, FaultyStore
from model_store.records import Manifest
from tests.inference_service.follower import WITHIN_S, Follower
from tests.inference_service.line import expected
from tests.inference_service.served_replica import ServedReplica
from tests.model_store.collecting import collected

X = np.arange(12, dtype=np.float32).reshape(3, 4)
HOUR_MS = 3600 * 1000


@pytest.fixture
def faulty(store_url: str) -> Iterator[FaultyStore]:
    with FaultyStore(open_store(store_url)) as opened:
        yield opened


def old(manifest: Manifest) -> Manifest:
    """As if it had been published an hour ago."""
    return replace(manifest, create_time_ms=wall_time_ms() - HOUR_MS)


def eventually(condition: Callable[[], bool]) -> None:
    clock, give_up_ms = threading.Event(), wall_time_ms() + WITHIN_S * 1000
    while not condition():
        assert wall_time_ms() < give_up_ms, "never happened"
        clock.wait(0.005)


def leased(store) -> list[int]:
    return [lease.version for lease in store.leases("affine")]


def test_what_both_slots_hold_is_leased_and_released_at_the_end(line, store, store_url):
    # Renewed at a third of it.
    with Follower(store_url, lease_s=0.6) as follower:
        for weight in (1.0, 2.0, 3.0):
            follower.wait_serving(line.publish(weight))
        eventually(lambda: leased(store) == [2, 3])
        first = store.leases("affine")[0].expire_time_ms
        eventually(lambda: store.leases("affine")[0].expire_time_ms > first)
        done = collected(store, keep=0)
        assert done.models[0].removed == (1,)
        assert follower.answer(X)[0] == 3
    assert leased(store) == []


async def test_a_replica_releases_its_leases_when_it_stops(store_url, line, store):
    line.publish(1.0)
    async with ServedReplica(store_url, lease_s=0.6) as served:
        await served.wait_ready()
        await asyncio.to_thread(eventually, lambda: leased(store) == [1])
    assert leased(store) == []


def test_an_old_version_is_leased_as_its_load_begins(line, store, faulty):
    for weight in (1.0, 2.0, 3.0, 4.0):
        line.publish(weight, change=old)
    gate = threading.Event()
    with Follower("", store=faulty) as follower:
        follower.wait_serving(4)
        faulty.add(Fault("read_blob", None, gate=gate))
        follower.served.direct(Directive("stable", 1), follower.served.record)
        eventually(lambda: 1 in leased(store))
        try:
            done = collected(store, keep=1)
        finally:
            gate.set()
        assert 1 in done.models[0].kept
        assert done.models[0].removed == (2,)
        follower.wait_serving(1)
        np.testing.assert_array_equal(follower.answer(X)[1], expected(1.0, X))


def test_a_version_removed_while_it_loads_is_refused_and_nothing_else_changes(line, store, faulty):
    for weight in (1.0, 2.0, 3.0, 4.0):
        line.publish(weight)
    gate = threading.Event()
    with Follower("", store=faulty, lease_s=0) as follower:
        follower.wait_serving(4)
        faulty.add(Fault("read_blob", None, gate=gate))
        read = faulty.calls.count("read_blob")
        follower.served.direct(Directive("stable", 1), follower.served.record)
        eventually(lambda: faulty.calls.count("read_blob") > read)
        try:
            assert collected(store, keep=1).models[0].removed == (1, 2)
        finally:
            gate.set()
        failure = follower.wait_failed(1).failures[0]
        assert failure.reason == "VERSION_NOT_FOUND"
        assert "version 1 of model 'affine' was removed or lost" in failure.message
        assert follower.answer(X)[0] == 4
        np.testing.assert_array_equal(follower.answer(X)[1], expected(4.0, X))


@pytest.mark.parametrize(
    "refusal",
    [FailedPrecondition("STORE_ACCESS", "read-only"), Unavailable("STORE_UNAVAILABLE", "away")],
)
def test_a_store_that_grants_no_lease_is_read_all_the_same(line, faulty, refusal):
    faulty.add(Fault("lease", refusal, times=10**6))
    line.publish(1.0, change=old)
    with Follower("", store=faulty, lease_s=0.3) as follower:
        follower.wait_serving(1)
        follower.wait_serving(line.publish(2.0, change=old))
        eventually(lambda: faulty.calls.count("lease") > 2)
        assert follower.served.snapshot().failures == ()
    assert "release" not in faulty.calls


def test_without_leases_the_store_is_only_read(line, faulty):
    line.publish(1.0, change=old)
    with Follower("", store=faulty, lease_s=0) as follower:
        follower.wait_serving(1)
    assert {"lease", "release"}.isdisjoint(faulty.calls)


def test_a_load_of_a_young_version_writes_no_lease_of_its_own(line, faulty):
    with Follower("", store=faulty, lease_s=86_400) as follower:
        for weight in (1.0, 2.0, 3.0):
            follower.wait_serving(line.publish(weight))
        assert "lease" not in faulty.calls
