"""Regions on a CUDA device that clients share by an IPC handle, through the driver's own library.

Tensors are copied between such a region and this process's memory; the model's tensors are made
from these as from any request. The device's primary context is used, the one that torch uses too,
and each call leaves the thread's context as it was.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from chassis.errors import FailedPrecondition, InvalidArgument
from chassis.telemetry import logger

log = logger(__name__)

LIBRARY = "libcuda.so.1"
HANDLE_BYTES = 64
_LAZY_PEER_ACCESS = 1


class _IpcHandle(ctypes.Structure):
    _fields_ = (("reserved", ctypes.c_ubyte * HANDLE_BYTES),)


class CudaFailure(Exception):
    """A call of the driver failed; its number is for the log."""


@dataclass(frozen=True, slots=True)
class CudaRegion:
    """`byte_size` bytes at `address` of a device's memory."""

    cuda: Cuda
    device_id: int
    address: int
    byte_size: int

    def read(self, offset: int, byte_size: int) -> bytes:
        """As `Region.read`."""
        buffer = ctypes.create_string_buffer(byte_size)
        self._copy("cuMemcpyDtoH_v2", buffer, ctypes.c_uint64(self.address + offset), byte_size)
        return buffer.raw

    def write(self, offset: int, content: bytes) -> None:
        """As `Region.write`."""
        source = ctypes.c_char_p(content)
        self._copy("cuMemcpyHtoD_v2", ctypes.c_uint64(self.address + offset), source, len(content))

    def close(self) -> None:
        """As `Region.close`."""
        try:
            with self.cuda.on(self.device_id):
                self.cuda.call("cuIpcCloseMemHandle", ctypes.c_uint64(self.address))
        except CudaFailure as error:
            # The client's process may be gone, and its memory with it.
            log.warning("closing CUDA memory failed", error=str(error))

    def _copy(self, function: str, to: Any, of: Any, byte_size: int) -> None:
        if not byte_size:
            return
        try:
            with self.cuda.on(self.device_id):
                self.cuda.call(function, to, of, ctypes.c_size_t(byte_size))
        except CudaFailure as error:
            log.warning("copying CUDA memory failed", error=str(error))
            raise FailedPrecondition(
                "REGION_GONE", "the CUDA memory that was registered cannot be reached any more"
            ) from error


class Cuda:
    """The driver, as `library` has it; implements `shared_memory_rpcs.Device`."""

    region_kind = CudaRegion

    def __init__(self, library: Any) -> None:
        """Raises CudaFailure where the driver finds no device."""
        self._library = library
        self._contexts: dict[int, ctypes.c_void_p] = {}
        self.call("cuInit", ctypes.c_uint(0))
        count = ctypes.c_int()
        self.call("cuDeviceGetCount", ctypes.byref(count))
        self.devices = count.value
        if not self.devices:
            raise CudaFailure("no device")

    def open(self, raw_handle: bytes, device_id: int, byte_size: int) -> CudaRegion:
        """Maps the memory behind a handle of cudaIpcGetMemHandle.

        Raises InvalidArgument (BAD_HANDLE, BAD_REGION).
        """
        if not 0 <= device_id < self.devices:
            raise InvalidArgument(
                "BAD_REGION",
                f"device_id {device_id} is no device here; expected 0 to {self.devices - 1}",
                field="device_id",
            )
        if len(raw_handle) != HANDLE_BYTES:
            raise InvalidArgument(
                "BAD_HANDLE",
                f"raw_handle has {len(raw_handle)} bytes; expected {HANDLE_BYTES}",
                field="raw_handle",
            )
        try:
            with self.on(device_id):
                address = self._map(raw_handle)
                held = self._held(address)
                if not 1 <= byte_size <= held:
                    self.call("cuIpcCloseMemHandle", ctypes.c_uint64(address))
        except CudaFailure as error:
            log.warning("opening CUDA memory failed", error=str(error))
            raise InvalidArgument(
                "BAD_HANDLE",
                "raw_handle cannot be opened: expected that of CUDA memory which another process "
                "on this machine holds",
                field="raw_handle",
            ) from error
        if not 1 <= byte_size <= held:
            raise InvalidArgument(
                "BAD_REGION",
                f"the CUDA memory has {held} bytes; expected a region of 1 byte or more within "
                f"them, got {byte_size}",
                field="byte_size",
            )
        return CudaRegion(self, device_id, address, byte_size)

    @contextmanager
    def on(self, device_id: int) -> Iterator[None]:
        """The device's primary context is the thread's. Raises CudaFailure."""
        self.call("cuCtxPushCurrent_v2", self._context(device_id))
        try:
            yield
        finally:
            self.call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    def call(self, function: str, *arguments: Any) -> None:
        """Raises CudaFailure."""
        result = getattr(self._library, function)(*arguments)
        if result:
            raise CudaFailure(f"{function} returned {result}")

    def _context(self, device_id: int) -> ctypes.c_void_p:
        context = self._contexts.get(device_id)
        if context is None:
            device = ctypes.c_int()
            self.call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(device_id))
            context = ctypes.c_void_p()
            self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
            self._contexts[device_id] = context
        return context

    def _map(self, raw_handle: bytes) -> int:
        address = ctypes.c_uint64()
        handle = _IpcHandle.from_buffer_copy(raw_handle)
        flags = ctypes.c_uint(_LAZY_PEER_ACCESS)
        self.call("cuIpcOpenMemHandle_v2", ctypes.byref(address), handle, flags)
        return address.value

    def _held(self, address: int) -> int:
        """Bytes from `address` to the end of its allocation."""
        base, size = ctypes.c_uint64(), ctypes.c_size_t()
        given = ctypes.c_uint64(address)
        self.call("cuMemGetAddressRange_v2", ctypes.byref(base), ctypes.byref(size), given)
        return base.value + size.value - address


def open_cuda() -> Cuda | None:
    """The driver of this machine, None where there is none or it finds no device."""
    try:
        return Cuda(ctypes.CDLL(LIBRARY))
    except (OSError, AttributeError, CudaFailure):
        return None
