"""TLS and mTLS on real servers: who connects, who a certificate says they are, renewal."""

import asyncio

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from grpc_health.v1 import health_pb2, health_pb2_grpc

from chassis.connections import Access, open_aio_channel, open_channel
from chassis.edge import Stub, error_from_rpc
from chassis.errors import InvalidArgument, Unauthenticated
from chassis.guard import Guard
from chassis.oip import SERVICE
from chassis.protection import ProtectedSettings, Protection, protection_of
from chassis.server import RpcServer
from chassis.tls import ClientTls, ServerTls, channel_credentials, server_credentials
from protos.inference import grpc_service_pb2 as oip
from tests.chassis.asking import serving
from tests.chassis.certificates import Authority

ANY = oip.ServerMetadataRequest()


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def server_pair(authority):
    return authority.issue("server", "127.0.0.1", "headrace.test")


@pytest.fixture(scope="module")
def client_pair(authority):
    names = ("client.test", "spiffe://test/client")
    return authority.issue("client", *names, common_name="common")


def access_of(authority, pair=None, **options):
    files = {} if pair is None else {"cert": pair.cert, "key": pair.key}
    return Access(ClientTls(authority.file, **files), **options)


async def metadata(server, access):
    async with open_aio_channel(f"127.0.0.1:{server.port}", access=access) as channel:
        stub = Stub(channel, SERVICE, access.metadata)
        reply = await stub.ServerMetadata(ANY, timeout=5)
    return reply.name, reply.version


async def code_of(server, access):
    with pytest.raises(grpc.RpcError) as caught:
        await metadata(server, access)
    return caught.value.code()


async def test_tls_serves_those_who_trust_it_and_nobody_in_plaintext(
    authority, server_pair, tmp_path
):
    protection = Protection(ServerTls(server_pair.cert, server_pair.key))
    async with serving(protection) as (server, _):
        assert await metadata(server, access_of(authority)) == ("", "False")
        assert await code_of(server, Access()) is grpc.StatusCode.UNAVAILABLE
        stranger = Authority(tmp_path, "stranger")
        assert await code_of(server, access_of(stranger)) is grpc.StatusCode.UNAVAILABLE


async def test_a_server_name_stands_for_an_address_that_does_not_say_it(authority):
    pair = authority.issue("named", "headrace.test")
    async with serving(Protection(ServerTls(pair.cert, pair.key))) as (server, _):
        assert await code_of(server, access_of(authority)) is grpc.StatusCode.UNAVAILABLE
        named = Access(ClientTls(authority.file, server_name="headrace.test"))
        assert await metadata(server, named) == ("", "False")


async def test_a_client_ca_makes_certificates_a_must_and_a_name(
    authority, server_pair, client_pair, tmp_path
):
    tls = ServerTls(server_pair.cert, server_pair.key, authority.file)
    async with serving(Protection(tls, Guard())) as (server, _):
        # A URI comes before other names, these before the common name.
        assert await metadata(server, access_of(authority, client_pair)) == (
            "spiffe://test/client",
            "False",
        )
        dns = authority.issue("dns", "only.test", common_name="common")
        assert await metadata(server, access_of(authority, dns)) == ("only.test", "False")
        plain = authority.issue("plain", common_name="just-a-name")
        assert await metadata(server, access_of(authority, plain)) == ("just-a-name", "False")
        assert await code_of(server, access_of(authority)) is grpc.StatusCode.UNAVAILABLE
        foreign = Authority(tmp_path, "foreign").issue("foreign", "client.test")
        assert await code_of(server, access_of(authority, foreign)) is grpc.StatusCode.UNAVAILABLE


async def test_certificates_and_tokens_name_identities_of_the_auth_file(
    authority, server_pair, client_pair, tmp_path
):
    token = "ops-token-0123456789"
    auth = tmp_path / "auth.yaml"
    auth.write_text(
        "identities:\n"
        "  - {name: edge, certificates: ['spiffe://test/client']}\n"
        f"  - {{name: ops, tokens: [{token}], roles: [control]}}\n"
    )
    tls = ServerTls(server_pair.cert, server_pair.key, authority.file)
    async with serving(Protection(tls, Guard(auth))) as (server, _):
        edge = access_of(authority, client_pair)
        assert await metadata(server, edge) == ("edge", "False")
        # The token says more than the certificate.
        ops = access_of(authority, client_pair, token=token)
        assert await metadata(server, ops) == ("ops", "True")
        unknown = authority.issue("unknown", "unknown.test")
        with pytest.raises(grpc.RpcError) as caught:
            await metadata(server, access_of(authority, unknown))
        error = error_from_rpc(caught.value)
        assert (type(error), error.reason) == (Unauthenticated, "NO_CREDENTIALS")


async def test_renewed_files_serve_the_next_handshake(authority, tmp_path):
    pair = authority.issue("renewed", "first.test")
    tls = ServerTls(tmp_path / "now.pem", tmp_path / "now.key")

    def install(issued):
        for source, target in ((issued.cert, tls.cert), (issued.key, tls.key)):
            target.with_suffix(".new").write_bytes(source.read_bytes())
            target.with_suffix(".new").replace(target)

    def named(name):
        return Access(ClientTls(authority.file, server_name=name))

    install(pair)
    async with serving(Protection(tls)) as (server, _):
        assert await metadata(server, named("first.test")) == ("", "False")
        install(authority.issue("renewed2", "second.test"))
        assert await metadata(server, named("second.test")) == ("", "False")
        assert await code_of(server, named("first.test")) is grpc.StatusCode.UNAVAILABLE
        # Files that do not fit together: the old ones go on.
        tls.key.write_bytes(pair.key.read_bytes())
        assert await metadata(server, named("second.test")) == ("", "False")


