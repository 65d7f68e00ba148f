"""Publishers that are killed, doubled, or stopped past their epoch."""

from __future__ import annotations

import signal

from benchmarks.chaos.scenario import Scenario
from benchmarks.chaos.scene import HABIT, SILENCE_S, NotInTime, Scene
from benchmarks.chaos.stores import FilePlace, RedisPlace, S3Place
from inference_service.policy.cadence import OVERDUE, REPLACED

_PUBLICATION = (
    "publish.after_blobs",
    "publish.before_manifest",
    "publish.after_manifest",
    "publish.after_channel",
)
IN_FILES = (
    "store.blob.before_fsync",
    "store.blob.before_rename",
    "store.blob.after_rename",
    *_PUBLICATION,
    "store.manifest.before_fsync",
    "store.manifest.before_link",
    "store.manifest.after_link",
    "store.channel.before_fsync",
    "store.channel.before_rename",
    "store.channel.after_rename",
)
IN_REDIS = (
    "store.blob.before_commit",
    "store.blob.after_commit",
    *_PUBLICATION,
    "store.manifest.before_commit",
    "store.manifest.after_commit",
    "store.channel.before_commit",
    "store.channel.after_commit",
)
IN_S3 = (
    "store.blob.before_commit",
    "store.blob.after_commit",
    *_PUBLICATION,
    "store.manifest.after_archive",
    "store.line.before_commit@1",
    "store.line.after_commit@1",
    "store.line.before_commit@2",
    "store.line.after_commit@2",
)


class Killing:
    """One publisher after another dies at its point; after each, another one publishes."""

    def __init__(self, points: tuple[str, ...]) -> None:
        self._points = points

    def __call__(self, scene: Scene) -> None:
        with scene.fault("publishers are killed"):
            # The dead cannot speak: what shows is that no version comes any more.
            trainer = scene.trainer_under_way(HABIT, every_s=0.2)
            scene.expect_overdue()
            trainer.kill()
            scene.rest(SILENCE_S)
            for point in scene.draw.permutation(self._points):
                self._kill_at(scene, str(point))
                if scene.publish():
                    raise NotInTime(f"nothing could be published after a death at {point}")
                scene.wait_served(within_s=15.0)

    def _kill_at(self, scene: Scene, point: str) -> None:
        name, at, passes = point.partition("@")
        code = scene.publish(armed=f"{name}=kill{at}{passes}")
        if code != -signal.SIGKILL:
            raise NotInTime(f"the publisher did not die at {point}: it ended with {code}")


def two_trainers(scene: Scene) -> None:
    """A second trainer takes over while the first goes on."""
    with scene.fault("two trainers publish at once"):
        first = scene.trainer_under_way(HABIT, every_s=0.05)
        scene.expect("log", "STALE_EPOCH", 10.0)
        scene.expect_both(REPLACED)
        second = scene.trainer_under_way(every_s=0.05)
        scene.rest(2.0)
        first.stop()
        second.stop()


def paused_trainer(scene: Scene) -> None:
    """A trainer is stopped in the midst of a publication, another takes over, the first wakes."""
    with scene.fault("a trainer is stopped and wakes after another took over"):
        paused = scene.trainer_under_way(HABIT, every_s=0.02)
        # Whichever comes first: its silence is told, or its successor.
        scene.expect_both(f"{OVERDUE}|{REPLACED}")
        paused.signal(signal.SIGSTOP)
        before = scene.newest_epoch()
        successor = scene.trainer(every_s=0.1)
        scene.wait(lambda: scene.newest_epoch() > before, within_s=20.0, what="another took over")
        scene.rest(1.0)
        scene.expect("log", "STALE_EPOCH", 10.0)
        paused.signal(signal.SIGCONT)
        scene.rest(2.0)
        paused.stop()
        successor.stop()


SCENARIOS = (
    Scenario(
        "kill-publisher-file",
        f"kill -9 of a publisher at each of {len(IN_FILES)} failpoints, files",
        FilePlace,
        Killing(IN_FILES),
    ),
    Scenario(
        "kill-publisher-redis",
        f"kill -9 of a publisher at each of {len(IN_REDIS)} failpoints, Redis",
        RedisPlace,
        Killing(IN_REDIS),
    ),
    Scenario(
        "kill-publisher-s3",
        f"kill -9 of a publisher at each of {len(IN_S3)} failpoints, S3",
        S3Place,
        Killing(IN_S3),
    ),
    Scenario("two-trainers", "two trainers publish at once", FilePlace, two_trainers, short=True),
    Scenario(
        "paused-trainer",
        "SIGSTOP of a trainer, another takes over, SIGCONT",
        RedisPlace,
        paused_trainer,
    ),
)
