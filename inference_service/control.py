"""RPCs that change a replica: models it serves, traces, logs."""

# ruff: noqa: N802 - RPC names are the protocol's.

from __future__ import annotations

from chassis.call import Call
from chassis.repository import check_repository, load_of, unload_of
from chassis.telemetry_rpcs import TelemetryRpcs
from chassis.tracing import Tracing
from inference_service.index import ready_index, whole_index
from inference_service.intake import Intake
from inference_service.repository import Repository
from protos.inference import grpc_service_pb2 as oip


class ControlRpcs(TelemetryRpcs):
    """The controlling part of `inference.GRPCInferenceService`."""

    def __init__(self, repository: Repository, tracing: Tracing) -> None:
        super().__init__(tracing, Intake(repository.models).model)
        self._repository = repository

    async def RepositoryIndex(
        self, request: oip.RepositoryIndexRequest, _call: Call
    ) -> oip.RepositoryIndexResponse:
        """Versions in slots, those that did not load with the reason, and the newest stored ones.

        Raises Unimplemented (REPOSITORY_NOT_SERVED).
        """
        check_repository(request.repository_name)
        if request.ready:
            return ready_index(self._repository)
        return await whole_index(self._repository)

    async def RepositoryModelLoad(
        self, request: oip.RepositoryModelLoadRequest, call: Call
    ) -> oip.RepositoryModelLoadResponse:
        """Serves a model of the store, or serves it otherwise; returns once it does.

        Raises PermissionDenied (CONTROL_NOT_ALLOWED), what `load_of` raises about the request and
        what `Repository.load` raises about the model.
        """
        call.require_control("loading a model")
        load = load_of(request)
        remaining_s = call.time_remaining()
        await self._repository.load(load.model, load.version, load.channel, remaining_s)
        return oip.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: oip.RepositoryModelUnloadRequest, call: Call
    ) -> oip.RepositoryModelUnloadResponse:
        """Serves a model no more; returns once its running work has ended.

        Raises PermissionDenied (CONTROL_NOT_ALLOWED), what `unload_of` raises about the request
        and what `Repository.unload` raises about the model.
        """
        call.require_control("unloading a model")
        await self._repository.unload(unload_of(request), call.time_remaining())
        return oip.RepositoryModelUnloadResponse()
