"""Versions that no publisher of ours would make: written into the store record by record.

The publisher checks what it sends; a store can hold anything. A forged version has the step FORGED
and is recorded under seed -1, which no reply may name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from benchmarks.chaos.exact import NAME, Array, weights_of
from model_store.publication import publish
from model_store.records import Manifest, TensorEntry
from model_store.store import Store

FORGED = 10**12
Forge = Callable[[Store, Manifest], Manifest]


def forged(store: Store, change: Forge) -> int:
    """Publishes the newest version with `change` made to it; returns the version it became."""
    made = _next(store, change)
    return publish(store, made).manifest.version


def prepared(store: Store, seed: int) -> Manifest:
    """A version of `seed` that exists and that no channel names yet; for damage before the move."""
    return store.create_version(_next(store, lambda _, manifest: _filled(store, manifest, seed)))


def point_at(store: Store, version: int) -> None:
    """Moves the channel to `version`, as a publisher would."""
    channel = store.channel(NAME, "stable")
    assert channel is not None
    store.move_channel(
        NAME, "stable", version, expected_revision=channel.revision, reason="publish"
    )


def not_a_number(store: Store, manifest: Manifest) -> Manifest:
    """One weight is NaN."""
    return _with_tensor(store, manifest, "first.weight", _poisoned(weights_of(1)["first.weight"]))


def infinite(store: Store, manifest: Manifest) -> Manifest:
    """One bias is infinite."""
    bias = weights_of(1)["last.bias"].copy()
    bias[0] = np.inf
    return _with_tensor(store, manifest, "last.bias", bias)


def other_shape(store: Store, manifest: Manifest) -> Manifest:
    """A layer is wider than the program's."""
    return _with_tensor(store, manifest, "first.weight", np.ones((32, 16), np.float32))


def other_datatype(store: Store, manifest: Manifest) -> Manifest:
    """A tensor is FP64; loaded by name alone it would be rounded silently."""
    return _with_tensor(store, manifest, "last.bias", np.ones(4, np.float64))


def other_signature(store: Store, manifest: Manifest) -> Manifest:
    """The input has another name."""
    spec = replace(manifest.signature.inputs[0], name="rows")
    return replace(manifest, signature=replace(manifest.signature, inputs=(spec,)))


def other_answers(store: Store, manifest: Manifest) -> Manifest:
    """The weights are another training's: finite, of the right shape, not what the probe saw."""
    return _with_tensor(store, manifest, "last.weight", weights_of(987_654)["last.weight"])


def _next(store: Store, change: Forge) -> Manifest:
    newest = store.manifest(NAME, store.versions(NAME)[-1])
    fresh = replace(
        newest, version=0, commit_id="", create_time_ms=0, step=FORGED, epoch=0, producer="forger"
    )
    return change(store, fresh)


def _filled(store: Store, manifest: Manifest, seed: int) -> Manifest:
    for name, tensor in weights_of(seed).items():
        manifest = _with_tensor(store, manifest, name, tensor)
    # The probe is of the weights that were there before.
    return replace(manifest, probe=None)


def _with_tensor(
    store: Store,
    manifest: Manifest,
    name: str,
    tensor: npt.NDArray[np.floating],
) -> Manifest:
    content = tensor.tobytes()
    datatype = {4: "FP32", 8: "FP64"}[tensor.dtype.itemsize]
    entry = TensorEntry(name, datatype, tensor.shape, store.put_blob(content), len(content))
    others = tuple(tensor for tensor in manifest.tensors if tensor.name != name)
    return replace(manifest, tensors=(*others, entry))


def _poisoned(
    weights: Array,
) -> Array:
    changed = weights.copy()
    changed.flat[3] = np.nan
    return changed
