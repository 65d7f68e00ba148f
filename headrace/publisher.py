"""From a module in a training loop to a version in the model store.

Decides when a version may be made (finite weights, outputs as the signature says), what is sent
(only blobs that the store lacks), and what is repeated (a store that was unavailable, under the
same commit id). The module is never changed. The order of manifest and channel is left to
`model_store.publication`, the signature to `headrace.interface`.
"""

from __future__ import annotations

import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from os import getpid
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeVar
from uuid import uuid4

import torch
from torch import nn

from chassis.clock import wall_time_ms
from chassis.errors import FailedPrecondition, InvalidArgument, Unavailable
from chassis.failpoints import failpoint
from chassis.names import checked_name
from chassis.telemetry import logger
from chassis.tensors import Signature, TensorSpec
from headrace import interface, probe
from headrace.gate import Gate, refusal_of
from headrace.interface import DEFAULT_MAX_BATCH_SIZE, Example, Interface
from headrace.lineage import Lineage
from headrace.model import Model
from headrace.module_config import config_of
from headrace.program import export_program
from headrace.serving_copy import ServingCopy
from headrace.values import Value, close, datatype_of_value, fits, outputs_in_order, uses_bytes
from headrace.weights import State, entries, snapshot, unwrapped
from model_store import Store, open_store
from model_store.digests import digest
from model_store.publication import Publication
from model_store.publication import publish as commit
from model_store.records import Manifest, ModuleConfig, Probe, Program, ProgramKind
from model_store.rules import check_blobs
from model_store.side_by_side import side_by_side

log = logger(__name__)

