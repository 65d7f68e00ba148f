"""The guard on a real gRPC server: told before the message is read, in streams, and in lists."""

import json
from contextlib import asynccontextmanager

import grpc
import pytest

from chassis.connections import Access, open_aio_channel
from chassis.edge import Stub, error_from_rpc
from chassis.errors import PermissionDenied, ResourceExhausted, Unauthenticated
from chassis.guard import Guard
from chassis.oip import SERVICE
from chassis.policy.quota import Quota
from chassis.protection import Protection
from chassis.stream_errors import error_of
from protos.inference import grpc_service_pb2 as oip
from tests.chassis.asking import serving
from tests.chassis.raw_http2 import connected

SHOP, OPS = "shop-token-0123456789", "ops-token-0123456789"
SHOPS = {"name": "shop", "tokens": [SHOP], "models": ["b"]}
OPSS = {"name": "ops", "tokens": [OPS], "roles": ["control"]}


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def auth_file(tmp_path):
    file = tmp_path / "auth.json"
    file.write_text(json.dumps({"identities": [SHOPS, OPSS]}))
    return file


@asynccontextmanager
async def asked(guard, token="", **options):
    access = Access(token=token)
    async with (
        serving(Protection(guard=guard), **options) as (server, servicer),
        open_aio_channel(f"127.0.0.1:{server.port}", access=access) as channel,
    ):
        yield Stub(channel, SERVICE, access.metadata), servicer


async def failure(call):
    with pytest.raises(grpc.RpcError) as caught:
        await call
    return error_from_rpc(caught.value), dict(caught.value.trailing_metadata() or ())


async def test_who_is_not_known_is_told_before_the_message_is_there(auth_file):
    protection = Protection(guard=Guard(auth_file))
    async with serving(protection) as (server, _), connected(server.port) as raw:
        call = raw.headers(f"/{SERVICE}/ModelInfer")
        await raw.flush()
        await raw.until(lambda: "grpc-status" in raw.trailers(call))
        assert raw.trailers(call)["grpc-status"] == str(Unauthenticated.code.value[0])


async def test_probes_need_no_token_and_no_quota():
    guard = Guard(default_quota=Quota(requests_per_s=0.001), clock=Clock())
    async with asked(guard) as (stub, _):
        for _ in range(3):
            assert (await stub.ServerReady(oip.ServerReadyRequest())).ready


async def test_probes_need_no_token(auth_file):
    async with asked(Guard(auth_file)) as (stub, _):
        assert (await stub.ServerReady(oip.ServerReadyRequest())).ready
        error, _ = await failure(stub.ModelInfer(oip.ModelInferRequest()))
        assert (type(error), error.reason) == (Unauthenticated, "NO_CREDENTIALS")


async def test_control_is_the_identitys_whatever_the_port_gives(auth_file):
    load = oip.RepositoryModelLoadRequest(model_name="b")
    async with asked(Guard(auth_file), SHOP, control=True) as (stub, _):
        error, _ = await failure(stub.RepositoryModelLoad(load))
        assert (type(error), error.reason) == (PermissionDenied, "CONTROL_NOT_ALLOWED")
    async with asked(Guard(auth_file), OPS) as (stub, _):
        await stub.RepositoryModelLoad(load)
        error, _ = await failure(stub.ModelInfer(oip.ModelInferRequest()))
        assert error.reason == "ROLE_MISSING"


async def test_lists_show_an_identity_its_own_models(auth_file):
    async with asked(Guard(auth_file), SHOP) as (stub, _):
        index = await stub.RepositoryIndex(oip.RepositoryIndexRequest())
        assert [entry.name for entry in index.models] == ["b", "b"]
        counted = await stub.ModelStatistics(oip.ModelStatisticsRequest())
        assert [entry.name for entry in counted.model_stats] == ["b"]
    async with asked(Guard(auth_file), OPS) as (stub, _):
        index = await stub.RepositoryIndex(oip.RepositoryIndexRequest())
        assert [entry.name for entry in index.models] == ["a", "b", "c", "b"]


async def test_a_refusal_by_rate_says_when_to_come_again():
    guard = Guard(default_quota=Quota(requests_per_s=4, burst_requests=1), clock=Clock())
    async with asked(guard) as (stub, _):
        await stub.ModelInfer(oip.ModelInferRequest())
        error, trailers = await failure(stub.ModelInfer(oip.ModelInferRequest()))
        assert (type(error), error.reason) == (ResourceExhausted, "QUOTA_REQUESTS")
        assert trailers["grpc-retry-pushback-ms"] == "250"


async def test_concurrency_counts_unary_calls_until_their_answer_or_cancel():
    guard = Guard(default_quota=Quota(max_concurrent=1), clock=Clock())
    async with asked(guard) as (stub, servicer):
        waiting = stub.ModelInfer(oip.ModelInferRequest(id="wait"))
        await servicer.entered.wait()
        error, _ = await failure(stub.ModelInfer(oip.ModelInferRequest()))
        assert error.reason == "QUOTA_CONCURRENCY"
        waiting.cancel()
        while True:
            # The server learns of the cancel a little later.
            try:
                await stub.ModelInfer(oip.ModelInferRequest())
                break
            except grpc.RpcError as refused:
                assert error_from_rpc(refused).reason == "QUOTA_CONCURRENCY"


async def test_each_message_of_a_stream_counts_and_a_refusal_leaves_it_open(auth_file):
    clock = Clock()
    shop = SHOPS | {"quota": {"requests_per_s": 1, "burst_requests": 2}}
    auth_file.write_text(json.dumps({"identities": [shop]}))
    guard = Guard(auth_file, clock=clock)
    async with asked(guard, SHOP) as (stub, _):
        call = stub.ModelStreamInfer()

        async def ask(model, request_id):
            await call.write(oip.ModelInferRequest(model_name=model, id=request_id))
            reply = await call.read()
            assert reply.infer_response.id == request_id
            found = error_of(reply) if reply.error_message else None
            return found.reason if found else reply.infer_response.model_name

        assert await ask("b", "1") == "shop"
        assert await ask("a", "2") == "MODEL_NOT_ALLOWED"
        assert await ask("b", "3") == "shop"
        assert await ask("b", "4") == "QUOTA_REQUESTS"
        clock.now += 1
        assert await ask("b", "5") == "shop"
        # The right to it ends while it is open.
        auth_file.write_text(json.dumps({"identities": [OPSS]}))
        await guard.look()
        assert await ask("b", "6") == "BAD_TOKEN"
        call.cancel()
