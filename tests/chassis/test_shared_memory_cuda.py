"""CUDA regions: without CUDA, on a driver of our own making, and on a real device."""

import ctypes
import multiprocessing

import pytest

from chassis.call import Call
from chassis.errors import FailedPrecondition, InvalidArgument, Unimplemented
from chassis.shared_memory import SharedMemory
from chassis.shared_memory_cuda import Cuda, CudaFailure, open_cuda
from chassis.shared_memory_rpcs import SharedMemoryRpcs
from protos.inference import grpc_service_pb2 as oip

HANDLE = bytes(range(64))
FAILED = 999


class Driver:
    """A device with one allocation of 64 bytes, which our own memory plays.

    A handle that does not start with 0 cannot be opened; `lost` makes every copy fail.
    """

    def __init__(self, devices=1):
        self.memory = ctypes.create_string_buffer(64)
        self.address = ctypes.addressof(self.memory)
        self.devices = devices
        self.contexts = []
        self.open = 0
        self.lost = False

    def cuInit(self, flags):
        return 0

    def cuDeviceGetCount(self, count):
        count._obj.value = self.devices
        return 0

    def cuDeviceGet(self, device, number):
        device._obj.value = number.value
        return 0

    def cuDevicePrimaryCtxRetain(self, context, device):
        context._obj.value = 100 + device.value
        return 0

    def cuCtxPushCurrent_v2(self, context):
        self.contexts.append(context.value)
        return 0

    def cuCtxPopCurrent_v2(self, context):
        context._obj.value = self.contexts.pop()
        return 0

    def cuIpcOpenMemHandle_v2(self, address, handle, flags):
        if handle.reserved[0]:
            return FAILED
        self.open += 1
        address._obj.value = self.address
        return 0

    def cuIpcCloseMemHandle(self, address):
        self.open -= address.value == self.address
        return 0

    def cuMemGetAddressRange_v2(self, base, size, address):
        base._obj.value, size._obj.value = self.address, 64
        return 0

    def cuMemcpyDtoH_v2(self, to, of, size):
        return self._copy(to, of.value, size)

    def cuMemcpyHtoD_v2(self, to, of, size):
        return self._copy(to.value, of, size)

    def _copy(self, to, of, size):
        if self.lost or not self.contexts:
            return FAILED
        ctypes.memmove(to, of, size.value)
        return 0


def test_bytes_go_there_and_back_and_nothing_stays_open():
    driver = Driver()
    region = Cuda(driver).open(HANDLE, 0, 64)
    region.write(8, b"\0\x01\xff")
    assert region.read(7, 5) == b"\0\0\x01\xff\0"
    assert region.read(0, 0) == b""
    assert (driver.open, driver.contexts) == (1, [])
    region.close()
    assert driver.open == 0


@pytest.mark.parametrize(
    ("handle", "device", "byte_size", "reason"),
    [
        (HANDLE, 1, 64, "BAD_REGION"),
        (HANDLE, -1, 64, "BAD_REGION"),
        (HANDLE, 0, 65, "BAD_REGION"),
        (HANDLE, 0, 0, "BAD_REGION"),
        (HANDLE[1:], 0, 64, "BAD_HANDLE"),
        (b"", 0, 64, "BAD_HANDLE"),
        (b"\xff" * 64, 0, 64, "BAD_HANDLE"),
    ],
)
def test_what_cannot_be_opened_is_refused(handle, device, byte_size, reason):
    driver = Driver()
    with pytest.raises(InvalidArgument) as caught:
        Cuda(driver).open(handle, device, byte_size)
    assert caught.value.reason == reason
    assert (driver.open, driver.contexts) == (0, [])


def test_memory_that_is_lost_is_an_error():
    driver = Driver()
    region = Cuda(driver).open(HANDLE, 0, 64)
    driver.lost = True
    with pytest.raises(FailedPrecondition, match="cannot be reached any more"):
        region.read(0, 4)
    assert driver.contexts == []


