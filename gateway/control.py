"""RPCs that change the gateway and what stands behind it: models, traces, logs."""

# ruff: noqa: N802 - RPC names are the protocol's.

from __future__ import annotations

from chassis.call import Call
from chassis.repository import check_repository, load_of, unload_of
from chassis.telemetry_rpcs import TelemetryRpcs
from chassis.tracing import Tracing
from gateway.catalog import Catalog
from gateway.repository import Repository
from protos.inference import grpc_service_pb2 as oip


class ControlRpcs(TelemetryRpcs):
    """The controlling part of `inference.GRPCInferenceService`."""

    def __init__(self, repository: Repository, catalog: Catalog, tracing: Tracing) -> None:
        super().__init__(tracing, catalog.model)
        self._repository = repository

    async def RepositoryIndex(
        self, request: oip.RepositoryIndexRequest, _call: Call
    ) -> oip.RepositoryIndexResponse:
        """Every model of the fleet; READY where any replica has the version ready.

        Raises Unavailable (NO_READY_REPLICA) and Unimplemented (REPOSITORY_NOT_SERVED).
        """
        check_repository(request.repository_name)
        index = self._repository.ready_index() if request.ready else await self._repository.index()
        reply = oip.RepositoryIndexResponse()
        for entry in index:
            reply.models.add(
                name=entry.name, version=entry.version, state=entry.state, reason=entry.reason
            )
        return reply

    async def RepositoryModelLoad(
        self, request: oip.RepositoryModelLoadRequest, call: Call
    ) -> oip.RepositoryModelLoadResponse:
        """Loads a model at every healthy replica; returns once all serve it.

        Raises PermissionDenied (CONTROL_NOT_ALLOWED), what `load_of` raises about the request and
        what `Repository.load` raises about the model.
        """
        call.require_control("loading a model")
        await self._repository.load(load_of(request), call.time_remaining())
        return oip.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: oip.RepositoryModelUnloadRequest, call: Call
    ) -> oip.RepositoryModelUnloadResponse:
        """Unloads a model at every healthy replica; returns once its running work has ended.

        Raises PermissionDenied (CONTROL_NOT_ALLOWED), what `unload_of` raises about the request
        and what `Repository.unload` raises about the model.
        """
        call.require_control("unloading a model")
        await self._repository.unload(unload_of(request), call.time_remaining())
        return oip.RepositoryModelUnloadResponse()
