"""The shared memory RPCs, the same on every server of ours."""

# ruff: noqa: N802 - RPC names are the protocol's.

from __future__ import annotations

from typing import Any, Protocol

from chassis.call import Call
from chassis.errors import FailedPrecondition, Unimplemented
from chassis.shared_memory import Region, SharedMemory, SystemRegion
from chassis.telemetry import logger
from protos.inference import grpc_service_pb2 as oip

log = logger(__name__)


class DeviceRegion(Region, Protocol):
    """A region on a device."""

    @property
    def device_id(self) -> int:
        """The device's number."""


class Device(Protocol):
    """Opens regions that a client shares by a handle; `chassis.shared_memory_cuda` has one."""

    @property
    def region_kind(self) -> type[Any]:
        """The class of its regions."""

    def open(self, raw_handle: bytes, device_id: int, byte_size: int) -> DeviceRegion:
        """Raises InvalidArgument (BAD_HANDLE, BAD_REGION)."""


class SharedMemoryRpcs:
    """Part of an `inference.GRPCInferenceService`; `device` is None where there is no CUDA.

    Every client may register memory once the setting allows it; what one registers no other
    identity can name. While it is off nothing can be registered, by nobody.
    """

    def __init__(self, memory: SharedMemory, device: Device | None = None) -> None:
        self._memory = memory
        self._device = device

    @property
    def memory_extensions(self) -> tuple[str, ...]:
        """Extensions of the protocol that clients may use here, by ServerMetadata's names."""
        if not self._memory.enabled:
            return ()
        return ("system_shared_memory", "cuda_shared_memory")[: 1 + bool(self._device)]

    async def SystemSharedMemoryRegister(
        self, request: oip.SystemSharedMemoryRegisterRequest, call: Call
    ) -> oip.SystemSharedMemoryRegisterResponse:
        """Raises FailedPrecondition (SHARED_MEMORY_OFF) and as `SharedMemory.register`."""
        self._check_on()
        memory = self._memory
        memory.register(
            call.identity,
            request.name,
            request.byte_size,
            lambda: memory.open_system(request.key, request.offset, request.byte_size),
        )
        log.info("shared memory registered", by=call.identity, bytes=request.byte_size)
        return oip.SystemSharedMemoryRegisterResponse()

    async def SystemSharedMemoryUnregister(
        self, request: oip.SystemSharedMemoryUnregisterRequest, call: Call
    ) -> oip.SystemSharedMemoryUnregisterResponse:
        """One region, or all of the caller's; what is not registered is no error, as in Triton."""
        self._memory.unregister(call.identity, SystemRegion, request.name)
        return oip.SystemSharedMemoryUnregisterResponse()

    async def SystemSharedMemoryStatus(
        self, request: oip.SystemSharedMemoryStatusRequest, call: Call
    ) -> oip.SystemSharedMemoryStatusResponse:
        """One region, or all of the caller's. Raises NotFound (REGION_NOT_FOUND)."""
        reply = oip.SystemSharedMemoryStatusResponse()
        found = self._memory.of(call.identity).named(SystemRegion, request.name)
        for name, region in found.items():
            status = reply.regions[name]
            status.name, status.key = name, region.key
            status.offset, status.byte_size = region.offset, region.byte_size
        return reply

    async def CudaSharedMemoryRegister(
        self, request: oip.CudaSharedMemoryRegisterRequest, call: Call
    ) -> oip.CudaSharedMemoryRegisterResponse:
        """Raises Unimplemented (CUDA_UNAVAILABLE) and as `SystemSharedMemoryRegister`."""
        device = self._cuda()
        self._check_on()
        self._memory.register(
            call.identity,
            request.name,
            request.byte_size,
            lambda: device.open(request.raw_handle, request.device_id, request.byte_size),
        )
        log.info("CUDA memory registered", by=call.identity, bytes=request.byte_size)
        return oip.CudaSharedMemoryRegisterResponse()

    async def CudaSharedMemoryUnregister(
        self, request: oip.CudaSharedMemoryUnregisterRequest, call: Call
    ) -> oip.CudaSharedMemoryUnregisterResponse:
        """As `SystemSharedMemoryUnregister`.

        Raises Unimplemented (CUDA_UNAVAILABLE), except for all regions: there are none then, and
        Triton's tools clean up both kinds before they use one.
        """
        if request.name or self._device is not None:
            self._memory.unregister(call.identity, self._cuda().region_kind, request.name)
        return oip.CudaSharedMemoryUnregisterResponse()

    async def CudaSharedMemoryStatus(
        self, request: oip.CudaSharedMemoryStatusRequest, call: Call
    ) -> oip.CudaSharedMemoryStatusResponse:
        """As `SystemSharedMemoryStatus`. Raises Unimplemented (CUDA_UNAVAILABLE)."""
        device = self._cuda()
        reply = oip.CudaSharedMemoryStatusResponse()
        found = self._memory.of(call.identity).named(device.region_kind, request.name)
        for name, region in found.items():
            status = reply.regions[name]
            status.name, status.device_id = name, region.device_id
            status.byte_size = region.byte_size
        return reply

    def _check_on(self) -> None:
        if not self._memory.enabled:
            raise FailedPrecondition(
                "SHARED_MEMORY_OFF",
                "shared memory is switched off here; the setting shared_memory switches it on",
            )

    def _cuda(self) -> Device:
        if self._device is None:
            raise Unimplemented("CUDA_UNAVAILABLE", "this server has no CUDA device")
        return self._device
