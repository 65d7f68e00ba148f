"""Old versions are collected while replicas read them, pin them, or need them no more."""

from __future__ import annotations

import signal

from benchmarks.chaos.children import Child
from benchmarks.chaos.exact import NAME
from benchmarks.chaos.scenario import Scenario
from benchmarks.chaos.scene import Extent, NotInTime, Scene
from benchmarks.chaos.stores import FilePlace

# Beyond the grace of every collector and of what replicas take for young.
LONG_AGO_S = 3600.0
STEPS = (
    "gc.before_unlink",
    "gc.after_unlink",
    "gc.after_remove",
    "gc.after_commit_name",
    "gc.after_versions",
    "gc.before_blob",
    "gc.after_blob",
)
EJECTED = r'"state": "ejected"'


def slow_readers(scene: Scene) -> None:
    """Every load rests a second before it reads; versions are out of date before it is through."""
    with scene.fault("versions are collected beside slow readers, one of them stopped"):
        trainer = scene.trainer_under_way(every_s=0.2, made_ago_s=LONG_AGO_S)
        collector = scene.collector()
        scene.rest(5.0)
        reader = scene.replicas[0]
        before = scene.swaps(reader)
        scene.wait(lambda: scene.swaps(reader) >= before + 2, within_s=30.0, what="it reads on")
        scene.expect("status", EJECTED, 10.0)
        scene.expect("log", EJECTED, 10.0)
        # In the midst of a load, as one is always under way.
        scene.stop_replica(reader)
        scene.rest(7.0)
        scene.wake_replica(reader)
        before = scene.swaps(reader)
        scene.wait(lambda: scene.swaps(reader) >= before + 2, within_s=30.0, what="it goes on")
        trainer.stop()
        _end(scene, collector_code=_stopped(collector))
        # A version may go before a reader that is late begins with it, and says VERSION_NOT_FOUND.
        # Later the reader goes on to a newer one by itself, leased or not: that a lease keeps a
        # version is for the pinned one to show.
        lost = [what for one in scene.replicas for what in scene.failures(one) if "BLOB" in what]
        if lost:
            raise NotInTime(f"a reader lost what it read: {lost}")


def killed_collectors(scene: Scene) -> None:
    """A collector dies at each of its steps; after each, the store is whole and takes versions."""
    with scene.fault("collectors are killed"):
        for step in scene.draw.permutation(STEPS):
            _published_and_old(scene, 3)
            # Without leases: whatever replicas loaded on the way, there is something to remove.
            scene.wait_served()
            before = _versions(scene)
            code = scene.collect(armed=f"{step}=kill", ages_after_s=0.0)
            if code != -signal.SIGKILL:
                raise NotInTime(f"the collector did not die at {step}: it ended with {code}")
            # The dead could not tell.
            scene.note("collected", versions=sorted(before - _versions(scene)), blobs=0)
            scene.check_whole()
            # Nothing is wrong with what serves; that a collector died is for who runs it to tell.
            scene.expect("status", rf'"serving": {scene.newest()}\b', 10.0)
            scene.wait_served()
        # What the dead began, the next one ends.
        _end(scene, collector_code=scene.collect(ages_after_s=0.0))


def pinned(scene: Scene) -> None:
    """The fleet is pinned to a version that is far beyond what is kept; a replica dies meanwhile.

    The one that is left leases it, so that the one that comes back finds it in the store.
    """
    dying, _ = scene.replicas
    with scene.fault("a pinned version is beyond what is kept"):
        version = _pinned_version(scene)
        trainer = scene.trainer_under_way(every_s=0.3, made_ago_s=LONG_AGO_S)
        collector = scene.collector()
        scene.wait(lambda: version + 3 in scene.collected(), within_s=30.0, what="it collects")
        scene.expect("status", EJECTED, 10.0)
        scene.expect("log", EJECTED, 10.0)
        scene.kill_replica(dying)
        scene.start_replica(dying)
        scene.wait_used(dying)
        scene.wait_served(version, within_s=40.0)
        scene.rest(1.0)
        scene.pin(0)
        trainer.stop()
        # It leaves the slot that stands by too, its leases end, and it goes as any other.
        for _ in range(2):
            _published_and_old(scene, 1)
            scene.wait_served()
        scene.wait(lambda: version in scene.collected(), within_s=30.0, what="it is collected")
        _end(scene, collector_code=_stopped(collector))


def pinned_deleted(scene: Scene) -> None:
    """Replicas take no leases, and the version to which they are pinned is removed.

    Who holds it serves it on. One that starts anew serves the channel, is told to load the version
    and says why it cannot; the gateway uses it all the same: better than none.
    """
    dying, _ = scene.replicas
    with scene.fault("a pinned version is deleted"):
        version = _pinned_version(scene)
        _published_and_old(scene, 3)
        if scene.collect(ages_after_s=0.0) or version not in scene.collected():
            raise NotInTime(f"version {version} was not collected")
        scene.check_whole()
        scene.rest(1.0)
        scene.expect("log", rf"version {version} of model .* was removed", 40.0)
        scene.expect("status", EJECTED, 10.0)
        # From here on the pin is no promise.
        scene.note("pin", version=0)
        scene.kill_replica(dying)
        scene.start_replica(dying)
        scene.wait(lambda: scene.logged("was removed"), within_s=60.0, what="it is named")
        scene.rest(1.0)
        scene.pin(0)
        scene.wait_used(dying)
        scene.wait_served()


def _pinned_version(scene: Scene) -> int:
    _published_and_old(scene, 1)
    version = scene.wait_served()
    scene.pin(version)
    return version


def _published_and_old(scene: Scene, count: int) -> None:
    if scene.publish(count, made_ago_s=LONG_AGO_S):
        raise NotInTime("nothing could be published")


def _versions(scene: Scene) -> set[int]:
    with scene.store() as store:
        return set(store.versions(NAME))


def _stopped(collector: Child) -> int:
    collector.stop()
    code = collector.wait_ended(0.0)
    assert code is not None
    return code


def _end(scene: Scene, *, collector_code: int) -> None:
    if collector_code:
        raise NotInTime(f"the collector ended with {collector_code}")
    if not scene.collected():
        raise NotInTime("nothing was collected")
    scene.check_whole()


SCENARIOS = (
    Scenario(
        "collect-slow-readers",
        "collections without pause beside replicas that rest 1 s before they read, one SIGSTOPped",
        FilePlace,
        slow_readers,
        Extent(replica_failpoints="load.before_fetch=sleep:1"),
    ),
    Scenario(
        "kill-collector",
        f"kill -9 of a collector at each of {len(STEPS)} failpoints",
        FilePlace,
        killed_collectors,
        Extent(replica_settings={"lease_s": 0}),
    ),
    Scenario(
        "pinned-version",
        "a pinned version beyond what is kept, collections without pause, kill -9 of a replica",
        FilePlace,
        pinned,
        Extent(replica_settings={"lease_s": 3, "allow_control": True}),
    ),
    Scenario(
        "pinned-version-deleted",
        "a pinned version is removed, then kill -9 of a replica",
        FilePlace,
        pinned_deleted,
        Extent(replica_settings={"lease_s": 0, "allow_control": True}),
    ),
)
