"""Loading, unloading and listing models on one replica: the calls and what their errors mean."""

from __future__ import annotations

import json

import grpc

from chassis.edge import Stub, error_from_rpc
from chassis.errors import FailedPrecondition, HeadraceError, NotFound, PermissionDenied
from gateway.index import Entry
from gateway.policy.directives import Directive
from protos.inference import grpc_service_pb2 as oip


async def tell(stub: Stub, directive: Directive, timeout_s: float) -> HeadraceError | None:
    """Makes a replica do as `directive` says; why it could not, or None.

    A replica that does not have the model has nothing to unload.
    """
    try:
        if directive.loaded:
            await stub.RepositoryModelLoad(_load(directive), timeout=timeout_s)
        else:
            request = oip.RepositoryModelUnloadRequest(model_name=directive.model)
            request.parameters["unload_dependents"].bool_param = False
            await stub.RepositoryModelUnload(request, timeout=timeout_s)
    except grpc.RpcError as error:
        failure = error_from_rpc(error)
        if isinstance(failure, NotFound) and not directive.loaded:
            return None
        return _explained(failure)
    return None


async def listed(stub: Stub, timeout_s: float) -> list[Entry]:
    """The whole index of a replica. Raises grpc.RpcError."""
    reply = await stub.RepositoryIndex(oip.RepositoryIndexRequest(), timeout=timeout_s)
    return [Entry(m.name, m.version, m.state, m.reason) for m in reply.models]


def _load(directive: Directive) -> oip.RepositoryModelLoadRequest:
    config: dict[str, object] = {}
    if directive.version:
        config["version_policy"] = {"specific": {"versions": [directive.version]}}
    if directive.channel:
        config["parameters"] = {"channel": {"string_value": directive.channel}}
    request = oip.RepositoryModelLoadRequest(model_name=directive.model)
    if config:
        request.parameters["config"].string_param = json.dumps(config)
    return request


def _explained(failure: HeadraceError) -> HeadraceError:
    if not isinstance(failure, PermissionDenied):
        return failure
    return FailedPrecondition(
        "REPLICA_CONTROL_REFUSED",
        "the replica does not let this gateway load models: set replica.allow_control, or give the "
        "gateway an identity there that may control it",
    )
