"""What is asked of an endpoint: whether it takes requests, which models it holds, what they are.

Three calls of the protocol answer the first two; a server without RepositoryIndex is asked for
each model that is already known. What the answers mean is decided in `policy.health`.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass

import grpc

from chassis.edge import Stub
from chassis.oip import signature_of
from chassis.tensors import Signature
from protos.inference import grpc_service_pb2 as oip

READY = "READY"


@dataclass(frozen=True, slots=True)
class Sighting:
    """An endpoint's answer: whether it is ready, and the versions of each model ready on it.

    `way_s` is how long the way there and back took, for a question that needs no work.
    """

    ready: bool
    models: dict[str, frozenset[int]]
    way_s: float


async def look(stub: Stub, known: Collection[str], timeout_s: float) -> Sighting:
    """Asks an endpoint how it is. Raises grpc.RpcError."""
    asked_at = time.monotonic()
    reply = await stub.ServerReady(oip.ServerReadyRequest(), timeout=timeout_s)
    way_s = time.monotonic() - asked_at
    if not reply.ready:
        return Sighting(False, {}, way_s)
    try:
        return Sighting(True, await _index(stub, timeout_s), way_s)
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


async def _index(stub: Stub, timeout_s: float) -> dict[str, frozenset[int]]:
    reply = await stub.RepositoryIndex(oip.RepositoryIndexRequest(ready=True), timeout=timeout_s)
    models: dict[str, frozenset[int]] = {}
    for entry in reply.models:
        if entry.state in (READY, ""):
            models[entry.name] = models.get(entry.name, frozenset()) | _version(entry.version)
    return models


def _version(text: str) -> frozenset[int]:
    return frozenset([int(text)]) if text.isascii() and text.isdigit() else frozenset()


async def _ask_for(
    stub: Stub, known: Collection[str], timeout_s: float
) -> dict[str, frozenset[int]]:
    models = {}
    for name in sorted(known):
        reply = await stub.ModelReady(oip.ModelReadyRequest(name=name), timeout=timeout_s)
        if reply.ready:
            models[name] = frozenset[int]()
    return models
