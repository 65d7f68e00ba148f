"""The door between records and their stored bytes: protobuf inside a checksummed envelope.

Decides how a record is laid out and what counts as damage. Knows no store; the caller says which
record it asked for, so that a whole record in the wrong place is damage too.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from google.protobuf.message import DecodeError

from chassis.errors import DataLoss, InvalidArgument
from chassis.tensors import Padding, Signature, TensorSpec
from model_store.digests import digest
from model_store.records import (
    Channel,
    ChannelMove,
    DeltaStep,
    Lease,
    Manifest,
    ModuleConfig,
    Probe,
    Program,
    ProgramKind,
    SignedBy,
    TensorEntry,
)
from model_store.rollout import Rollout, RolloutPlan, RolloutState
from protos.headrace.v1 import manifest_pb2

_KIND_NUMBERS = {
    ProgramKind.EXPORTED: manifest_pb2.PROGRAM_KIND_EXPORTED,
    ProgramKind.IMPORT_PATH: manifest_pb2.PROGRAM_KIND_IMPORT_PATH,
}
_STATE_NUMBERS = {
    RolloutState.RUNNING: manifest_pb2.ROLLOUT_STATE_RUNNING,
    RolloutState.PROMOTING: manifest_pb2.ROLLOUT_STATE_PROMOTING,
    RolloutState.PROMOTED: manifest_pb2.ROLLOUT_STATE_PROMOTED,
    RolloutState.ABORTED: manifest_pb2.ROLLOUT_STATE_ABORTED,
}
# Named alike in the record and on the wire.
_PLAN_FIELDS = tuple(field.name for field in fields(RolloutPlan))
_STATES = {number: state for state, number in _STATE_NUMBERS.items()}
# No other use of a key signs bytes that begin so.
_SIGNED_PREFIX = b"headrace manifest 1\0"
_KINDS = {number: kind for kind, number in _KIND_NUMBERS.items()}


def encode_manifest(manifest: Manifest) -> bytes:
    """A Record envelope around the manifest; equal manifests give equal bytes."""
    return sealed(_manifest_message(manifest))


def decode_manifest(record: bytes, model: str, version: int | None = None) -> Manifest:
    """The manifest of that version, or of whichever it is. Raises DataLoss (MANIFEST_DAMAGED)."""
    what = f"the manifest of model {model!r} version {version or 'unknown'}"
    message = manifest_pb2.Manifest()
    unseal(record, message, "MANIFEST_DAMAGED", what)
    try:
        manifest = _manifest(message)
    except (InvalidArgument, KeyError) as error:
        raise DataLoss("MANIFEST_DAMAGED", f"{what} holds a value unknown here") from error
    if manifest.model != model or (version or manifest.version) != manifest.version:
        raise DataLoss("MANIFEST_DAMAGED", f"{what} is that of another version")
    return manifest


def manifest_digest(manifest: Manifest) -> str:
    """Names a version's content: two versions of one number and different content differ here."""
    return digest(_manifest_message(manifest).SerializeToString(deterministic=True))


def signed_bytes(manifest: Manifest) -> bytes:
    """What a signature is over: everything in the manifest but what the store assigns.

    Fields that are unset leave no trace, so that a signature outlives fields added later.
    """
    message = _manifest_message(manifest)
    for name in ("version", "create_time_ms", "signed_by"):
        message.ClearField(name)
    return _SIGNED_PREFIX + message.SerializeToString(deterministic=True)


def encode_channel(channel: Channel) -> bytes:
    """A Record envelope around the channel; equal channels give equal bytes."""
    message = manifest_pb2.Channel(
        model=channel.model,
        name=channel.name,
        version=channel.version,
        revision=channel.revision,
        epoch=channel.epoch,
        held=channel.held,
        history=[
            manifest_pb2.ChannelMove(
                version=move.version,
                revision=move.revision,
                move_time_ms=move.move_time_ms,
                reason=move.reason,
                epoch=move.epoch,
            )
            for move in channel.history
        ],
        rollout=None if channel.rollout is None else _rollout_message(channel.rollout),
    )
    return sealed(message)