async def test_health_stays_open_under_tls_and_identities(authority, server_pair, tmp_path):
    auth = tmp_path / "auth.yaml"
    auth.write_text("identities: [{name: a, tokens: [0123456789abcdef0123]}]")
    protection = Protection(ServerTls(server_pair.cert, server_pair.key), Guard(auth))
    async with serving(protection) as (server, _):
        access = access_of(authority)
        async with open_aio_channel(f"127.0.0.1:{server.port}", access=access) as channel:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest()
            )
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.RpcError) as caught:
                await Stub(channel, SERVICE).ServerMetadata(ANY)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_blocking_channel_does_as_well(authority, server_pair):
    protection = Protection(ServerTls(server_pair.cert, server_pair.key))
    async with serving(protection) as (server, _):
        channel = open_channel(f"127.0.0.1:{server.port}", access=access_of(authority))
        # In a thread: the server answers on this loop.
        reply = await asyncio.to_thread(Stub(channel, SERVICE).ServerMetadata, ANY, timeout=20)
        assert reply.name == ""
        channel.close()


def test_files_that_do_not_fit_are_refused_by_name(authority, server_pair, client_pair, tmp_path):
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nnothing\n-----END CERTIFICATE-----\n")
    for tls, sentence in (
        (ServerTls(server_pair.cert, client_pair.key), "server.pem and .*client.key are not a PEM"),
        (ServerTls(broken, server_pair.key), "broken.pem and .*server.key are not a PEM"),
        (ServerTls(server_pair.cert, tmp_path / "no.key"), "no.key cannot be read: No such file"),
        (ServerTls(server_pair.cert, server_pair.key, broken), "broken.pem holds no PEM"),
    ):
        with pytest.raises(InvalidArgument, match=sentence) as caught:
            server_credentials(tls)
        assert caught.value.reason == "BAD_TLS_FILE"
    with pytest.raises(InvalidArgument, match="go together"):
        channel_credentials(ClientTls(authority.file, cert=client_pair.cert))
    with pytest.raises(InvalidArgument, match="broken.pem holds no PEM"):
        channel_credentials(ClientTls(broken))


def test_a_key_under_a_password_is_refused_and_nobody_is_asked_for_it(server_pair, tmp_path):
    locked = tmp_path / "locked.key"
    key = load_pem_private_key(server_pair.key.read_bytes(), None)
    secret = BestAvailableEncryption(b"password")
    locked.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret))
    with pytest.raises(InvalidArgument, match="without a password"):
        server_credentials(ServerTls(server_pair.cert, locked))


@pytest.mark.parametrize("address", ["10.0.0.1:1", "example.org:1", "[2001:db8::1]:1", "0.0.0.0:1"])
def test_a_token_never_travels_in_plaintext(address):
    with pytest.raises(InvalidArgument, match="unencrypted") as caught:
        open_channel(address, access=Access(token="secret-token"))
    assert caught.value.reason == "TOKEN_IN_PLAINTEXT"
    assert "secret-token" not in caught.value.message


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost:1", "[::1]:1", "127.9.9.9:1"])
def test_on_loopback_it_may(address):
    open_channel(address, access=Access(token="secret-token")).close()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"tls_cert": "a.pem"}, "tls_cert and tls_key go together"),
        ({"tls_client_ca": "a.pem"}, "tls_client_ca needs tls_cert and tls_key"),
    ],
)
def test_settings_that_make_no_sense(settings, sentence):
    with pytest.raises(InvalidArgument, match=sentence):
        ProtectedSettings.load(None, settings)


def test_certificates_in_the_auth_file_need_a_client_ca(tmp_path):
    auth = tmp_path / "auth.yaml"
    auth.write_text("identities: [{name: a, certificates: [a.test]}]")
    with pytest.raises(InvalidArgument, match="they need setting tls_client_ca"):
        protection_of(ProtectedSettings(auth_file=auth))


def test_nothing_set_is_nothing_guarded():
    protection = protection_of(ProtectedSettings())
    assert (protection.tls, protection.guard, protection.complete) == (None, None, False)


def test_an_operators_port_has_no_quota_of_strangers(tmp_path):
    auth = tmp_path / "auth.yaml"
    auth.write_text("identities: [{name: a, tokens: [0123456789abcdef0123]}]")
    assert protection_of(ProtectedSettings(quota_max_concurrent=1)).without_quotas().guard is None
    asking = protection_of(ProtectedSettings(auth_file=auth))
    assert asking.without_quotas().guard is asking.guard


@pytest.mark.parametrize(
    ("host", "complete", "warned"),
    [("127.0.0.1", False, 0), ("0.0.0.0", False, 1), ("0.0.0.0", True, 0)],
)
async def test_wider_than_loopback_without_both_is_warned_of(
    host, complete, warned, authority, server_pair, capsys
):
    tls = ServerTls(server_pair.cert, server_pair.key, authority.file)
    protection = Protection(tls, Guard()) if complete else Protection(guard=Guard())
    server = RpcServer(host, 0, protection=protection)
    await server.start()
    await server.stop(0)
    shown = capsys.readouterr()
    assert (shown.out + shown.err).count("listening beyond loopback without TLS") == warned
