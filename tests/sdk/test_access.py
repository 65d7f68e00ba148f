"""Clients and commands against a server that asks for TLS, a token or a certificate."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from chassis.errors import InvalidArgument, Unauthenticated, Unavailable
from chassis.guard import Guard
from chassis.identities import digest_text
from chassis.protection import Protection
from chassis.tls import ServerTls
from headrace import AsyncClient, Client
from headrace.cli.access import credentials as credentials_given
from headrace.cli.main import app
from tests.chassis.certificates import Authority
from tests.sdk.oip_server import OipServer

TOKEN = "shop-token-0123456789"
X = {"x": np.array([[4]], dtype=np.int64)}


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


@pytest.fixture
def server(tmp_path, authority):
    pair = authority.issue("server", "127.0.0.1")
    auth = tmp_path / "auth.json"
    shop = {"name": "shop", "token_digests": [digest_text(TOKEN)], "certificates": ["shop.test"]}
    auth.write_text(json.dumps({"identities": [shop]}))
    with OipServer(Protection(ServerTls(pair.cert, pair.key), Guard(auth))) as running:
        yield running


def test_a_client_with_ca_and_token_is_answered(server, authority):
    with Client(server.address, ca=authority.file, token=TOKEN) as client:
        assert client.predict("echo", X)["y"].tolist() == [[4]]
        assert len(list(client.generate("count", X))) == 4
        with client.stream() as stream:
            assert stream.predict("echo", X).result(20)["y"].tolist() == [[4]]


async def test_the_asyncio_client_as_well(server, authority):
    async with AsyncClient(server.address, ca=str(authority.file), token=TOKEN) as client:
        assert (await client.predict("echo", X))["y"].tolist() == [[4]]


def test_without_them_it_is_told_what_is_missing(server, authority):
    with Client(server.address, ca=authority.file) as client:
        with pytest.raises(Unauthenticated) as caught:
            client.predict("echo", X)
        assert caught.value.reason == "NO_CREDENTIALS"
    with Client(server.address, timeout_s=5) as client, pytest.raises(Unavailable):
        client.predict("echo", X)


def test_a_certificate_is_enough_where_the_server_knows_it(tmp_path, authority):
    pair = authority.issue("server", "127.0.0.1")
    own = authority.issue("client", "shop.test")
    auth = tmp_path / "auth.json"
    auth.write_text(json.dumps({"identities": [{"name": "shop", "certificates": ["shop.test"]}]}))
    tls = ServerTls(pair.cert, pair.key, authority.file)
    with (
        OipServer(Protection(tls, Guard(auth))) as running,
        Client(running.address, ca=authority.file, cert=own.cert, key=own.key) as client,
    ):
        assert client.predict("echo", X)["y"].tolist() == [[4]]


@pytest.mark.parametrize(
    ("credentials", "reason"),
    [
        ({"token": "two words"}, "BAD_TOKEN"),
        ({"tokn": "x"}, "BAD_CREDENTIALS"),
        ({"ca": "no-such.pem"}, "BAD_TLS_FILE"),
        ({"cert": "only.pem"}, "BAD_TLS_FILE"),
    ],
)
def test_wrong_credentials_are_named_at_once(credentials, reason):
    with pytest.raises(InvalidArgument) as caught:
        Client("127.0.0.1:1", **credentials)
    assert caught.value.reason == reason


def test_a_token_never_leaves_the_machine_in_plaintext():
    with pytest.raises(InvalidArgument) as caught:
        Client("headrace.example:8001", token=TOKEN)
    assert caught.value.reason == "TOKEN_IN_PLAINTEXT"


def test_commands_take_them_before_the_command_or_from_the_environment(
    server, authority, tmp_path, monkeypatch
):
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN + "\n")
    command = ["predict", "echo", "-i", "x=[4]", "--gateway", server.address, "-o", "json"]
    flags = ["--ca", str(authority.file), "--token-file", str(token_file)]
    given = CliRunner().invoke(app, [*flags, *command], catch_exceptions=False)
    assert json.loads(given.stdout)["outputs"] == {"y": [[4]]}
    assert not {"ca", "token"} & set(credentials_given())
    with pytest.raises(Unavailable):
        CliRunner().invoke(app, command, catch_exceptions=False)
    monkeypatch.setenv("HEADRACE_CLIENT_CA", str(authority.file))
    monkeypatch.setenv("HEADRACE_CLIENT_TOKEN_FILE", str(token_file))
    given = CliRunner().invoke(app, command, catch_exceptions=False)
    assert json.loads(given.stdout)["outputs"] == {"y": [[4]]}


def test_the_token_command_prints_a_token_and_its_digest():
    shown = CliRunner().invoke(app, ["token", "shop", "-o", "json"], catch_exceptions=False)
    made = json.loads(shown.stdout)
    assert made["name"] == "shop"
    assert digest_text(made["token"]) == made["token_digest"]
