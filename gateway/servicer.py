"""The inference protocol as the gateway answers it.

ModelInfer and ModelStreamInfer are the data plane's; everything else is told from what the gateway
knows of its endpoints, without asking one. RPCs that are missing here answer UNIMPLEMENTED.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib.metadata import PackageNotFoundError, version

from chassis.call import Call
from chassis.errors import NotFound
from chassis.oip import EXTENSIONS, checked_version, config_reply, metadata_reply
from chassis.shared_memory import SharedMemory
from chassis.shared_memory_rpcs import SharedMemoryRpcs
from chassis.tracing import Tracing
from gateway.catalog import Catalog, ServedModel
from gateway.control import ControlRpcs
from gateway.fleet import Fleet
from gateway.plane import DataPlane
from gateway.reports import statistics_reply
from gateway.repository import Repository
from gateway.statistics import Ledger
from protos.inference import grpc_service_pb2 as oip

SERVER_NAME = "headrace-gateway"
SCHEDULING = "schedule_policy"


class InferenceServicer(ControlRpcs, SharedMemoryRpcs):
    """Implements inference.GRPCInferenceService."""

    def __init__(
        self,
        plane: DataPlane,
        catalog: Catalog,
        fleet: Fleet,
        ledger: Ledger,
        *,
        repository: Repository,
        tracing: Tracing,
        memory: SharedMemory,
    ) -> None:
        ControlRpcs.__init__(self, repository, catalog, tracing)
        SharedMemoryRpcs.__init__(self, memory)
        self._plane = plane
        self._catalog = catalog
        self._fleet = fleet
        self._ledger = ledger
        self.draining = False

    def start_draining(self) -> None:
        """Not ready from now on; requests are still answered."""
        self.draining = True

    @property
    def ready(self) -> bool:
        """Whether new requests are welcome and an endpoint could answer them."""
        return not self.draining and self._fleet.serving

    async def ModelInfer(  # noqa: N802
        self, message: oip.ModelInferRequest, call: Call
    ) -> oip.ModelInferResponse:
        """As `DataPlane.infer`."""
        return await self._plane.infer(message, call)

    def ModelStreamInfer(  # noqa: N802
        self, messages: AsyncIterator[oip.ModelInferRequest], call: Call
    ) -> AsyncIterator[oip.ModelStreamInferResponse]:
        """As `DataPlane.stream`."""
        return self._plane.stream(messages, call)

    async def ServerLive(  # noqa: N802
        self, _request: oip.ServerLiveRequest, _call: Call
    ) -> oip.ServerLiveResponse:
        """True while the process answers."""
        return oip.ServerLiveResponse(live=True)

    async def ServerReady(  # noqa: N802
        self, _request: oip.ServerReadyRequest, _call: Call
    ) -> oip.ServerReadyResponse:
        """True while some model can be asked."""
        return oip.ServerReadyResponse(ready=self.ready)

    async def ModelReady(  # noqa: N802
        self, request: oip.ModelReadyRequest, _call: Call
    ) -> oip.ModelReadyResponse:
        """True while an endpoint takes requests for the model, or holds the version named."""
        pinned = checked_version(request.version)
        served = self._fleet.serves(request.name, pinned)
        return oip.ModelReadyResponse(ready=served and not self.draining)

    async def ServerMetadata(  # noqa: N802
        self, _request: oip.ServerMetadataRequest, _call: Call
    ) -> oip.ServerMetadataResponse:
        """Who answers, and with which optional parts of the protocol."""
        return oip.ServerMetadataResponse(
            name=SERVER_NAME,
            version=_release(),
            extensions=(*EXTENSIONS, SCHEDULING, *self.memory_extensions),
        )

    async def ModelMetadata(  # noqa: N802
        self, request: oip.ModelMetadataRequest, _call: Call
    ) -> oip.ModelMetadataResponse:
        """Raises NotFound (MODEL_NOT_FOUND, VERSION_NOT_FOUND)."""
        model = self._described(request.name, request.version)
        versions = [str(number) for number in self._fleet.versions(model.name)]
        return metadata_reply(model.name, versions, model.signature)

    async def ModelConfig(  # noqa: N802
        self, request: oip.ModelConfigRequest, _call: Call
    ) -> oip.ModelConfigResponse:
        """Raises NotFound (MODEL_NOT_FOUND, VERSION_NOT_FOUND)."""
        model = self._described(request.name, request.version)
        return config_reply(model.name, model.signature)

    async def ModelStatistics(  # noqa: N802
        self, request: oip.ModelStatisticsRequest, _call: Call
    ) -> oip.ModelStatisticsResponse:
        """All replicas together, since the gateway began.

        Raises NotFound (MODEL_NOT_FOUND, VERSION_NOT_FOUND).
        """
        pinned = checked_version(request.version)
        names = [self._plane.model(request.name).name] if request.name else self._catalog.names()
        loaded = {name: self._fleet.versions(name) for name in names}
        reply = statistics_reply({name: self._ledger.of(name) for name in names}, loaded, pinned)
        if request.name and pinned and not reply.model_stats:
            raise self._not_loaded(request.name, pinned)
        return reply

    def _described(self, name: str, version_text: str) -> ServedModel:
        model = self._plane.model(name)
        pinned = checked_version(version_text)
        if pinned and pinned not in self._fleet.versions(name):
            raise self._not_loaded(name, pinned)
        return model

    def _not_loaded(self, name: str, version: int) -> NotFound:
        held = self._fleet.versions(name)
        shown = ", ".join(map(str, held[-20:])) or "none"
        return NotFound(
            "VERSION_NOT_FOUND",
            f"version {version} of model {name!r} is not loaded; loaded versions: {shown}",
            field="version",
        )


def _release() -> str:
    try:
        return version("headrace")
    except PackageNotFoundError:
        return "unknown"