def test_a_driver_without_a_device_is_none():
    with pytest.raises(CudaFailure, match="no device"):
        Cuda(Driver(devices=0))


async def test_rpcs_with_a_device():
    rpcs = SharedMemoryRpcs(SharedMemory(enabled=True), Cuda(Driver()))
    assert rpcs.memory_extensions == ("system_shared_memory", "cuda_shared_memory")
    call = Call()
    asked = oip.CudaSharedMemoryRegisterRequest(name="g", raw_handle=HANDLE, byte_size=32)
    await rpcs.CudaSharedMemoryRegister(asked, call)
    status = await rpcs.CudaSharedMemoryStatus(oip.CudaSharedMemoryStatusRequest(), call)
    assert (status.regions["g"].device_id, status.regions["g"].byte_size) == (0, 32)
    # The other kind of region is another list under the same names.
    system = await rpcs.SystemSharedMemoryStatus(oip.SystemSharedMemoryStatusRequest(), call)
    assert not system.regions
    await rpcs.SystemSharedMemoryUnregister(oip.SystemSharedMemoryUnregisterRequest(), call)
    assert len(rpcs._memory.of("").sizes()) == 1
    await rpcs.CudaSharedMemoryUnregister(oip.CudaSharedMemoryUnregisterRequest(name="g"), call)
    assert rpcs._memory.of("").sizes() == []


async def test_without_cuda_everything_but_cleaning_up_is_unimplemented():
    rpcs = SharedMemoryRpcs(SharedMemory(enabled=True))
    call = Call()
    for made in (
        rpcs.CudaSharedMemoryRegister(oip.CudaSharedMemoryRegisterRequest(name="g"), call),
        rpcs.CudaSharedMemoryStatus(oip.CudaSharedMemoryStatusRequest(), call),
        rpcs.CudaSharedMemoryUnregister(oip.CudaSharedMemoryUnregisterRequest(name="g"), call),
    ):
        with pytest.raises(Unimplemented) as caught:
            await made
        assert caught.value.reason == "CUDA_UNAVAILABLE"
    asked = oip.CudaSharedMemoryUnregisterRequest()
    assert await rpcs.CudaSharedMemoryUnregister(asked, call)


def _share(pipe):
    """A client's process: 256 bytes of device memory, filled, shared and looked at again."""
    driver = ctypes.CDLL("libcuda.so.1")
    context, address = ctypes.c_void_p(), ctypes.c_uint64()
    handle = (ctypes.c_ubyte * 64)()
    assert driver.cuInit(0) == 0
    assert driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
    assert driver.cuCtxSetCurrent(context) == 0
    assert driver.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(256)) == 0
    content = bytes(range(256))
    assert driver.cuMemcpyHtoD_v2(address, content, ctypes.c_size_t(256)) == 0
    assert driver.cuIpcGetMemHandle(ctypes.byref(handle), address) == 0
    pipe.send(bytes(handle))
    pipe.recv()
    found = ctypes.create_string_buffer(256)
    assert driver.cuMemcpyDtoH_v2(found, address, ctypes.c_size_t(256)) == 0
    pipe.send(found.raw)


@pytest.mark.gpu
@pytest.mark.skipif(open_cuda() is None, reason="needs a CUDA device")
def test_memory_of_another_process_on_a_real_device():
    cuda = open_cuda()
    assert cuda is not None
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    client = spawn.Process(target=_share, args=(theirs,))
    client.start()
    try:
        region = cuda.open(ours.recv(), 0, 256)
        assert region.read(16, 4) == bytes(range(16, 20))
        region.write(0, b"headrace")
        with pytest.raises(InvalidArgument):
            cuda.open(bytes(64), 0, 256)
        ours.send("look")
        assert ours.recv() == b"headrace" + bytes(range(8, 256))
        region.close()
    finally:
        client.join(20)
