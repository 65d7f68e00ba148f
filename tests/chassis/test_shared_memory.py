"""Regions of POSIX shared memory: what may be registered, read and written."""

import os
from multiprocessing import shared_memory
from pathlib import Path
from uuid import uuid4

import pytest

from chassis.call import Call
from chassis.errors import HeadraceError, NotFound
from chassis.infer import infer_reply, infer_request
from chassis.inputs import checked_inputs
from chassis.limits import Limits
from chassis.outputs import output_forms
from chassis.shared_memory import SharedMemory
from chassis.shared_memory_rpcs import SharedMemoryRpcs
from chassis.tensors import Signature, TensorSpec
from protos.inference import grpc_service_pb2 as oip

X, T, Y = (
    TensorSpec("x", "FP32", (-1, 2)),
    TensorSpec("t", "BYTES", (-1,)),
    TensorSpec("y", "FP32", (-1, 2)),
)
SIGNATURE = Signature((X, T), (Y, TensorSpec("z", "FP16", (-1,))), 4)
RAW = bytes(range(16))
SHARED = Path("/dev/shm")
TEXT = b"\x01\0\0\0a\0\0\0\0"


@pytest.fixture
def block():
    made = shared_memory.SharedMemory(f"headrace_{uuid4().hex}", create=True, size=64)
    yield made
    made.close()
    made.unlink()


@pytest.fixture
def memory():
    made = SharedMemory(enabled=True, max_regions=2, max_bytes=100)
    yield made
    made.close()


def register(memory, block, name="r", offset=0, byte_size=64, identity=""):
    memory.register(
        identity, name, byte_size, lambda: memory.open_system(f"/{block.name}", offset, byte_size)
    )
    return memory.of(identity)


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def refusal(call):
    with pytest.raises(HeadraceError) as caught:
        call()
    assert "/dev" not in caught.value.message and caught.value.message.isprintable()
    return caught.value.code.name, caught.value.reason


def request(region="r", byte_size=16, offset=8):
    """x in a region, t beside it."""
    made = infer_request(model="m", inputs=[("x", "FP32", (2, 2), b""), ("t", "BYTES", (2,), TEXT)])
    made.raw_input_contents[:] = [TEXT]
    place(made.inputs[0].parameters, region, byte_size, offset)
    return made


def place(parameters, region="r", byte_size=16, offset=8):
    parameters["shared_memory_region"].string_param = region
    parameters["shared_memory_byte_size"].int64_param = byte_size
    if offset:
        parameters["shared_memory_offset"].int64_param = offset


def test_an_input_is_read_where_the_request_says(memory, block):
    regions = register(memory, block, offset=4, byte_size=60)
    block.buf[12:28] = RAW
    found = checked_inputs(request(), SIGNATURE, regions=regions)
    assert (found.raw, found.rows, found.typed) == ([RAW, TEXT], 2, False)


def test_all_inputs_in_regions_leave_no_raw_contents(memory, block):
    regions = register(memory, block)
    block.buf[8:24], block.buf[24:33] = RAW, TEXT
    made = request()
    del made.raw_input_contents[:]
    place(made.inputs[1].parameters, byte_size=9, offset=24)
    assert checked_inputs(made, SIGNATURE, regions=regions).raw == [RAW, TEXT]


def test_an_output_is_written_and_told(memory, block):
    regions = register(memory, block)
    made = oip.ModelInferRequest()
    place(made.outputs.add(name="y").parameters, byte_size=20)
    made.outputs.add(name="z")
    reply = infer_reply(
        model="m",
        version="1",
        request_id="",
        outputs=[(Y, (2, 2), RAW), (SIGNATURE.outputs[1], (2,), b"abcd")],
        typed=True,
        forms=output_forms(made, SIGNATURE, regions),
    )
    assert bytes(block.buf[8:24]) == RAW
    # As Triton: an entry for each output, so that the n-th belongs to the n-th.
    assert list(reply.raw_output_contents) == [b"", b"abcd"]
    parameters = reply.outputs[0].parameters
    assert parameters["shared_memory_region"].string_param == "r"
    assert parameters["shared_memory_byte_size"].int64_param == 16
    assert parameters["shared_memory_offset"].int64_param == 8
    assert (reply.outputs[0].datatype, list(reply.outputs[0].shape)) == ("FP32", [2, 2])


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("other_region", "BAD_KEY"),
        ("/../headrace_x", "BAD_KEY"),
        ("headrace_/../../etc/passwd", "BAD_KEY"),
        ("//headrace_x", "BAD_KEY"),
        ("headrace_\0", "BAD_KEY"),
        ("headrace_\u00e9", "BAD_KEY"),
        ("headrace_" + "x" * 300, "BAD_KEY"),
        ("", "BAD_KEY"),
        ("headrace_not_there", "KEY_NOT_FOUND"),
    ],
)
def test_keys(memory, key, reason):
    assert refusal(lambda: memory.open_system(key, 0, 1))[1] == reason


