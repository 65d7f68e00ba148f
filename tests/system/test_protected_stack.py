"""A whole system under TLS and identities: each process proves itself to the next one."""

import asyncio
import json
import queue

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as aio_triton
from tritonclient.utils import InferenceServerException
from typer.testing import CliRunner

from chassis.connections import Access, open_channel
from chassis.edge import Stub, error_from_rpc
from chassis.errors import Unauthenticated
from chassis.identities import digest_text, new_token
from chassis.oip import SERVICE
from chassis.tls import ClientTls
from headrace import Client, Publisher
from headrace.cli.main import app
from protos.inference import grpc_service_pb2 as oip
from tests.chassis.certificates import Authority
from tests.conformance.models import Identity
from tests.system.stack import Stack, wait_until

pytestmark = pytest.mark.system

MODEL = "identity-fp32"
X = np.arange(4, dtype=np.float32).reshape(1, 4)
SHOP, SLOW, OPS = new_token(), new_token(), new_token()
BURST = 6


class Protected:
    """The stack and what its clients need."""

    def __init__(self, directory):
        self.authority = Authority(directory)
        server = self.authority.issue("server", "127.0.0.1")
        self.gateway_pair = self.authority.issue("gateway", "spiffe://test/gateway")
        self.auth_file = directory / "auth.json"
        self.write_identities("shop", "slow", "ops")
        replica_auth = directory / "replica-auth.json"
        replica_auth.write_text(
            json.dumps(
                {"identities": [{"name": "gateway", "certificates": ["spiffe://test/gateway"]}]}
            )
        )
        store = f"file://{directory}/store"
        with Publisher(store, model=Identity("FP32")) as publisher:
            publisher.publish(Identity("FP32").build())
        tls = {"tls_cert": server.cert, "tls_key": server.key}
        mutual = {"tls_client_ca": self.authority.file, "auth_file": replica_auth}
        self.stack = Stack(directory, store, MODEL, replica_settings=tls | mutual)
        self.stack.start(
            replicas=1,
            auth_file=self.auth_file,
            endpoint_ca=self.authority.file,
            endpoint_cert=self.gateway_pair.cert,
            endpoint_key=self.gateway_pair.key,
            **tls,
        )

    def write_identities(self, *names):
        quota = {"requests_per_s": 0.01, "burst_requests": BURST}
        known = {
            "shop": {"token_digests": [digest_text(SHOP)], "models": [MODEL]},
            "slow": {"token_digests": [digest_text(SLOW)], "quota": quota},
            "ops": {"token_digests": [digest_text(OPS)], "roles": ["infer", "control"]},
        }
        entries = [{"name": name} | known[name] for name in names]
        self.auth_file.write_text(json.dumps({"identities": entries}))

    def client(self, token):
        return Client(self.stack.gateway.address, ca=self.authority.file, token=token)

    @property
    def admin(self):
        return f"127.0.0.1:{self.stack.gateway.serving['admin_port']}"


@pytest.fixture(scope="module")
def protected(tmp_path_factory):
    made = Protected(tmp_path_factory.mktemp("protected"))
    try:
        with made.client(OPS) as client:
            wait_until(lambda: client.ready(MODEL), within_s=60, what="ready")
        yield made
    finally:
        assert made.stack.stop() == [0, 0]


def tensor():
    made = triton.InferInput("x", [1, 4], "FP32")
    made.set_data_from_numpy(X)
    return made


def triton_client(protected, module=triton):
    return module.InferenceServerClient(
        protected.stack.gateway.address,
        ssl=True,
        root_certificates=str(protected.authority.file),
    )


def test_tritons_client_with_tls_and_a_token(protected):
    with triton_client(protected) as client:
        answer = client.infer(MODEL, [tensor()], headers={"authorization": f"Bearer {OPS}"})
        assert np.array_equal(answer.as_numpy("y"), X)
        assert client.is_server_live()
        with pytest.raises(InferenceServerException, match="UNAUTHENTICATED"):
            client.infer(MODEL, [tensor()])


async def test_a_thousand_outstanding_requests_of_one_client(protected):
    async with triton_client(protected, aio_triton) as client:
        answers = await asyncio.gather(
            *(
                client.infer(MODEL, [tensor()], headers={"authorization": f"Bearer {OPS}"})
                for _ in range(1000)
            )
        )
        assert all(np.array_equal(answer.as_numpy("y"), X) for answer in answers)


def test_a_quota_refuses_inside_a_stream_and_leaves_it_open(protected):
    replies = queue.Queue()
    with triton_client(protected) as client:
        client.start_stream(
            lambda result, error: replies.put((result, error)),
            headers={"authorization": f"Bearer {SLOW}"},
        )
        for number in range(BURST + 3):
            client.async_stream_infer(MODEL, [tensor()], request_id=str(number))
        found = [replies.get(timeout=20) for _ in range(BURST + 3)]
        client.stop_stream()
    answered = [result for result, error in found if error is None]
    refused = [str(error) for _, error in found if error is not None]
    assert len(answered) == BURST
    assert all("the quota of identity 'slow' is used up" in sentence for sentence in refused)


def test_control_and_status_on_the_admin_port_ask_for_an_identity(protected, tmp_path):
    def status(token):
        file = tmp_path / "token"
        file.write_text(token)
        options = ["--ca", str(protected.authority.file), "--token-file", str(file)]
        return CliRunner().invoke(app, [*options, "status", "--gateway-admin", protected.admin])

    # The command gives up after seconds, which a busy machine may need.
    wait_until(lambda: MODEL in status(OPS).output, within_s=60, what="status shows the model")
    wait_until(
        lambda: isinstance(status("unknown-token-0123456789").exception, Unauthenticated),
        within_s=60,
        what="an unknown token is refused",
    )
    request = oip.TraceSettingRequest()
    request.settings["trace_level"].value.append("TIMESTAMPS")
    for token, reason in ((SHOP, "CONTROL_NOT_ALLOWED"), (OPS, None)):
        access = Access(ClientTls(protected.authority.file), token)
        for address in (protected.admin, protected.stack.gateway.address):
            with open_channel(address, access=access) as channel:
                call = Stub(channel, SERVICE, access.metadata).TraceSetting
                assert refusal_of(call, request) == reason


def refusal_of(call, request):
    try:
        call(request, timeout=60)
    except grpc.RpcError as error:
        return error_from_rpc(error).reason
    return None


def test_a_replica_takes_no_stranger(protected):
    address = protected.stack.replicas[0].address
    with Client(address, ca=protected.authority.file, timeout_s=5) as client:
        assert not client.ready(MODEL)
    stranger = protected.authority.issue("stranger", "stranger.test")
    files = {"cert": stranger.cert, "key": stranger.key}
    with Client(address, ca=protected.authority.file, **files) as client:
        with pytest.raises(Unauthenticated) as caught:
            client.predict(MODEL, {"x": X})
        assert caught.value.reason == "NO_CREDENTIALS"


def test_a_token_that_was_taken_back_is_refused_without_a_restart(protected):
    with protected.client(SHOP) as client:
        protected.write_identities("slow", "ops")

        def refused():
            try:
                client.signature(MODEL)
            except Unauthenticated:
                return True
            return False

        wait_until(refused, within_s=20, what="the new auth file counts")
    protected.write_identities("shop", "slow", "ops")

    def known():
        with protected.client(SHOP) as client:
            return client.signature(MODEL)

    wait_until(known, within_s=20, what="the file as it was counts again")
