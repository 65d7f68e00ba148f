"""Limits of a real server, each at and over its edge; and clients that speak HTTP/2 by hand."""

import asyncio
import zlib
from pathlib import Path

import grpc
import h2.events
import pytest

from chassis.connections import ConnectionLimits, open_aio_channel
from chassis.edge import Stub, error_from_rpc
from chassis.errors import DeadlineExceeded, InvalidArgument
from chassis.oip import SERVICE
from chassis.protection import Protection
from protos.inference import grpc_service_pb2 as oip
from tests.chassis.asking import serving
from tests.chassis.raw_http2 import CLOSED, connected

INFER = f"/{SERVICE}/ModelInfer"
STREAM = f"/{SERVICE}/ModelStreamInfer"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MIB = 1 << 20


def limited(**limits):
    return Protection(limits=ConnectionLimits(**limits))


def asking(server):
    return open_aio_channel(f"127.0.0.1:{server.port}")


def sized(size_bytes):
    """A request of exactly so many bytes, without a model's name in it."""
    request = oip.ModelInferRequest(raw_input_contents=[bytes(size_bytes)])
    over = request.ByteSize() - size_bytes
    request = oip.ModelInferRequest(raw_input_contents=[bytes(size_bytes - over)])
    assert request.ByteSize() == size_bytes
    return request


async def code_of(call):
    try:
        await call
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def codes_of(calls):
    return [code.name for code in await asyncio.gather(*map(code_of, calls))]


async def test_message_bytes():
    async with serving(message_bytes=MIB) as (server, _), asking(server) as channel:
        stub = Stub(channel, SERVICE)
        assert (await stub.ModelInfer(sized(MIB))).id == str(MIB)
        over = stub.ModelInfer(sized(MIB + 1))
        assert await code_of(over) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await stub.ModelInfer(sized(100))).id == "100"


@pytest.mark.parametrize("method", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_a_compressed_message_is_bounded_as_it_inflates(method):
    async with serving(message_bytes=MIB) as (server, _), asking(server) as channel:
        stub = Stub(channel, SERVICE)
        at = await stub.ModelInfer(sized(MIB), compression=method)
        assert at.id == str(MIB)
        over = stub.ModelInfer(sized(MIB + 1), compression=method)
        assert await code_of(over) is grpc.StatusCode.RESOURCE_EXHAUSTED


def bomb_of(encoding):
    """256 MiB of zeros in a quarter of a MiB, made without ever holding them."""
    packer = zlib.compressobj(wbits=31 if encoding == "gzip" else 15)
    return b"".join(packer.compress(bytes(MIB)) for _ in range(256)) + packer.flush()


def peak_kib():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def fresh_peak_kib():
    Path("/proc/self/clear_refs").write_text("5")
    return peak_kib()


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_bomb_takes_no_memory(encoding):
    bomb = bomb_of(encoding)
    frame = b"\x01" + len(bomb).to_bytes(4, "big") + bomb
    async with serving(message_bytes=4 * MIB) as (server, _), connected(server.port) as raw:
        before_kib = fresh_peak_kib()
        call = raw.headers(INFER, ("grpc-encoding", encoding))
        for at in range(0, len(frame), 16384):
            raw.data(call, frame[at : at + 16384])
            await raw.flush()
        await raw.until(lambda: raw.trailers(call).get("grpc-status"))
        assert raw.trailers(call)["grpc-status"] == "8"
        assert peak_kib() - before_kib < 64 * 1024


async def test_compression_can_be_switched_off():
    async with serving(limited(compression=False)) as (server, _), asking(server) as channel:
        stub = Stub(channel, SERVICE)
        packed = stub.ModelInfer(sized(1000), compression=grpc.Compression.Gzip)
        assert await code_of(packed) is grpc.StatusCode.UNIMPLEMENTED
        assert (await stub.ModelInfer(sized(1000))).id == "1000"


async def test_a_broken_compressed_message_is_no_defect():
    async with serving() as (server, _), connected(server.port) as raw:
        call = raw.headers(INFER, ("grpc-encoding", "gzip"))
        raw.data(call, b"\x01\x00\x00\x00\x04abcd")
        await raw.flush()
        await raw.until(
            lambda: raw.trailers(call).get("grpc-status") or raw.of(h2.events.StreamReset)
        )
        assert raw.trailers(call).get("grpc-status") not in ("2", "0")


async def test_connections():
    async with serving(limited(connections=2)) as (server, _):
        async with connected(server.port) as first, connected(server.port) as second:
            async with connected(server.port) as third:
                assert third.events == [CLOSED]
            assert not first.closed and not second.closed
        # Room again, once the server has noticed that they are gone.
        async with asyncio.timeout(20):
            while True:
                async with connected(server.port) as again:
                    if not again.closed:
                        break


async def test_streams_of_a_connection():
    async with serving(limited(streams=3)) as (server, _), connected(server.port) as raw:
        assert raw.stream_limit == 3
        raw.ignore_stream_limit()
        opened = [raw.headers(STREAM) for _ in range(5)]
        await raw.flush()
        await raw.until(lambda: len(raw.of(h2.events.StreamReset)) == 2)
        refused = {event.stream_id: event.error_code for event in raw.of(h2.events.StreamReset)}
        assert refused == {opened[3]: 7, opened[4]: 7}


async def test_a_clients_calls_beyond_the_streams_wait_and_none_fails():
    async with serving(limited(streams=10)) as (server, _), asking(server) as channel:
        stub = Stub(channel, SERVICE)
        codes = await codes_of(stub.ModelInfer(sized(100)) for _ in range(300))
        assert codes == ["OK"] * 300


async def test_calls_of_all_connections():
    async with serving(limited(calls=2)) as (server, servicer), asking(server) as channel:
        stub = Stub(channel, SERVICE)
        running = stub.ModelInfer(oip.ModelInferRequest(id="wait"))
        await servicer.entered.wait()
        assert await code_of(stub.ModelInfer(sized(100))) is grpc.StatusCode.OK
        servicer.entered.clear()
        second = stub.ModelInfer(oip.ModelInferRequest(id="wait"))
        await servicer.entered.wait()
        over = stub.ModelInfer(sized(100))
        assert await code_of(over) is grpc.StatusCode.RESOURCE_EXHAUSTED
        servicer.release.set()
        assert await codes_of([running, second]) == ["OK", "OK"]
        assert await code_of(stub.ModelInfer(sized(100))) is grpc.StatusCode.OK


async def test_headers():
    async with serving(limited(metadata_bytes=4096)) as (server, _), asking(server) as channel:
        stub = Stub(channel, SERVICE)

        def call(size_bytes):
            return stub.ModelInfer(sized(100), metadata=(("x", "v" * size_bytes),))

        # gRPC's own headers take a few hundred bytes.
        assert await code_of(call(3500)) is grpc.StatusCode.OK
        assert await code_of(call(4096)) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await code_of(call(100)) is grpc.StatusCode.OK


@pytest.mark.parametrize("sent", [b"", PREFACE[:8], PREFACE, b"\x16\x03\x01\x02"])
async def test_a_handshake_that_never_ends(sent):
    protection = limited(handshake_ms=200)
    async with serving(protection) as (server, _), connected(server.port, [sent]) as raw:
        await raw.until(lambda: raw.closed)
        assert raw.events[-1] == CLOSED


@pytest.mark.parametrize("method", ["ModelInfer", "ServerMetadata", "LogSettings"])
async def test_headers_without_a_body(method):
    async with serving(limited(request_s=0.2)) as (server, _), connected(server.port) as raw:
        call = raw.headers(f"/{SERVICE}/{method}")
        await raw.flush()
        await raw.until(lambda: "grpc-status" in raw.trailers(call))
        trailers = raw.trailers(call)
        assert trailers["grpc-status"] == str(DeadlineExceeded.code.value[0])
        assert trailers["grpc-message"] == "the request's message did not come in 0.2 s"
        assert not raw.closed


async def test_half_a_body():
    async with serving(limited(request_s=0.2)) as (server, _), connected(server.port) as raw:
        call = raw.headers(INFER)
        raw.data(call, b"\x00\x00\x00\x00\x0aabc")
        await raw.flush()
        await raw.until(lambda: "grpc-status" in raw.trailers(call))
        assert raw.trailers(call)["grpc-status"] == "4"


async def test_a_stream_may_be_silent():
    async with serving(limited(request_s=0.1)) as (server, _), asking(server) as channel:
        stub = Stub(channel, SERVICE)
        call = stub.ModelStreamInfer()
        await call.wait_for_connection()
        slow = stub.ModelInfer(oip.ModelInferRequest(id="wait"))
        # Neither a silent stream nor an answer that takes its time counts as a missing request.
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(slow), 0.3)
        await call.write(oip.ModelInferRequest(id="late"))
        assert (await call.read()).infer_response.id == "late"
        slow.cancel()
        call.cancel()