@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
def test_only_plain_files_are_opened(memory, block, kind):
    path = SHARED / f"headrace_{uuid4().hex}"
    if kind == "link":
        path.symlink_to(SHARED / block.name)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    try:
        code, reason = refusal(lambda: memory.open_system(path.name, 0, 1))
        assert (code, reason) == ("INVALID_ARGUMENT", "BAD_KEY")
    finally:
        (path.rmdir if kind == "directory" else path.unlink)()


@pytest.mark.parametrize(
    ("offset", "byte_size", "fits"),
    [
        (0, 64, True),
        (63, 1, True),
        (0, 65, False),
        (64, 1, False),
        (0, 0, False),
        (2**64 - 1, 8, 0),
    ],
)
def test_a_region_lies_within_its_memory(memory, block, offset, byte_size, fits):
    if fits:
        assert register(memory, block, offset=offset, byte_size=byte_size).sizes() == [byte_size]
    else:
        before = descriptors()
        assert refusal(lambda: register(memory, block, offset=offset, byte_size=byte_size)) == (
            "INVALID_ARGUMENT",
            "BAD_REGION",
        )
        assert descriptors() == before


def test_regions_are_bounded_in_number_and_bytes(memory, block):
    register(memory, block, "a", byte_size=60)
    assert refusal(lambda: register(memory, block, "b", byte_size=41))[1] == "TOO_MANY_REGION_BYTES"
    register(memory, block, "b", byte_size=40)
    assert refusal(lambda: register(memory, block, "c", byte_size=1))[1] == "TOO_MANY_REGIONS"
    assert refusal(lambda: register(memory, block, "a"))[1] == "REGION_EXISTS"
    assert refusal(lambda: register(memory, block, ""))[1] == "BAD_REGION"
    assert refusal(lambda: register(memory, block, "x" * 257))[1] == "BAD_REGION"


def test_a_region_belongs_to_its_identity(memory, block):
    register(memory, block, identity="anna")
    made = request()
    assert refusal(lambda: checked_inputs(made, SIGNATURE, regions=memory.of("ben"))) == (
        "NOT_FOUND",
        "REGION_NOT_FOUND",
    )
    block.buf[8:24] = RAW
    assert checked_inputs(made, SIGNATURE, regions=memory.of("anna")).raw[0] == RAW


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [
        (
            lambda m: place(m.inputs[0].parameters, region="\0\u202e"),
            "REGION_NOT_FOUND",
            "inputs[0].parameters[shared_memory_region]",
        ),
        (
            lambda m: place(m.inputs[0].parameters, offset=49),
            "BAD_REGION",
            "inputs[0].parameters[shared_memory_byte_size]",
        ),
        (
            lambda m: place(m.inputs[0].parameters, offset=-1),
            "BAD_REGION",
            "inputs[0].parameters[shared_memory_offset]",
        ),
        (
            lambda m: place(m.inputs[0].parameters, byte_size=2**62),
            "BAD_REGION",
            "inputs[0].parameters[shared_memory_byte_size]",
        ),
        (
            lambda m: place(m.inputs[0].parameters, byte_size=15),
            "BAD_BYTE_COUNT",
            "inputs[0].parameters[shared_memory_byte_size]",
        ),
        (
            lambda m: m.inputs[0].parameters.__delitem__("shared_memory_byte_size"),
            "BAD_REGION",
            "inputs[0].parameters[shared_memory_byte_size]",
        ),
        (
            lambda m: setattr(m.inputs[0].parameters["shared_memory_region"], "int64_param", 1),
            "BAD_REGION",
            "inputs[0].parameters[shared_memory_region]",
        ),
        (
            lambda m: m.inputs[0].contents.fp32_contents.append(1),
            "BAD_CONTENTS",
            "inputs[0].contents",
        ),
        (lambda m: m.raw_input_contents.append(RAW), "BAD_CONTENTS", "raw_input_contents"),
        (
            lambda m: m.raw_input_contents.__setitem__(0, TEXT[:-1]),
            "BAD_BYTE_COUNT",
            "raw_input_contents[0]",
        ),
    ],
)
def test_what_a_request_names_wrongly_is_told(memory, block, change, reason, field):
    regions = register(memory, block)
    made = request()
    change(made)
    with pytest.raises(HeadraceError) as caught:
        checked_inputs(made, SIGNATURE, regions=regions)
    assert (caught.value.reason, caught.value.field) == (reason, field)
    assert caught.value.message.isprintable()