def decode_channel(record: bytes, model: str, name: str) -> Channel:
    """The channel of that name. Raises DataLoss (CHANNEL_DAMAGED)."""
    what = f"the record of model {model!r} channel {name!r}"
    message = manifest_pb2.Channel()
    unseal(record, message, "CHANNEL_DAMAGED", what)
    if (message.model, message.name) != (model, name):
        raise DataLoss("CHANNEL_DAMAGED", f"{what} is that of another channel")
    history = tuple(
        ChannelMove(move.version, move.revision, move.move_time_ms, move.reason, move.epoch)
        for move in message.history
    )
    try:
        rollout = _rollout(message.rollout) if message.HasField("rollout") else None
    except KeyError as error:
        raise DataLoss("CHANNEL_DAMAGED", f"{what} holds a value unknown here") from error
    return Channel(
        model,
        name,
        message.version,
        message.revision,
        message.epoch,
        message.held,
        history,
        rollout,
    )


def encode_lease(lease: Lease) -> bytes:
    """A Record envelope around the lease."""
    return sealed(lease_message(lease))


def decode_lease(record: bytes, what: str) -> Lease:
    """The lease that `what` names. Raises DataLoss (LEASE_DAMAGED)."""
    message = manifest_pb2.Lease()
    unseal(record, message, "LEASE_DAMAGED", what)
    return lease_of(message)


def lease_message(lease: Lease) -> manifest_pb2.Lease:
    """The lease as a message, for records that hold several."""
    return manifest_pb2.Lease(
        version=lease.version, holder=lease.holder, expire_time_ms=lease.expire_time_ms
    )


def lease_of(message: manifest_pb2.Lease) -> Lease:
    """The lease that the message holds."""
    return Lease(message.version, message.holder, message.expire_time_ms)


def sealed(message: Any) -> bytes:
    """A Record envelope around a protobuf message; equal messages give equal bytes."""
    payload = message.SerializeToString(deterministic=True)
    envelope = manifest_pb2.Record(payload=payload, digest=digest(payload))
    return envelope.SerializeToString(deterministic=True)


def unseal(record: bytes, message: Any, reason: str, what: str) -> None:
    """Reads `record` into the protobuf `message`. Raises DataLoss with `reason`, naming `what`."""
    envelope = manifest_pb2.Record()
    try:
        envelope.ParseFromString(record)
        whole = envelope.digest == digest(envelope.payload)
        if whole:
            message.ParseFromString(envelope.payload)
    except DecodeError as error:
        raise DataLoss(reason, f"{what} cannot be parsed") from error
    if not whole:
        raise DataLoss(reason, f"{what} does not match its checksum")


def _manifest_message(manifest: Manifest) -> manifest_pb2.Manifest:
    program, probe, config = manifest.program, manifest.probe, manifest.config
    by = manifest.signed_by
    return manifest_pb2.Manifest(
        model=manifest.model,
        version=manifest.version,
        epoch=manifest.epoch,
        parent=manifest.parent,
        step=manifest.step,
        metrics=manifest.metrics,
        create_time_ms=manifest.create_time_ms,
        step_time_ms=manifest.step_time_ms,
        program=manifest_pb2.Program(
            kind=_KIND_NUMBERS[program.kind], digest=program.digest, size_bytes=program.size_bytes
        ),
        signature=_signature_message(manifest.signature),
        tensors=[_tensor_message(tensor) for tensor in manifest.tensors],
        probe=None if probe is None else _probe_message(probe),
        producer=manifest.producer,
        commit_id=manifest.commit_id,
        config=None
        if config is None
        else manifest_pb2.ModuleConfig(digest=config.digest, size_bytes=config.size_bytes),
        deltas=[
            manifest_pb2.DeltaStep(
                base_version=step.base_version, digest=step.digest, size_bytes=step.size_bytes
            )
            for step in manifest.deltas
        ],
        signed_by=None
        if by is None
        else manifest_pb2.SignedBy(key_id=by.key_id, signature=by.signature),
    )


def _tensor_message(tensor: TensorEntry) -> manifest_pb2.TensorEntry:
    return manifest_pb2.TensorEntry(
        name=tensor.name,
        datatype=tensor.datatype,
        shape=tensor.shape,
        digest=tensor.digest,
        size_bytes=tensor.size_bytes,
        base_digest=tensor.base_digest,
    )


def _probe_message(probe: Probe) -> manifest_pb2.Probe:
    return manifest_pb2.Probe(
        digest=probe.digest,
        size_bytes=probe.size_bytes,
        absolute_tolerance=probe.absolute_tolerance,
        relative_tolerance=probe.relative_tolerance,
    )


