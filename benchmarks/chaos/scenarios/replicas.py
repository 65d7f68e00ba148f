"""Replicas that are killed or stopped, and publications that ask much of them."""

from __future__ import annotations

import signal

from benchmarks.chaos.exact import NAME
from benchmarks.chaos.scenario import Scenario
from benchmarks.chaos.scene import SILENCE_S, Extent, NotInTime, Scene
from benchmarks.chaos.stores import FilePlace
from model_store.publication import rollback

LOAD_POINTS = ("load.after_fetch", "load.after_fill", "load.before_flip", "load.after_flip")
# As status and log write it; a bare word would also be found in "rejected".
EJECTED = r'"state": "ejected"'
PUBLICATIONS, PUBLISHED_IN_S = 100, 10.0
MANY = 32


def killed(scene: Scene) -> None:
    """kill -9 of each replica in turn while batches run on it."""
    with scene.fault("replicas are killed"):
        for replica in scene.replicas:
            scene.wait_busy(replica)
            scene.expect("status", EJECTED, 5.0)
            scene.expect("log", EJECTED, 5.0)
            scene.kill_replica(replica)
            scene.rest(2.0)
            scene.start_replica(replica)
            scene.wait_used(replica)


def stopped(scene: Scene) -> None:
    """SIGSTOP of a replica: its connections stand, it only says nothing."""
    replica = scene.replicas[int(scene.draw.integers(len(scene.replicas)))]
    with scene.fault("a replica is stopped"):
        scene.expect("status", EJECTED, 10.0)
        scene.expect("log", EJECTED, 10.0)
        scene.stop_replica(replica)
        scene.rest(6.0)
        scene.wake_replica(replica)


def killed_in_loads(scene: Scene) -> None:
    """A replica dies at each step of a load and comes back; the other one loads the version."""
    replica = scene.replicas[0]
    with scene.fault("a replica is killed at each step of a load"):
        scene.kill_replica(replica)
        for point in scene.draw.permutation(LOAD_POINTS):
            # The first pass is its own start.
            scene.start_replica(replica, f"{point}=kill@2")
            scene.wait_used(replica)
            scene.expect("status", EJECTED, 15.0)
            scene.expect("log", EJECTED, 15.0)
            scene.publish()
            scene.wait_died(replica, within_s=20.0)
            if scene.serving()[1] < 0:
                raise NotInTime("the other replica does not answer")
        scene.start_replica(replica)
        scene.wait_used(replica)


def many_publications(scene: Scene) -> None:
    """A hundred versions in ten seconds: those in between are skipped, the last one serves."""
    with scene.fault("a hundred publications in ten seconds"):
        trainer = scene.trainer(count=PUBLICATIONS, every_s=0.0, span_s=PUBLISHED_IN_S)
        if trainer.wait_ended(90.0) is None:
            raise NotInTime("a hundred versions were not published within 90 s")
        scene.expect("status", rf'"serving": {scene.newest()}\b', 10.0)
        scene.wait_served()
        # The trainer has ended, and nobody said that it would.
        scene.expect_overdue()
        scene.rest(SILENCE_S)


def rolled_back(scene: Scene) -> None:
    """While replicas load a version, an operator goes back to the one before."""
    with scene.fault("a rollback in the midst of a rollout"), scene.store() as store:
        for _ in range(3):
            before = scene.newest()
            scene.publish()
            scene.note("rollback", version=before)
            target = rollback(store, NAME, to_version=before, reason="chaos").version
            scene.wait_served(target)
            channel = store.channel(NAME, "stable")
            assert channel is not None
            scene.expect("status", rf'"serving": {before}\b', 5.0)
            scene.rest(1.0)
            # Publishers move the channel again.
            store.move_channel(
                NAME, "stable", before, expected_revision=channel.revision, reason="released"
            )


def many_replicas(scene: Scene) -> None:
    """One publication that all replicas of a host load at the same moment."""
    with scene.fault(f"{len(scene.replicas)} replicas load one publication"):
        for _ in range(3):
            scene.publish()
            scene.expect("status", rf'"serving": {scene.newest()}\b', 15.0)
            scene.wait_served()


def unheard(scene: Scene) -> None:
    """A publisher dies between the move of the channel and the hint that wakes readers."""
    with scene.fault("a notification is lost"):
        for _ in range(3):
            code = scene.publish(armed="store.channel.after_rename=kill")
            if code != -signal.SIGKILL:
                raise NotInTime(f"the publisher did not die: it ended with {code}")
            scene.expect("status", rf'"serving": {scene.newest()}\b', 10.0)
            scene.wait_served(within_s=10.0)


BUSY = Extent(callers=16, pause_s=0.005)
SLOW_LOADS = Extent(replica_failpoints="load.after_fill=sleep:0.5")

SCENARIOS = (
    Scenario(
        "kill-replica", "kill -9 of each replica mid-batch", FilePlace, killed, BUSY, short=True
    ),
    Scenario("stop-replica", "SIGSTOP of a replica for 6 s", FilePlace, stopped),
    Scenario(
        "kill-loading-replica",
        f"kill -9 of a replica at {', '.join(LOAD_POINTS)}",
        FilePlace,
        killed_in_loads,
    ),
    Scenario("many-publications", "100 publications in 10 s", FilePlace, many_publications),
    Scenario(
        "rollback",
        "a rollback while replicas load (half a second each)",
        FilePlace,
        rolled_back,
        SLOW_LOADS,
    ),
    Scenario(
        "many-replicas",
        f"{MANY} replicas at one publication",
        FilePlace,
        many_replicas,
        Extent(replicas=MANY, callers=4),
    ),
    Scenario(
        "lost-notification",
        "kill -9 of a publisher before its hint",
        FilePlace,
        unheard,
        short=True,
    ),
)
