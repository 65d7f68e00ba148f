"""Redis servers that restart, fail over, fill up, evict, hang, refuse or load."""

from __future__ import annotations

import signal
import time

from benchmarks.chaos.exact import NAME
from benchmarks.chaos.scenario import Scenario
from benchmarks.chaos.scene import HABIT, SEEN_AFTER_S, SILENCE_S, NotInTime, Scene
from benchmarks.chaos.stores import ConfirmedPlace, PairPlace, RedisPlace
from tests.redis_server import HOST

# The replica's connection tries three times for two seconds each before it says so.
SILENT_WITHIN_S = 15.0
FILLER_KEYS = 4000


def restart_kept(scene: Scene) -> None:
    """kill -9, some seconds of nothing, and the same data again; a trainer goes on trying."""
    place: RedisPlace = scene.place
    with scene.fault("Redis is killed and started again with its data"):
        trainer = scene.trainer_under_way(every_s=0.2)
        scene.expect_both("STORE_UNAVAILABLE")
        place.server.kill()
        scene.rest(3.0)
        place.server.start()
        scene.wait_goes_on()
        trainer.stop()


def restart_lost(scene: Scene) -> None:
    """kill -9 and an empty server: nobody takes it for the store that was there."""
    place: RedisPlace = scene.place
    with scene.fault("Redis is killed and started again without its data"):
        place.server.kill()
        place.server.forget()
        scene.note("wiped")
        scene.expect_both("STORE_LOST_DATA")
        place.server.start()
        scene.publish(3)
        scene.rest(3.0)
        # What serves goes on serving; the operator decides that the new line is the right one.
        for replica in scene.replicas:
            scene.restart(replica)


def failover(scene: Scene) -> None:
    """The primary hangs, its replica takes over, then the address leads back to the first."""
    place: PairPlace = scene.place
    with scene.fault("the Redis primary hangs and its replica takes over"):
        place.second.wait_replicated(place.first)
        scene.expect_both("STORE_UNAVAILABLE", SILENT_WITHIN_S)
        place.first.signal(signal.SIGSTOP)
        scene.rest(9.0)
        place.fail_over()
        trainer = scene.trainer_under_way(every_s=0.3)
    with scene.fault("the deposed primary wakes and the address leads to it"):
        scene.expect_both("went back")
        # Its epoch is newer than what the deposed one knows: it is refused there.
        scene.expect("log", "UNKNOWN_EPOCH", 10.0)
        place.first.signal(signal.SIGCONT)
        place.front.point_to(place.first.port)
        scene.rest(4.0)
        place.front.point_to(place.second.port)
        scene.wait_goes_on()
        trainer.stop()


def failover_confirmed(scene: Scene) -> None:
    """Commits wait for the replica; it lags and comes back, then the primary dies in their midst.

    What was acknowledged is there, and goes on where the first server replicates the second.
    """
    place: ConfirmedPlace = scene.place
    with scene.fault("the replica that confirms commits lags"):
        trainer = scene.trainer_under_way(HABIT, every_s=0.05)
        scene.expect("log", "STORE_NOT_REPLICATED.*0 of 1 replicas", 20.0)
        scene.expect_overdue()
        place.second.detach()
        scene.rest(7.0)
        place.second.replicate(place.first)
        scene.wait_goes_on()
        scene.rest(1.0)
    with scene.fault("the Redis primary is killed and the replica that confirmed takes over"):
        scene.expect_both("STORE_UNAVAILABLE")
        place.first.kill()
        scene.rest(2.0)
        scene.note("failover", lost_since=0)
        place.fail_over()
        place.first.start("--replicaof", f"{HOST} {place.second.port}")
        place.first.wait_replicated(place.second)
        scene.wait_goes_on()
        trainer.stop()


def failover_lost(scene: Scene) -> None:
    """Nothing waits for the replica: it lags, versions are acknowledged and serve, it takes over.

    They are lost and everybody says so; what serves stays until the channel names newer ones.
    """
    place: PairPlace = scene.place
    with scene.fault("a Redis replica that lagged takes over"):
        trainer = scene.trainer_under_way(every_s=0.3)
        place.second.wait_replicated(place.first)
        lost_since = time.monotonic()
        place.second.detach()
        scene.wait_goes_on()
        scene.rest(1.5)
        place.first.kill()
        serving = max(scene.serving())
        scene.rest(1.0)
        scene.expect_both("CHANNEL_WENT_BACK")
        scene.expect("log", "a failover lost the versions between", 10.0)
        scene.note("failover", lost_since=lost_since)
        place.fail_over()
        with scene.store() as store:
            channel = store.channel(NAME, "stable")
            if channel is None or channel.version >= serving:
                raise NotInTime("the server that took over lacks nothing")
        scene.wait(
            lambda: min(scene.serving()) > serving, within_s=30.0, what="newer versions serve"
        )
        trainer.stop()