def _signature_message(signature: Signature) -> manifest_pb2.Signature:
    return manifest_pb2.Signature(
        inputs=[_spec_message(spec) for spec in signature.inputs],
        outputs=[_spec_message(spec) for spec in signature.outputs],
        max_batch_size=signature.max_batch_size,
        decoupled=signature.decoupled,
        states=[_spec_message(spec) for spec in signature.states],
        padding=[_padding_message(padding) for padding in signature.padding],
        labels=[
            manifest_pb2.Labels(output=output, names=names) for output, names in signature.labels
        ],
    )


def _padding_message(padding: Padding) -> manifest_pb2.Padding:
    return manifest_pb2.Padding(
        axis=padding.axis,
        buckets=padding.buckets,
        inputs=[
            manifest_pb2.Padding.Input(name=name, value=value) for name, value in padding.inputs
        ],
        outputs=padding.outputs,
    )


def _spec_message(spec: TensorSpec) -> manifest_pb2.TensorSpec:
    return manifest_pb2.TensorSpec(name=spec.name, datatype=spec.datatype, shape=spec.shape)


def _manifest(message: manifest_pb2.Manifest) -> Manifest:
    program, probe = message.program, message.probe
    return Manifest(
        model=message.model,
        version=message.version,
        epoch=message.epoch,
        parent=message.parent,
        step=message.step,
        metrics=dict(message.metrics),
        create_time_ms=message.create_time_ms,
        step_time_ms=message.step_time_ms,
        program=Program(_KINDS[program.kind], program.digest, program.size_bytes),
        signature=_signature(message.signature),
        tensors=tuple(_tensor(tensor) for tensor in message.tensors),
        probe=None
        if not message.HasField("probe")
        else Probe(
            probe.digest, probe.size_bytes, probe.absolute_tolerance, probe.relative_tolerance
        ),
        producer=message.producer,
        commit_id=message.commit_id,
        config=None
        if not message.HasField("config")
        else ModuleConfig(message.config.digest, message.config.size_bytes),
        deltas=tuple(
            DeltaStep(step.base_version, step.digest, step.size_bytes) for step in message.deltas
        ),
        signed_by=None
        if not message.HasField("signed_by")
        else SignedBy(message.signed_by.key_id, message.signed_by.signature),
    )


def _tensor(message: manifest_pb2.TensorEntry) -> TensorEntry:
    return TensorEntry(
        message.name,
        message.datatype,
        tuple(message.shape),
        message.digest,
        message.size_bytes,
        message.base_digest,
    )


def _signature(message: manifest_pb2.Signature) -> Signature:
    return Signature(
        inputs=tuple(_spec(spec) for spec in message.inputs),
        outputs=tuple(_spec(spec) for spec in message.outputs),
        max_batch_size=message.max_batch_size,
        decoupled=message.decoupled,
        states=tuple(_spec(spec) for spec in message.states),
        padding=tuple(_padding(padding) for padding in message.padding),
        labels=tuple((item.output, tuple(item.names)) for item in message.labels),
    )


def _padding(message: manifest_pb2.Padding) -> Padding:
    return Padding(
        message.axis,
        tuple(message.buckets),
        tuple((item.name, item.value) for item in message.inputs),
        tuple(message.outputs),
    )


def _spec(message: manifest_pb2.TensorSpec) -> TensorSpec:
    return TensorSpec(message.name, message.datatype, tuple(message.shape))


def _rollout_message(rollout: Rollout) -> manifest_pb2.Rollout:
    plan = rollout.plan
    return manifest_pb2.Rollout(
        against=rollout.against,
        state=_STATE_NUMBERS[rollout.state],
        stage=rollout.stage,
        plan=manifest_pb2.RolloutPlan(**{name: getattr(plan, name) for name in _PLAN_FIELDS}),
        base_revision=rollout.base_revision,
    )


def _rollout(message: manifest_pb2.Rollout) -> Rollout:
    plan = message.plan
    return Rollout(
        against=message.against,
        state=_STATES[message.state],
        stage=message.stage,
        plan=RolloutPlan(**{name: getattr(plan, name) for name in _PLAN_FIELDS}),
        base_revision=message.base_revision,
    )
