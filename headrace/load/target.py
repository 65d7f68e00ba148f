"""What a server tells of a model before it is put under load; any server of the protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc

from chassis.connections import Access, open_aio_channel
from chassis.edge import Stub, error_from_rpc
from chassis.errors import HeadraceError, Unavailable, Unimplemented
from chassis.oip import SERVICE
from chassis.tensors import TensorSpec
from protos.inference import grpc_service_pb2 as oip

DESCRIBE_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Target:
    """A model as its server describes it."""

    inputs: tuple[TensorSpec, ...]
    # Whether the first dimension of every input is the batch.
    batches: bool
    # The most rows of a request; 0 where the server names no bound.
    max_rows: int


async def describe(address: str, model: str, version: str, access: Access) -> Target:
    """Asks for metadata and configuration; metadata alone where the server has no configuration.

    Raises Unavailable (UNREACHABLE) naming the address, NotFound, Unauthenticated and what else
    the server says, InvalidArgument (BAD_SPEC) on tensors of a datatype that is not known.
    """
    channel = open_aio_channel(address, access=access)
    try:
        stub = Stub(channel, SERVICE, access.metadata)
        metadata = await _asked(
            stub.ModelMetadata, oip.ModelMetadataRequest(name=model, version=version), address
        )
        try:
            request = oip.ModelConfigRequest(name=model, version=version)
            config = (await _asked(stub.ModelConfig, request, address)).config
        except Unimplemented:
            config = None
    finally:
        await channel.close()
    return target_of(metadata, config)


def target_of(metadata: Any, config: Any) -> Target:
    """The target that ModelMetadata and ModelConfig (None where there is none) describe.

    Without a configuration a model is taken to batch if the first size of each input is open.
    """
    inputs = tuple(
        TensorSpec(item.name, item.datatype, tuple(item.shape)) for item in metadata.inputs
    )
    if config is not None:
        return Target(inputs, config.max_batch_size > 0, config.max_batch_size)
    open_first = [spec.shape[:1] == (-1,) for spec in inputs]
    return Target(inputs, bool(inputs) and all(open_first), 0)


async def _asked(call: Any, request: Any, address: str) -> Any:
    try:
        return await call(request, timeout=DESCRIBE_WITHIN_S)
    except grpc.RpcError as error:
        raise _sentence(error_from_rpc(error), address) from None


def _sentence(error: HeadraceError, address: str) -> HeadraceError:
    """An error that names the address, where the address may be what is wrong."""
    # A server that speaks of its own gives a reason of its own.
    if error.reason in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
        return Unavailable("UNREACHABLE", f"no server answers at {address}: {error.message}")
    return error
