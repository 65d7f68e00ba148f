"""What is asked of an endpoint: whether it takes requests, which models it holds, what they are.

Three calls of the protocol answer the first two; a server without RepositoryIndex is asked for
each model that is already known. What the answers mean is decided in `policy.health`.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field

import grpc

from chassis.edge import Stub
from chassis.oip import signature_of
from chassis.tensors import Signature
from gateway.policy.rollout import Candidate, Holding
from protos.inference import grpc_service_pb2 as oip

READY = "READY"


@dataclass(frozen=True, slots=True)
class Sighting:
    """An endpoint's answer: whether it is ready, and what it holds of each model ready on it.

    `way_s` is how long the way there and back took, for a question that needs no work; `revisions`
    are those of the channel at which the serving versions began to serve, where it tells.
    """

    ready: bool
    models: dict[str, Holding]
    way_s: float
    revisions: dict[str, int] = field(default_factory=dict)


async def look(stub: Stub, known: Collection[str], timeout_s: float) -> Sighting:
    """Asks an endpoint how it is. Raises grpc.RpcError."""
    asked_at = time.monotonic()
    reply = await stub.ServerReady(oip.ServerReadyRequest(), timeout=timeout_s)
    way_s = time.monotonic() - asked_at
    if not reply.ready:
        return Sighting(False, {}, way_s)
    try:
        index = await stub.RepositoryIndex(
            oip.RepositoryIndexRequest(ready=True), timeout=timeout_s
        )
        return Sighting(True, _holdings(index), way_s, _revisions(index))
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
            raise
    return Sighting(True, await _ask_for(stub, known, timeout_s), way_s)


async def describe(stub: Stub, model: str, timeout_s: float) -> Signature:
    """What a model on the endpoint takes and gives.

    Raises grpc.RpcError, and InvalidArgument (BAD_SPEC) where the description is no signature.
    """
    metadata = await stub.ModelMetadata(oip.ModelMetadataRequest(name=model), timeout=timeout_s)
    config = await stub.ModelConfig(oip.ModelConfigRequest(name=model), timeout=timeout_s)
    return signature_of(metadata, config.config)


def _holdings(index: oip.RepositoryIndexResponse) -> dict[str, Holding]:
    versions: dict[str, frozenset[int]] = {}
    candidates: dict[str, Candidate] = {}
    heard: dict[str, int] = {}
    for entry in index.models:
        if entry.state in (READY, ""):
            number = _version(entry.version)
            heard[entry.name] = max(heard.get(entry.name, 0), entry.candidates_revision)
            versions[entry.name] = versions.get(entry.name, frozenset()) | number
            if number and entry.HasField("rollout"):
                candidates[entry.name] = _candidate(min(number), entry.rollout)
    return {
        name: Holding(held, candidates.get(name), heard[name]) for name, held in versions.items()
    }


def _candidate(version: int, rollout: oip.RepositoryIndexResponse.Rollout) -> Candidate:
    return Candidate(
        version, rollout.revision, rollout.stage, rollout.share, rollout.shadow, rollout.metric
    )


def _revisions(index: oip.RepositoryIndexResponse) -> dict[str, int]:
    return {entry.name: entry.revision for entry in index.models if entry.revision}


def _version(text: str) -> frozenset[int]:
    return frozenset([int(text)]) if text.isascii() and text.isdigit() else frozenset()


async def _ask_for(stub: Stub, known: Collection[str], timeout_s: float) -> dict[str, Holding]:
    models = {}
    for name in sorted(known):
        reply = await stub.ModelReady(oip.ModelReadyRequest(name=name), timeout=timeout_s)
        if reply.ready:
            models[name] = Holding(frozenset())
    return models
