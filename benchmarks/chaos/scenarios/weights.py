"""Versions that are whole and must not serve."""

from __future__ import annotations

import resource

from benchmarks.chaos import forgery
from benchmarks.chaos.forgery import Forge, forged
from benchmarks.chaos.scenario import Scenario
from benchmarks.chaos.scene import Scene
from benchmarks.chaos.stores import FilePlace

# Numbers of a version that needs 64 MiB, and the room that replicas are left with.
LARGE, ROOM_BYTES = 16 * 2**20, 48 * 2**20


class Forged:
    """A version that a publisher would not make; the replicas refuse it and say why."""

    def __init__(self, change: Forge, reason: str) -> None:
        self._change, self._reason = change, reason

    def __call__(self, scene: Scene) -> None:
        with scene.fault(self._reason), scene.store() as store:
            scene.expect("status", rf"v\d+ {self._reason}", 10.0)
            scene.expect("log", self._reason, 10.0)
            scene.wait_refused(forged(store, self._change))
            # From a model of its own: what the forged version says must not spread.
            scene.publish(exports=True)


def too_large(scene: Scene) -> None:
    """Two versions do not fit: the address space of each replica is bounded while it runs."""
    with scene.fault("a version does not fit beside the one that serves"):
        for replica in scene.replicas:
            bound = scene.address_space(replica) + ROOM_BYTES
            resource.prlimit(replica.pid, resource.RLIMIT_AS, (bound, resource.RLIM_INFINITY))
        scene.expect("status", r"v\d+ OUT_OF_MEMORY", 20.0)
        scene.expect("log", "OUT_OF_MEMORY", 20.0)
        scene.publish(ballast=LARGE, exports=True)
        scene.wait_refused(scene.newest())
        # A version of the usual size fits.
        scene.publish(exports=True)
        scene.wait_served()
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        for replica in scene.replicas:
            resource.prlimit(replica.pid, resource.RLIMIT_AS, unlimited)


def _refused(name: str, injected: str, change: Forge, reason: str, short: bool = False) -> Scenario:
    return Scenario(name, injected, FilePlace, Forged(change, reason), short=short)


SCENARIOS = (
    _refused("nan", "a weight is NaN", forgery.not_a_number, "NON_FINITE", short=True),
    _refused("infinite", "a weight is infinite", forgery.infinite, "NON_FINITE"),
    _refused("architecture", "a layer is wider", forgery.other_shape, "SHAPE_MISMATCH"),
    _refused("signature", "an input is renamed", forgery.other_signature, "SIGNATURE_CHANGED"),
    _refused("datatype", "a tensor is FP64", forgery.other_datatype, "DTYPE_MISMATCH"),
    _refused("probe", "weights of another training", forgery.other_answers, "PROBE_FAILED"),
    Scenario(
        "out-of-memory",
        "RLIMIT_AS on running replicas, a version of 64 MiB",
        FilePlace,
        too_large,
    ),
)
