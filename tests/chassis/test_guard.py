"""The guard: who gets in, with what rights, how much; and that a new auth file counts at once."""

import asyncio
import json
import os
import signal

import pytest

from chassis import guard as guard_module
from chassis.errors import InvalidArgument, PermissionDenied, ResourceExhausted, Unauthenticated
from chassis.guard import Guard, rights_of
from chassis.policy.quota import Quota
from chassis.telemetry import REGISTRY
from protos.inference import grpc_service_pb2 as oip

INFERENCE = "inference.GRPCInferenceService"
INFER = rights_of(INFERENCE, "ModelInfer", False)
ANY = rights_of(INFERENCE, "ModelMetadata", False)
SHOP, OPS = "shop-token-0123456789", "ops-token-0123456789"


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def auth_file(tmp_path):
    file = tmp_path / "auth.json"

    def write(*entries):
        fresh = tmp_path / "new.json"
        fresh.write_text(json.dumps({"identities": entries}))
        fresh.replace(file)
        return file

    return write


@pytest.fixture
def guard(auth_file):
    return Guard(
        auth_file(
            {"name": "shop", "tokens": [SHOP], "models": ["m"], "quota": {"requests_per_s": 2}},
            {"name": "ops", "tokens": [OPS], "roles": ["control"]},
            {"name": "edge", "certificates": ["spiffe://x/edge"]},
        ),
        Quota(max_concurrent=1),
        clock=Clock(),
    )


def asked(guard, rights=INFER, token=None, certificate=(), time_remaining=lambda: None):
    authorization = None if token is None else f"Bearer {token}"
    return guard.call(
        rights,
        authorization=authorization,
        certificate=certificate,
        time_remaining=time_remaining,
    )


def request(model="m"):
    return oip.ModelInferRequest(model_name=model)


def test_tokens_and_certificates_name_callers(guard):
    assert asked(guard, token=SHOP).identity == "shop"
    assert asked(guard, certificate=("spiffe://x/edge", "cn")).identity == "edge"
    assert guard.asks and guard.certificates


def test_a_token_counts_before_a_certificate(guard):
    with pytest.raises(Unauthenticated) as caught:
        asked(guard, token="wrong", certificate=("spiffe://x/edge",))
    assert caught.value.reason == "BAD_TOKEN"


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer ", f"Basic {SHOP}", SHOP, "\xff"])
def test_other_headers_are_no_tokens(guard, authorization):
    with pytest.raises(Unauthenticated) as caught:
        guard.call(INFER, authorization=authorization, time_remaining=lambda: None)
    assert caught.value.reason == "BAD_TOKEN"
    assert SHOP not in caught.value.message


def test_the_scheme_is_read_in_any_case(guard):
    call = guard.call(INFER, authorization=f"bearer  {SHOP}", time_remaining=lambda: 3.0)
    assert (call.identity, call.time_remaining()) == ("shop", 3.0)


def test_nobody_known_is_told_how_to_say_who_they_are(guard):
    with pytest.raises(Unauthenticated, match="authorization: Bearer TOKEN") as caught:
        asked(guard)
    assert caught.value.reason == "NO_CREDENTIALS"
    with pytest.raises(Unauthenticated, match="another client certificate"):
        asked(guard, certificate=("stranger",))


def test_roles_say_what_an_identity_may(guard):
    with pytest.raises(PermissionDenied, match="'ops' lacks the role 'infer'") as caught:
        asked(guard, token=OPS)
    assert caught.value.reason == "ROLE_MISSING"
    assert asked(guard, ANY, token=OPS).control
    shop = asked(guard, ANY, token=SHOP)
    with pytest.raises(PermissionDenied):
        shop.require_control("loading a model")


@pytest.mark.parametrize(
    ("service", "method", "role"),
    [
        (INFERENCE, "ModelInfer", "infer"),
        (INFERENCE, "ModelStreamInfer", "infer"),
        (INFERENCE, "RepositoryModelLoad", ""),
        ("headrace.v1.Feedback", "Report", "infer"),
        ("headrace.v1.Trainer", "StartRun", "control"),
        ("headrace.v1.Trainer", "WatchRun", ""),
        ("headrace.v1.GatewayAdmin", "GetStatus", ""),
        ("headrace.v1.GatewayAdmin", "DrainEndpoint", "control"),
    ],
)
def test_what_each_method_needs(service, method, role):
    assert rights_of(service, method, False).role == role


