"""A real server: statuses at the edge, health, reflection, one owner of a port, draining."""

import asyncio
import os
import signal

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from chassis.connections import open_aio_channel
from chassis.edge import Stub, error_from_rpc
from chassis.errors import Internal, InvalidArgument, NotFound, Unimplemented
from chassis.server import RpcServer, run, serve_until_stopped
from protos.inference import grpc_service_pb2 as oip

SERVICE = "inference.GRPCInferenceService"


class Servicer:
    """Answers one call well and the others badly, each in its own way."""

    async def ServerLive(self, request, context):
        return oip.ServerLiveResponse(live=True)

    async def ServerReady(self, request, context):
        raise NotFound("MODEL_NOT_FOUND", "model 'x' is unknown", field="name")

    async def ModelReady(self, request, context):
        raise KeyError("/secret/path")

    async def ModelStreamInfer(self, requests, context):
        async for request in requests:
            yield oip.ModelStreamInferResponse(error_message=request.id)


@pytest.fixture
async def server():
    server = RpcServer("127.0.0.1", 0)
    server.add_service(SERVICE, Servicer())
    await server.start()
    yield server
    await server.stop(0)


@pytest.fixture
async def channel(server):
    async with open_aio_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel


async def failure(call):
    with pytest.raises(grpc.RpcError) as caught:
        await call
    return caught.value


async def test_a_server_that_is_slow_to_shake_hands_is_waited_for(server):
    """As one whose machine is busy: the kernel accepts, nobody reads for a while."""

    async def pump(reader, writer):
        while content := await reader.read(65536):
            writer.write(content)
        writer.close()

    async def serve(reader, writer):
        await asyncio.sleep(0.7)
        there, back = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(pump(reader, back), pump(there, writer))

    slow = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = slow.sockets[0].getsockname()[1]
    async with open_aio_channel(f"127.0.0.1:{port}") as channel:
        answer = await Stub(channel, SERVICE).ServerLive(oip.ServerLiveRequest(), timeout=10)
    assert answer.live
    slow.close()


async def test_answers_and_streams(channel):
    stub = Stub(channel, SERVICE)
    assert (await stub.ServerLive(oip.ServerLiveRequest())).live
    requests = iter([oip.ModelInferRequest(id="a"), oip.ModelInferRequest(id="b")])
    replies = [reply.error_message async for reply in stub.ModelStreamInfer(requests)]
    assert replies == ["a", "b"]


async def test_an_error_of_ours_keeps_its_code_reason_and_field(channel):
    error = await failure(Stub(channel, SERVICE).ServerReady(oip.ServerReadyRequest()))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    status = status_pb2.Status.FromString(
        dict(error.trailing_metadata())["grpc-status-details-bin"]
    )
    request_fault = error_details_pb2.BadRequest()
    assert status.details[1].Unpack(request_fault)
    assert request_fault.field_violations[0].field == "name"
    again = error_from_rpc(error)
    assert isinstance(again, NotFound)
    assert (again.reason, again.message) == ("MODEL_NOT_FOUND", "model 'x' is unknown")


async def test_a_defect_is_opaque(channel):
    error = await failure(Stub(channel, SERVICE).ModelReady(oip.ModelReadyRequest()))
    assert isinstance(error_from_rpc(error), Internal)
    assert "secret" not in str(error.details())


async def test_what_is_not_served_says_so(channel):
    error = await failure(Stub(channel, SERVICE).LogSettings(oip.LogSettingsRequest()))
    assert isinstance(error_from_rpc(error), Unimplemented)
    assert error.details() == "LogSettings is not served here"


async def test_a_malformed_message_is_the_callers_fault(channel):
    call = channel.unary_unary(f"/{SERVICE}/ServerLive")
    error = await failure(call(b"\xff\xff\xff"))
    assert isinstance(error_from_rpc(error), InvalidArgument)


async def test_a_malformed_message_in_a_stream_ends_the_stream(channel):
    call = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(iter([b"\xff\xff\xff"]))
    error = await failure(call.read())
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_health_follows_ready(server, channel):
    stub = health_pb2_grpc.HealthStub(channel)
    for ready, expected in ((False, "NOT_SERVING"), (True, "SERVING")):
        await server.set_ready(ready)
        for service in ("", SERVICE):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.ServingStatus.Name(answer.status) == expected
        # A process that is not ready must not be restarted for it.
        alive = await stub.Check(health_pb2.HealthCheckRequest(service="liveness"))
        assert alive.ServingStatus.Name(alive.status) == "SERVING"


async def test_reflection_names_services_and_files(channel):
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    questions = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
    ]
    listed, file = [reply async for reply in stub.ServerReflectionInfo(iter(questions))]
    names = {service.name for service in listed.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names
    assert file.file_descriptor_response.file_descriptor_proto


async def test_a_port_has_one_owner(server):
    with pytest.raises(InvalidArgument, match=f"127.0.0.1:{server.port}: the port is taken"):
        await RpcServer("127.0.0.1", server.port).start()


def test_sigterm_drains_in_order():
    events = []

    async def main():
        server = RpcServer("127.0.0.1", 0)
        server.add_service(SERVICE, Servicer())
        await server.start()
        await server.set_ready(True)

        async def drain():
            async with open_aio_channel(f"127.0.0.1:{server.port}") as channel:
                health = health_pb2_grpc.HealthStub(channel)
                answer = await health.Check(health_pb2.HealthCheckRequest())
                events.append(answer.ServingStatus.Name(answer.status))

        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)
        await serve_until_stopped(server, drain=drain, grace_s=1)
        events.append("stopped")

    assert run(main()) == 0
    assert events == ["NOT_SERVING", "stopped"]


def test_a_refusal_at_start_is_a_sentence_and_code_2(capsys):
    async def main():
        raise InvalidArgument("BAD", "port 7 is taken")

    assert run(main()) == 2
    assert capsys.readouterr().err == "error: port 7 is taken\n"