def full(scene: Scene) -> None:
    """No memory for another key; then there is."""
    admin = scene.place.server.admin
    with scene.fault("Redis is out of memory"):
        trainer = scene.trainer_under_way(HABIT, every_s=0.2)
        scene.expect("log", "STORE_FULL", 10.0)
        scene.expect_overdue()
        admin.config_set("maxmemory", "1mb")
        scene.rest(SILENCE_S)
        admin.config_set("maxmemory", 0)
        scene.wait_goes_on()
        trainer.stop()


def evicting(scene: Scene) -> None:
    """An operator lets the running server drop keys."""
    admin = scene.place.server.admin
    with scene.fault("the eviction policy is changed on the running server"):
        trainer = scene.trainer_under_way(every_s=0.2)
        scene.expect_both("STORE_EVICTS")
        admin.config_set("maxmemory-policy", "allkeys-lru")
        scene.rest(4.0)
        admin.config_set("maxmemory-policy", "noeviction")
        scene.wait_goes_on()
        trainer.stop()


def hung(scene: Scene) -> None:
    """SIGSTOP: the connections stand, nothing comes."""
    server = scene.place.server
    with scene.fault("Redis hangs"):
        trainer = scene.trainer_under_way(every_s=0.2)
        scene.expect_both("STORE_UNAVAILABLE.*did not answer", SILENT_WITHIN_S)
        server.signal(signal.SIGSTOP)
        scene.rest(9.0)
        server.signal(signal.SIGCONT)
        scene.wait_goes_on()
        trainer.stop()


def read_only(scene: Scene) -> None:
    """The server became a replica of something else: it is read and not written."""
    server = scene.place.server
    with scene.fault("Redis is read-only"):
        trainer = scene.trainer_under_way(HABIT, every_s=0.2)
        scene.expect("log", "STORE_UNAVAILABLE.*read-only", 10.0)
        scene.expect_overdue()
        server.detach()
        scene.rest(SILENCE_S)
        server.promote()
        scene.wait_goes_on()
        trainer.stop()


def loading(scene: Scene) -> None:
    """A restart with much to read: for seconds the server answers that it is loading."""
    place: RedisPlace = scene.place
    with place.server.admin.pipeline() as pipeline:
        for key in range(FILLER_KEYS):
            pipeline.set(f"filler:{key}", b"x" * 200)
        pipeline.bgrewriteaof()
        pipeline.execute()
    with scene.fault("Redis loads its data for seconds"):
        trainer = scene.trainer_under_way(every_s=0.2)
        scene.expect_both("STORE_UNAVAILABLE")
        place.server.kill()
        # A millisecond a key.
        place.server.launch(
            "--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024"
        )
        scene.rest(SEEN_AFTER_S)
        scene.wait_goes_on()
        trainer.stop()


SCENARIOS = (
    Scenario(
        "redis-restart",
        "kill -9 of Redis, 3 s later the same data",
        RedisPlace,
        restart_kept,
        short=True,
    ),
    Scenario("redis-lost", "kill -9 of Redis, then an empty one", RedisPlace, restart_lost),
    Scenario(
        "redis-failover",
        "SIGSTOP of the primary, its replica promoted; later the address leads back",
        PairPlace,
        failover,
    ),
    Scenario(
        "redis-failover-confirmed",
        "kill -9 of a primary whose commits wait for its replica, which had lagged",
        ConfirmedPlace,
        failover_confirmed,
    ),
    Scenario(
        "redis-failover-lost",
        "kill -9 of a primary whose replica lags, and takes over",
        PairPlace,
        failover_lost,
    ),
    Scenario("redis-full", "maxmemory below what is used", RedisPlace, full),
    Scenario(
        "redis-evicts", "maxmemory-policy set to allkeys-lru while running", RedisPlace, evicting
    ),
    Scenario("redis-hung", "SIGSTOP of Redis for 9 s", RedisPlace, hung),
    Scenario("redis-read-only", "Redis made a replica of nothing", RedisPlace, read_only),
    Scenario("redis-loading", "Redis restarted with seconds of loading", RedisPlace, loading),
)