async def test_a_call_that_ends_without_a_message():
    async with serving() as (server, _), asking(server) as channel:
        call = channel.stream_unary(INFER)(iter(()))
        with pytest.raises(grpc.RpcError) as caught:
            await call
        error = error_from_rpc(caught.value)
        assert (type(error), error.reason) == (InvalidArgument, "NO_MESSAGE")


async def test_an_idle_connection_is_closed():
    async with serving(limited(idle_ms=200)) as (server, _), connected(server.port) as raw:
        await raw.until(lambda: raw.closed)
        assert raw.of(h2.events.ConnectionTerminated)


async def test_an_old_connection_is_left_after_its_calls():
    protection = limited(age_ms=200, age_grace_ms=200)
    async with serving(protection) as (server, _), connected(server.port) as raw:
        raw.headers(STREAM)
        await raw.flush()
        await raw.until(lambda: raw.closed)
        assert raw.events[-1] == CLOSED


async def test_no_call_fails_as_connections_grow_old():
    async with serving(limited(age_ms=50)) as (server, _), asking(server) as channel:
        stub = Stub(channel, SERVICE)
        for _ in range(30):
            assert await codes_of(stub.ModelInfer(sized(100)) for _ in range(10)) == ["OK"] * 10


async def test_rapid_resets_leave_nothing_behind():
    async with serving(limited(request_s=5)) as (server, _), connected(server.port) as raw:
        raw.ignore_stream_limit()
        before = len(asyncio.all_tasks())
        for _ in range(20):
            for _ in range(100):
                raw.reset(raw.headers(INFER))
            await raw.flush()
        async with asking(server) as channel:
            assert (await Stub(channel, SERVICE).ModelInfer(sized(100))).id == "100"
        async with asyncio.timeout(20):
            while len(asyncio.all_tasks()) > before:
                await raw.until(lambda: True)
                await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) <= before
