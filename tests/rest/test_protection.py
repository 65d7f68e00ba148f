"""The same identities, quotas and certificates over HTTP as over gRPC."""

import asyncio
import json
import ssl

import pytest

from chassis.guard import Guard
from chassis.policy.quota import Quota
from chassis.protection import Protection
from chassis.tls import ServerTls
from tests.chassis.certificates import Authority
from tests.rest.http import Client, request_bytes
from tests.rest.served import Served

SHOP, OPS = "shop-token-0123456789", "ops-token-0123456789"
INFER = "/v2/models/flat/infer"
BODY = json.dumps(
    {"inputs": [{"name": "in", "shape": [3], "datatype": "FP32", "data": [1, 2, 3]}]}
).encode()


@pytest.fixture
def guard(tmp_path):
    def make(**quota):
        file = tmp_path / "auth.json"
        entries = [
            {"name": "shop", "tokens": [SHOP], "models": ["flat"]},
            {"name": "ops", "tokens": [OPS], "roles": ["control"]},
            {"name": "edge", "certificates": ["spiffe://x/edge"]},
        ]
        file.write_text(json.dumps({"identities": entries}))
        return Guard(file, Quota(**quota))

    return make


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def test_a_token_says_who_asks_and_what_they_may(guard):
    async with Served(protection=Protection(guard=guard())) as served, Client(served.port) as http:
        assert (await http.ask("POST", INFER, BODY)).reason == "NO_CREDENTIALS"
        wrong = await http.ask("POST", INFER, BODY, bearer("nobody-0123456789"))
        assert (wrong.status, wrong.reason) == (401, "BAD_TOKEN")
        answer = await http.ask("POST", INFER, BODY, bearer(SHOP))
        assert (answer.status, served.servicer.calls[-1].identity) == (200, "shop")
        other = await http.ask("POST", "/v2/models/echo_fp32/infer", BODY, bearer(SHOP))
        assert (other.status, other.reason) == (403, "MODEL_NOT_ALLOWED")
        role = await http.ask("POST", INFER, BODY, bearer(OPS))
        assert (role.status, role.reason) == (403, "ROLE_MISSING")
        load = "/v2/repository/models/flat/load"
        assert (await http.ask("POST", load, b"{}", bearer(SHOP))).reason == "CONTROL_NOT_ALLOWED"
        assert (await http.ask("POST", load, b"{}", bearer(OPS))).status == 200


@pytest.mark.parametrize(
    ("quota", "reason"),
    [
        ({"requests_per_s": 0.001, "burst_requests": 1}, "QUOTA_REQUESTS"),
        ({"bytes_per_s": 0.001, "burst_bytes": len(BODY)}, "QUOTA_BYTES"),
    ],
)
async def test_a_quota_is_refused_with_the_time_to_wait(guard, quota, reason):
    protection = Protection(guard=guard(**quota))
    async with Served(protection=protection) as served, Client(served.port) as http:
        assert (await http.ask("POST", INFER, BODY, bearer(SHOP))).status == 200
        refused = await http.ask("POST", INFER, BODY, bearer(SHOP))
        assert (refused.status, refused.reason) == (429, reason)
        assert int(refused.headers["retry-after"]) >= 1


async def test_generate_counts_as_one_request_and_tells_nothing_of_a_forbidden_model(guard):
    protection = Protection(guard=guard(requests_per_s=0.001, burst_requests=1))
    async with Served(protection=protection) as served, Client(served.port) as http:
        body = b'{"in": [1, 2, 3]}'
        forbidden = "/v2/models/echo_fp32/generate"
        refused = await http.ask("POST", forbidden, b'{"no": 1}', bearer(SHOP))
        assert (refused.status, refused.reason) == (403, "MODEL_NOT_ALLOWED")
        path = "/v2/models/flat/generate"
        assert (await http.ask("POST", path, body, bearer(SHOP))).status == 200
        assert (await http.ask("POST", path, body, bearer(SHOP))).reason == "QUOTA_REQUESTS"


async def test_requests_at_once_are_counted_until_they_end(guard):
    protection = Protection(guard=guard(max_concurrent=1))
    async with Served(protection=protection) as served, Client(served.port) as first:
        served.servicer.gate.clear()
        await first.send(request_bytes("POST", INFER, BODY, bearer(SHOP)))
        await served.servicer.entered.wait()
        async with Client(served.port) as second:
            refused = await second.ask("POST", INFER, BODY, bearer(SHOP))
            assert (refused.status, refused.reason) == (429, "QUOTA_CONCURRENCY")
            served.servicer.gate.set()
            assert (await first.answer()).status == 200
            assert (await second.ask("POST", INFER, BODY, bearer(SHOP))).status == 200


class TlsClient(Client):
    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        super().__init__(port)
        self.context = context

    async def __aenter__(self):
        self.reader, self.writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.context
        )
        return self

    async def __aexit__(self, *_error):
        self.writer.close()


def trusting(authority: Authority, pair=None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.file)
    if pair is not None:
        context.load_cert_chain(pair.cert, pair.key)
    return context


async def test_a_certificate_says_who_asks_and_renewed_files_count(guard, tmp_path):
    authority = Authority(tmp_path)
    server = authority.issue("server", "127.0.0.1")
    tls = ServerTls(server.cert, server.key, authority.file)
    edge = trusting(authority, authority.issue("edge", "spiffe://x/edge", common_name="edge"))
    stranger = trusting(authority, authority.issue("other", "spiffe://x/other"))
    async with Served(protection=Protection(tls=tls, guard=guard())) as served:
        async with TlsClient(served.port, edge) as http:
            assert (await http.ask("POST", INFER, BODY)).status == 200
            assert served.servicer.calls[-1].identity == "edge"
            first = http.writer.get_extra_info("ssl_object").getpeercert()["serialNumber"]
        async with TlsClient(served.port, stranger) as http:
            assert (await http.ask("POST", INFER, BODY)).reason == "NO_CREDENTIALS"
            assert (await http.ask("POST", INFER, BODY, bearer(SHOP))).status == 200
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            async with TlsClient(served.port, trusting(authority)) as http:
                await http.ask("POST", INFER, BODY)
        authority.issue("server", "127.0.0.1")
        async with TlsClient(served.port, edge) as http:
            renewed = http.writer.get_extra_info("ssl_object").getpeercert()["serialNumber"]
            assert renewed != first
        server.key.write_text("no key")
        async with TlsClient(served.port, edge) as http:
            assert (await http.ask("POST", INFER, BODY)).status == 200