def test_reading_is_bounded_by_the_limit_on_bytes(memory, block):
    regions = register(memory, block)
    for limit, held in ((16, True), (15, False)):
        limits = Limits(tensor_bytes=limit)
        if held:
            checked_inputs(request(), SIGNATURE, limits=limits, regions=regions)
        else:
            assert (
                refusal(
                    lambda limits=limits: checked_inputs(
                        request(), SIGNATURE, limits=limits, regions=regions
                    )
                )[1]
                == "TOO_MANY_BYTES"
            )


def test_memory_truncated_behind_our_back_is_an_error_not_a_signal(memory, block):
    regions = register(memory, block)
    made = oip.ModelInferRequest()
    place(made.outputs.add(name="y").parameters)
    [form] = output_forms(made, SIGNATURE, regions)
    os.truncate(SHARED / block.name, 10)
    gone = ("FAILED_PRECONDITION", "REGION_GONE")
    assert refusal(lambda: checked_inputs(request(), SIGNATURE, regions=regions)) == gone
    assert refusal(lambda: form.window.write(RAW, "y")) == gone
    assert (SHARED / block.name).stat().st_size == 10


def test_an_output_that_is_too_large_or_whose_region_went_away(memory, block):
    regions = register(memory, block)
    made = oip.ModelInferRequest()
    place(made.outputs.add(name="y").parameters, byte_size=15)
    [form] = output_forms(made, SIGNATURE, regions)
    assert refusal(lambda: form.window.write(RAW, "y")) == ("INVALID_ARGUMENT", "REGION_TOO_SMALL")
    form.window.write(RAW[:15], "y")
    regions.remove(object, "")
    assert refusal(lambda: form.window.write(RAW[:1], "y")) == ("NOT_FOUND", "REGION_NOT_FOUND")


def test_classes_do_not_go_into_a_region_nor_do_several_responses(memory, block):
    regions = register(memory, block)
    made = oip.ModelInferRequest()
    place(made.outputs.add(name="y").parameters)
    decoupled = Signature((X,), (Y,), 4, decoupled=True)
    assert refusal(lambda: output_forms(made, decoupled, regions))[1] == "BAD_REGION"
    made.outputs[0].parameters["classification"].int64_param = 1
    assert refusal(lambda: output_forms(made, SIGNATURE, regions))[1] == "BAD_REGION"


async def test_rpcs_register_tell_and_forget(memory, block):
    rpcs = SharedMemoryRpcs(memory)
    anna, ben = Call("anna"), Call("ben")
    for name, offset in (("a", 0), ("b", 32)):
        await rpcs.SystemSharedMemoryRegister(
            oip.SystemSharedMemoryRegisterRequest(
                name=name, key=f"/{block.name}", offset=offset, byte_size=32
            ),
            anna,
        )

    async def status(call, name=""):
        asked = oip.SystemSharedMemoryStatusRequest(name=name)
        return (await rpcs.SystemSharedMemoryStatus(asked, call)).regions

    async def unregister(call, name=""):
        asked = oip.SystemSharedMemoryUnregisterRequest(name=name)
        await rpcs.SystemSharedMemoryUnregister(asked, call)

    found = await status(anna)
    assert sorted(found) == ["a", "b"]
    assert (found["b"].key, found["b"].offset, found["b"].byte_size) == (f"/{block.name}", 32, 32)
    assert not await status(ben)
    await unregister(ben)
    assert list(await status(anna, "b")) == ["b"]
    await unregister(anna, "b")
    await unregister(anna, "b")
    with pytest.raises(NotFound, match="'b' is not registered"):
        await status(anna, "b")
    before = descriptors()
    await unregister(anna)
    assert not await status(anna)
    assert descriptors() == before - 1


@pytest.mark.parametrize("control", [False, True])
async def test_off_means_off_for_everyone(block, control):
    rpcs = SharedMemoryRpcs(SharedMemory())
    call = Call(control=control)
    asked = oip.SystemSharedMemoryRegisterRequest(name="a", key=block.name, byte_size=1)
    with pytest.raises(HeadraceError, match="switched off") as caught:
        await rpcs.SystemSharedMemoryRegister(asked, call)
    assert (caught.value.code.name, caught.value.reason) == (
        "FAILED_PRECONDITION",
        "SHARED_MEMORY_OFF",
    )
    # What clients do before they begin works.
    await rpcs.SystemSharedMemoryUnregister(oip.SystemSharedMemoryUnregisterRequest(), call)
    status = await rpcs.SystemSharedMemoryStatus(oip.SystemSharedMemoryStatusRequest(), call)
    assert not status.regions
    assert rpcs.memory_extensions == ()