# Seconds before each repetition of a call that found the store unavailable: a failover takes about
# this long, and a training loop should not stand still for longer.
RETRY_DELAYS_S = (0.1, 0.4, 1.6)
# One waits for the disk or the server while another is digested; more bring no more.
PUTS_AT_ONCE = 4
# A blob that was put is safe from collectors; one that was found may have gone. Once is rare.
COLLECTED_ATTEMPTS = 2

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What every version of one publisher shares."""

    signature: Signature
    golden: tuple[Value, ...]
    program: Program
    content: bytes
    # The module's own configuration; empty where it has none.
    config: bytes


class Publisher:
    """Publishes a module's weights as versions of one model; for one training loop.

    `store` is a Store or its URL (`file:///path`, `redis://host:port/db`, `memory://name`).
    `model` is a headrace.Model, or the name of one. With a name alone, the signature comes from
    `inputs` and `outputs` (TensorSpecs in forward's order; outputs may be left out), from
    `example_inputs` (a tensor, several, or a dict by name, with the batch as first dimension
    unless `max_batch_size` is 0), or from the newest stored version with the same tensors.

    `epoch` is a fencing token from `Store.acquire_epoch`; None acquires one at the first
    publication, which fences every earlier publisher of the model; 0 publishes unfenced.
    `parent` is the version that this training published last; `producer` words for a person.
    `signing_key` names the file of a private key (`headrace keys new`) that signs each version.
    `channel` "canary" feeds rollouts (docs/rollouts.md) in place of moving "stable" by itself.

    `gate` holds bounds by metric, such as {"auc": ">=0.7"}, or is a function of the metrics:
    weights that do not pass become no version. `withheld` counts them.

    `deltas` "auto" sends what changed since the version before where that is less, which pays where
    few bits change: weights in the dtype they are served in, not FP32 masters of a large step. It
    keeps one copy of the weights in memory; "off" keeps none and stores every version in full.

    `dtype` "bf16", "fp16" or "fp32" publishes the module as it is served in that datatype: floating
    parameters and buffers are cast, inputs on their way in, outputs back to what the signature
    says; golden data are recorded with it. It keeps a copy of the module in that datatype beside
    the module. None publishes the datatypes that the module has. For modules that export.

    Raises InvalidArgument (BAD_STORE_URL, BAD_NAME, BAD_SPEC, BAD_SETTING, BAD_KEY, BAD_GATE,
    TWO_SIGNATURES), FailedPrecondition (NO_SIGNING).
    """

    def __init__(
        self,
        store: str | Store,
        model: str | Model,
        *,
        inputs: Sequence[TensorSpec] | None = None,
        outputs: Sequence[TensorSpec] | None = None,
        max_batch_size: int | None = None,
        example_inputs: Example | None = None,
        channel: str = "stable",
        epoch: int | None = None,
        parent: int = 0,
        producer: str = "",
        deltas: Literal["auto", "off"] = "auto",
        signing_key: str | Path | None = None,
        dtype: Literal["bf16", "fp16", "fp32"] | None = None,
        gate: Gate | None = None,
    ) -> None:
        self._serving = None if dtype is None else ServingCopy(dtype)
        self._refusal = None if gate is None else refusal_of(gate)
        self.withheld = 0
        if deltas not in ("auto", "off"):
            raise InvalidArgument("BAD_SETTING", f"deltas is {deltas!r}: expected 'auto' or 'off'")
        self._lineage = Lineage() if deltas == "auto" else None
        self._sign = None if signing_key is None else _signer(signing_key)
        self._model = model if isinstance(model, Model) else None
        self.name = checked_name(model.name if isinstance(model, Model) else model, what="model")
        if self._model is not None:
            _ = self._model.signature
            given = (inputs, outputs, max_batch_size, example_inputs)
            if any(value is not None for value in given):
                raise InvalidArgument(
                    "TWO_SIGNATURES",
                    "a headrace.Model brings its signature; pass it alone or a name with specs",
                )
        self._inputs, self._outputs = inputs, outputs
        self._rows = DEFAULT_MAX_BATCH_SIZE if max_batch_size is None else max_batch_size
        if inputs is not None:
            Signature(tuple(inputs), tuple(outputs or inputs), self._rows)
        self._example = example_inputs
        self.channel = checked_name(channel, what="channel")
        self.epoch = epoch
        self.last_version = parent
        self.producer = producer or f"{socket.gethostname()}:{getpid()}"
        self._owns_store = isinstance(store, str)
        self.store = open_store(store) if isinstance(store, str) else store
        self._prepared: _Prepared | None = None
        # Whether every blob of an earlier publication was put by this publisher.
        self._sent = False

    def publish(
        self, module: nn.Module, *, step: int = 0, metrics: Mapping[str, float] | None = None
    ) -> int:
        """Makes `module`'s weights a new version, moves the channel to it, returns its number.

        Returns 0 where the gate withheld them: nothing was written then, and the log says why.
        Blocks until the version is durable; the weights age from the call on. `module` keeps its
        modes, gradients and buffers, and no random generator moves; DistributedDataParallel and
        torch.compile are looked through.

        Raises InvalidArgument (NON_FINITE, BAD_STATE, BAD_OUTPUT, NO_SIGNATURE, NOT_EXPORTABLE,
        NEEDS_IMPORT_PATH, BAD_EXAMPLE, NOT_CASTABLE) before anything is written, FailedPrecondition
        (STALE_EPOCH) where a newer publisher took the model over, Unavailable where the store stays
        away.
        """
        step_time_ms = wall_time_ms()
        if not self._passes(step, metrics or {}):
            return 0
        module = unwrapped(module)
        served = module if self._serving is None else self._serving.refilled(module)
        state = snapshot(served)
        if self._prepared is None:
            self._prepared = self._prepare(module, served, state)
        golden, content = self._golden(served, self._prepared, state)
        tensors, blobs = entries(state)
        manifest = Manifest(
            model=self.name,
            program=self._prepared.program,
            signature=self._prepared.signature,
            tensors=tensors,
            parent=self.last_version,
            step=step,
            step_time_ms=step_time_ms,
            metrics=dict(metrics or {}),
            probe=golden,
            producer=self.producer,
            commit_id=uuid4().hex,
            config=_config_record(self._prepared.config),
        )
        if manifest.config is not None:
            blobs[manifest.config.digest] = memoryview(self._prepared.config)
        blobs[golden.digest] = memoryview(content)
        blobs[manifest.program.digest] = memoryview(self._prepared.content)
        return self._commit(manifest, blobs).manifest.version

    def close(self) -> None:
        """Lets go of the store if this publisher opened it."""
        if self._owns_store:
            self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Publisher({self.store.url!r}, {self.name!r}, last_version={self.last_version})"

    def _passes(self, step: int, metrics: Mapping[str, float]) -> bool:
        why = "" if self._refusal is None else self._refusal(metrics)
        if why:
            self.withheld += 1
            log.warning("withheld by the gate", model=self.name, step=step, why=why)
        return not why

    def _prepare(self, module: nn.Module, served: nn.Module, state: State) -> _Prepared:
        """`served` is what is published in `module`'s place, itself where nothing is cast."""
        found = self._interface(module, state)
        if self._serving is not None:
            if found.signature.decoupled or uses_bytes(found.signature):
                raise _needs_export(self._serving.name)
            self._serving.adapt(served, found.signature, found.golden)
        stored = found.program
        config = config_of(module) or b""
        if stored is not None:
            content = _retried(lambda: self.store.read_blob(stored.digest))
            return _Prepared(found.signature, found.golden, stored, content, config)
        made = self._made_program(served, found)
        return _Prepared(found.signature, found.golden, *made, config)

    def _interface(self, module: nn.Module, state: State) -> Interface:
        if self._model is not None:
            return interface.from_model(self._model)
        if self._inputs is not None:
            return interface.from_specs(
                module, self._inputs, self._outputs, self._rows, self._example
            )
        if self._example is not None:
            return interface.from_example(module, self._example, self._outputs, self._rows)
        if self._sign is not None:
            # Who writes the store could have a program of his own signed.
            raise interface.no_signature("what is signed does not come from the store")
        return _retried(lambda: interface.from_stored(self.store, self.name, module, state))

    def _made_program(self, module: nn.Module, found: Interface) -> tuple[Program, bytes]:
        path = None if self._model is None else _import_path(self._model)
        kind = ProgramKind.EXPORTED
        if found.signature.decoupled or uses_bytes(found.signature):
            if path is None:
                raise interface.no_import_path()
            content = path.encode()
            return Program(ProgramKind.IMPORT_PATH, digest(content), len(content)), content
        example = [
            value.to(probe.device_of(module))
            for value in found.golden
            if isinstance(value, torch.Tensor)
        ]
        try:
            with probe.undisturbed(module):
                content = export_program(module, found.signature, example)
        except InvalidArgument as error:
            if path is None or self._serving is not None:
                raise
            log.warning("not exportable: replicas need the class", path=path, why=error.message)
            kind, content = ProgramKind.IMPORT_PATH, path.encode()
        return Program(kind, digest(content), len(content)), content

    def _golden(self, module: nn.Module, prepared: _Prepared, state: State) -> tuple[Probe, bytes]:
        """The probe of the module as it is. Raises InvalidArgument (BAD_OUTPUT, NON_FINITE)."""
        signature = prepared.signature
        answers = self._answers(module, prepared)
        rows = len(prepared.golden[0]) if signature.max_batch_size else 0
        for answer in answers:
            for spec, value in zip(signature.results, answer, strict=True):
                _check_output(spec, value, rows)
        numbers = [v for answer in answers for v in answer if isinstance(v, torch.Tensor)]
        tolerances = probe.tolerances([*state.values(), *numbers])
        repeats = not probe.may_vary(signature) or _alike(
            answers, self._answers(module, prepared), tolerances
        )
        content = probe.encode_probe(signature, prepared.golden, answers if repeats else None)
        return Probe(digest(content), len(content), *tolerances), content

    def _answers(self, module: nn.Module, prepared: _Prepared) -> list[list[Value]]:
        """What the module answers to the golden inputs; nothing where it cannot be asked.

        Nothing is a decoupled model's answer that was given by its name alone.
        """
        signature = prepared.signature
        if not signature.decoupled:
            return [outputs_in_order(probe.run(module, prepared.golden), signature)]
        if self._model is None:
            return []
        return probe.responses(module, self._model.generate, prepared.golden, signature)

    def _commit(self, manifest: Manifest, blobs: Mapping[str, memoryview]) -> Publication:
        """Blobs, then manifest, then channel."""
        if self.epoch is None:
            self.epoch = _retried(lambda: self.store.acquire_epoch(self.name, self.producer))
        anchor = replace(manifest, epoch=self.epoch)
        made = self._by_deltas(anchor, blobs) or self._put_and_commit(anchor, blobs)
        if self._lineage is not None:
            self._lineage.published(made.manifest, blobs)
        self.last_version = made.manifest.version
        if not made.moved:
            log.warning(
                "published, but the channel stays where it is",
                model=self.name,
                version=made.manifest.version,
                channel=self.channel,
                at_version=made.channel.version,
                held=made.channel.held,
            )
        return made

    def _by_deltas(self, anchor: Manifest, blobs: Mapping[str, memoryview]) -> Publication | None:
        """Publishes what changed; None where that does not pay or the store lost the base."""
        derived = None if self._lineage is None else self._lineage.derived(anchor, blobs)
        if derived is None:
            return None
        manifest, blob = derived
        try:
            return self._put_and_commit(manifest, {**blobs, digest(blob): memoryview(blob)})
        except FailedPrecondition as error:
            if error.reason != "MISSING_BLOBS":
                raise
            log.warning("the store lost what deltas stand on", model=self.name, why=error.message)
            return None

    def _put_and_commit(self, manifest: Manifest, blobs: Mapping[str, memoryview]) -> Publication:
        for _ in range(COLLECTED_ATTEMPTS):
            try:
                return self._put_once(manifest, blobs)
            except FailedPrecondition as error:
                if error.reason != "MISSING_BLOBS":
                    raise
                # Blobs of versions long gone were there, and were collected since.
                log.warning("blobs went before the version was made", model=self.name)
        return self._put_once(manifest, blobs)

    def _put_once(self, manifest: Manifest, blobs: Mapping[str, memoryview]) -> Publication:
        missing = _retried(lambda: self.store.missing_blobs(manifest.digests()))
        # Of deltas, those before the newest and the anchor's tensors are not at hand.
        check_blobs(missing - blobs.keys())
        # The first time all that are at hand: one that earlier publishers left may be damaged by
        # now. Replicas that hold it would not notice, one that starts would load no version.
        sent = missing if self._sent else blobs.keys() & set(manifest.digests())
        puts = [partial(self.store.put_blob, blobs[name]) for name in sorted(sent)]
        deque(side_by_side(_retried, puts, PUTS_AT_ONCE), maxlen=0)
        self._sent = True
        failpoint("publish.after_blobs")
        vouched = manifest if self._sign is None else self._sign(manifest)
        return _retried(lambda: commit(self.store, vouched, channel=self.channel))


def _needs_export(dtype: str) -> InvalidArgument:
    """Why a model that runs as Python code is published in its own datatype only."""
    return InvalidArgument(
        "NOT_CASTABLE",
        f"dtype is {dtype!r}, and this model runs as Python code on a replica (it generates or has "
        "BYTES): build it in that datatype, or leave dtype out",
    )


def _retried(call: Callable[[], _Result]) -> _Result:
    for delay_s in RETRY_DELAYS_S:
        try:
            return call()
        except Unavailable as error:
            log.warning(
                "the model store is unavailable",
                reason=error.reason,
                message=error.message,
                retry_in_s=delay_s,
            )
            time.sleep(delay_s)
    return call()


def _signer(path: str | Path) -> Callable[[Manifest], Manifest]:
    # Here, so that whoever signs nothing needs no cryptography.
    from model_store.signing import load_signing_key, signed

    key = load_signing_key(path)
    return lambda manifest: signed(manifest, key)


def _config_record(content: bytes) -> ModuleConfig | None:
    return ModuleConfig(digest(content), len(content)) if content else None


def _check_output(spec: TensorSpec, value: Value, rows: int) -> None:
    if not fits(value, spec, rows):
        shape = (rows, *spec.shape[1:]) if rows else spec.shape
        raise InvalidArgument(
            "BAD_OUTPUT",
            f"output {spec.name!r}: the module returned {datatype_of_value(value)} "
            f"{list(value.shape)}; expected {spec.datatype} {list(shape)}",
        )


def _alike(
    some: list[list[Value]], others: list[list[Value]], tolerances: tuple[float, float]
) -> bool:
    return len(some) == len(others) and all(
        close(one, other, *tolerances)
        for answer, again in zip(some, others, strict=True)
        for one, other in zip(answer, again, strict=True)
    )


def _import_path(model: Model) -> str | None:
    """Where another process finds the Model's class; None where it cannot."""
    kind = type(model)
    module = sys.modules.get(kind.__module__)
    if kind.__module__ == "__main__" or getattr(module, kind.__qualname__, None) is not kind:
        return None
    return f"{kind.__module__}:{kind.__qualname__}"
