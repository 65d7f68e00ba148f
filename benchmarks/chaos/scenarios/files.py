"""Files that are torn, changed or cannot be written."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from benchmarks.chaos.children import Child
from benchmarks.chaos.exact import NAME
from benchmarks.chaos.forgery import point_at, prepared
from benchmarks.chaos.scenario import Scenario
from benchmarks.chaos.scene import HABIT, SEEN_AFTER_S, SILENCE_S, Scene
from benchmarks.chaos.stores import FilePlace
from model_store.records import Manifest

LARGEST_FILE = 4096
FAILING_FSYNCS = 30

Damage = Callable[[Path, Scene], None]


def torn(file: Path, scene: Scene) -> None:
    """The second half was never written."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def flipped(file: Path, scene: Scene) -> None:
    """One bit is another."""
    content = bytearray(file.read_bytes())
    at = int(scene.draw.integers(len(content) * 8))
    content[at // 8] ^= 1 << at % 8
    file.write_bytes(bytes(content))


class Damaged:
    """A version is damaged on the disk before the channel comes to it."""

    def __init__(self, part: str, damage: Damage, reason: str) -> None:
        self._part, self._damage, self._reason = part, damage, reason

    def __call__(self, scene: Scene) -> None:
        seed = 7_000_000 + scene.seed
        with scene.fault(f"{self._part} is damaged: {self._damage.__name__}"):
            with scene.store() as store:
                manifest = prepared(store, seed)
                self._damage(self._file(scene, manifest), scene)
                scene.expect("status", f"v{manifest.version} {self._reason}", 10.0)
                scene.expect("log", self._reason, 10.0)
                point_at(store, manifest.version)
            scene.wait_refused(manifest.version)

    def _file(self, scene: Scene, manifest: Manifest) -> Path:
        place: FilePlace = scene.place
        if self._part == "manifest":
            return place.manifest(NAME, manifest.version)
        entry = next(entry for entry in manifest.tensors if entry.name == "first.weight")
        return place.blob(entry.digest)


def damaged_for_all(scene: Scene) -> None:
    """A tensor that no version changes is damaged: whoever holds it does not notice.

    A replica that starts anew cannot load any version, until a publisher's first publication
    finds what it sends damaged in the store.
    """
    place: FilePlace = scene.place
    replica = scene.replicas[0]
    with scene.fault("the blob that all versions share is damaged"):
        with scene.store() as store:
            manifest = store.manifest(NAME, scene.newest())
        entry = next(entry for entry in manifest.tensors if entry.name == "ballast")
        flipped(place.blob(entry.digest), scene)
        scene.kill_replica(replica)
        scene.start_replica(replica)
        scene.expect("status", rf"v{manifest.version} DIGEST_MISMATCH", 30.0)
        scene.expect("log", "DIGEST_MISMATCH", 30.0)
        scene.wait(
            lambda: scene.refused(replica, manifest.version),
            within_s=30.0,
            what="the version is refused",
        )
        scene.rest(SEEN_AFTER_S)
        scene.publish()
        scene.wait_used(replica)


class TinyPlace(FilePlace):
    """A store on a file system of its own of little more than a megabyte."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.root.mkdir(mode=0o700)
        mount = ["mount", "-t", "tmpfs", "-o", "size=1500k,mode=0700", "tmpfs", str(self.root)]
        # Only root may; elsewhere a limit on the publisher's files stands in for a full disk.
        self.mounted = subprocess.run(mount, check=False, capture_output=True).returncode == 0

    def close(self) -> None:
        """Unmounts it."""
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self.root)], check=True)


def full_disk(scene: Scene) -> None:
    """Something else fills the disk; a trainer goes on trying; then there is room again."""
    place: TinyPlace = scene.place
    filler = place.root / "filler"
    with scene.fault("the disk is full"):
        trainer = scene.trainer_under_way(HABIT, every_s=0.3)
        scene.expect("log", "STORE_FULL", 10.0)
        scene.expect_overdue()
        if not place.mounted:
            _bounded(scene, trainer)
            return
        _fill(filler)
        scene.rest(SILENCE_S)
        filler.unlink()
        scene.wait_goes_on()
        trainer.stop()


def quota(scene: Scene) -> None:
    """The publisher may write no file as large as its version needs."""
    with scene.fault("files of a publisher are bounded"):
        trainer = scene.trainer_under_way(HABIT, every_s=0.3)
        scene.expect("log", "STORE_FULL", 10.0)
        scene.expect_overdue()
        _bounded(scene, trainer)


def _bounded(scene: Scene, trainer: Child) -> None:
    """Instead of the trainer one under RLIMIT_FSIZE; its record and its log are files too, and
    fit."""
    trainer.stop()
    scene.publish(4, largest_file=LARGEST_FILE, ballast=LARGEST_FILE, exports=True)
    scene.rest(SILENCE_S)


def failing_fsync(scene: Scene) -> None:
    """The disk fails as the first files are made durable, then no more."""
    with scene.fault("fsync fails"):
        trainer = scene.trainer_under_way(HABIT, every_s=0.3)
        scene.expect("log", "STORE_UNAVAILABLE", 10.0)
        scene.expect_overdue()
        trainer.stop()
        # A publication writes some files side by side and tries each four times: the first ones
        # fail, a later one succeeds after some tries.
        scene.publish(4, every_s=SILENCE_S / 2, failing_fsyncs=FAILING_FSYNCS)
        scene.wait_served()


def _fill(file: Path) -> None:
    with file.open("wb", buffering=0) as opened, suppress(OSError):
        while True:
            opened.write(b"\0" * 4096)


SCENARIOS = (
    Scenario(
        "torn-blob",
        "half of a tensor's blob is missing",
        FilePlace,
        Damaged("blob", torn, "DIGEST_MISMATCH"),
        short=True,
    ),
    Scenario(
        "bit-flip",
        "one bit of a tensor's blob is another",
        FilePlace,
        Damaged("blob", flipped, "DIGEST_MISMATCH"),
    ),
    Scenario(
        "truncated-manifest",
        "half of a manifest is missing",
        FilePlace,
        Damaged("manifest", torn, "MANIFEST_DAMAGED"),
    ),
    Scenario(
        "altered-manifest",
        "one bit of a manifest is another",
        FilePlace,
        Damaged("manifest", flipped, "MANIFEST_DAMAGED"),
    ),
    Scenario(
        "bit-flip-shared",
        "one bit of a tensor that all versions share, then kill -9 of a replica",
        FilePlace,
        damaged_for_all,
    ),
    Scenario(
        "disk-full", "a tmpfs without room (RLIMIT_FSIZE for other users)", TinyPlace, full_disk
    ),
    Scenario("quota", f"RLIMIT_FSIZE of {LARGEST_FILE} bytes on a publisher", FilePlace, quota),
    Scenario(
        "fsync",
        f"the first {FAILING_FSYNCS} calls of fsync in a publisher end in EIO",
        FilePlace,
        failing_fsync,
    ),
)