def test_models_that_an_identity_may_not_use(guard):
    call = asked(guard, token=SHOP)
    with pytest.raises(PermissionDenied, match="'shop' may not use model 'x'") as caught:
        call.enter(request("x"))
    assert caught.value.reason == "MODEL_NOT_ALLOWED"
    with pytest.raises(PermissionDenied):
        call.enter(oip.ModelConfigRequest(name="x"))
    assert call.may_use("m") and not call.may_use("x")
    call.enter(oip.ServerLiveRequest())()


def test_each_identity_has_its_quota(guard):
    shop = asked(guard, token=SHOP)
    shop.enter(request())()
    shop.enter(request())()
    with pytest.raises(ResourceExhausted, match="quota of identity 'shop'.*2 requests") as caught:
        shop.enter(request())
    assert caught.value.reason == "QUOTA_REQUESTS"
    assert caught.value.retry_after_s == pytest.approx(0.5)
    # The default quota, for one that has none of its own; each its own count.
    edge = asked(guard, certificate=("spiffe://x/edge",))
    leave = edge.enter(request())
    with pytest.raises(ResourceExhausted, match="1 requests at once") as caught:
        asked(guard, certificate=("spiffe://x/edge",)).enter(request())
    assert (caught.value.reason, caught.value.retry_after_s) == ("QUOTA_CONCURRENCY", None)
    leave()
    edge.enter(request())()
    refused = REGISTRY.get_sample_value(
        "headrace_refused_total", {"identity": "shop", "reason": "QUOTA_REQUESTS"}
    )
    assert refused >= 1


def test_bytes_are_those_of_the_message_read_last():
    guard = Guard(default_quota=Quota(bytes_per_s=100), clock=Clock())
    call = asked(guard)
    call.message_bytes = 60
    call.enter(request())()
    with pytest.raises(ResourceExhausted, match="callers without an identity.*has 60"):
        call.enter(request())
    call.message_bytes = 40
    call.enter(request())()


def test_without_an_auth_file_everybody_is_nobody_or_their_certificate():
    guard = Guard()
    assert asked(guard, token="anything at all").identity == ""
    assert asked(guard, certificate=("spiffe://x/a", "cn")).identity == "spiffe://x/a"
    assert not asked(guard).control
    assert asked(guard, rights_of(INFERENCE, "RepositoryModelLoad", True)).control
    assert asked(guard, rights_of("headrace.v1.Trainer", "StartRun", False)).control
    assert not guard.asks


async def test_a_new_auth_file_counts_at_once_even_in_open_calls(guard, auth_file):
    call = asked(guard, token=SHOP)
    auth_file({"name": "shop", "tokens": [SHOP], "models": ["other"]})
    await guard.look()
    with pytest.raises(PermissionDenied):
        call.enter(request("m"))
    call.enter(request("other"))()
    auth_file({"name": "ops", "tokens": [OPS]})
    await guard.look()
    with pytest.raises(Unauthenticated):
        call.enter(request("other"))


async def test_a_wrong_new_file_leaves_the_old_one(guard, auth_file, tmp_path):
    auth_file({"name": "nobody"})
    await guard.look()
    assert asked(guard, token=SHOP).identity == "shop"
    (tmp_path / "auth.json").unlink()
    await guard.look()
    assert asked(guard, token=SHOP).identity == "shop"
    auth_file({"name": "late", "tokens": [SHOP]})
    await guard.look()
    assert asked(guard, token=SHOP).identity == "late"


async def test_a_changed_quota_counts(guard, auth_file):
    leave = asked(guard, certificate=("spiffe://x/edge",)).enter(request())
    auth_file({"name": "edge", "certificates": ["spiffe://x/edge"], "quota": {}})
    await guard.look()
    asked(guard, certificate=("spiffe://x/edge",)).enter(request())()
    leave()


async def test_sighup_reads_the_file_again(guard, auth_file, monkeypatch):
    looked = asyncio.Event()
    look = guard.look

    async def look_and_tell(*, asked):
        await look(asked=asked)
        looked.set()

    monkeypatch.setattr(guard_module, "LOOK_S", 60)
    monkeypatch.setattr(guard, "look", look_and_tell)
    # Two servers of one process.
    guard.start()
    guard.start()
    auth_file({"name": "fresh", "tokens": [SHOP]})
    # The task that watches installs the handler when it first runs.
    await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGHUP)
    await looked.wait()
    assert asked(guard, token=SHOP).identity == "fresh"
    await guard.stop()
    assert signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL
    await guard.stop()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


def test_a_wrong_file_stops_the_start(tmp_path):
    with pytest.raises(InvalidArgument, match="cannot be read"):
        Guard(tmp_path / "nothere")
