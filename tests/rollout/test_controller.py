"""The controller between a real store and gateways that answer over gRPC."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest
from structlog.testing import capture_logs

from chassis.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from headrace.policy.rollout import Abort, Advance, Promote, Wait
from headrace.rollout.beginning import is_new, start
from headrace.rollout.controller import Controller
from headrace.rollout.gateways import Gateways
from model_store import Store
from model_store.faults import Fault, FaultyStore
from model_store.open import open_store
from model_store.promotion import abort, begin
from model_store.publication import existing_channel, publish, rollback
from model_store.rollout import RolloutPlan, RolloutState
from tests.model_store.samples import MODEL, stored
from tests.rollout.gateway import FakeGateway

PLAN = RolloutPlan(shares=(0.05, 0.5), stage_s=10.0, min_requests=50)


@pytest.fixture
def store(tmp_path) -> Store:
    """Version 1 is stable, 2 on the canary channel."""
    with open_store(f"file://{tmp_path}/store") as opened:
        publish(opened, stored(opened, 1))
        publish(opened, stored(opened, 2), channel="canary")
        yield opened


class Time:
    """A clock that the test moves; the store's own times are not before it."""

    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return self.s


class Watched:
    """A controller, its gateways and a time that passes between looks."""

    def __init__(self, store: Store, addresses: list[str], **options) -> None:
        self.store, self.time = store, Time()
        self.gateways = Gateways(addresses)
        self.controller = Controller(
            store, self.gateways, clock=self.time, wall_ms=self._wall_ms, **options
        )

    def _wall_ms(self) -> int:
        """So many seconds after the candidate's channel moved as passed since the last look."""
        return self.canary.history[-1].move_time_ms + int(self.passed_s * 1000)

    @property
    def canary(self):
        return existing_channel(self.store, MODEL, "canary")

    @property
    def stable(self):
        return existing_channel(self.store, MODEL, "stable")

    def look(self, after_s: float = 20.0):
        """The verdict of a look so many seconds after the last one; None where none ran."""
        self.passed_s = after_s
        self.time.s += after_s
        found = self.controller.look()
        return found[0].verdict if found else None


@contextmanager
def watching(store: Store, *gateways: FakeGateway, **options):
    watched = Watched(store, [gateway.address for gateway in gateways], **options)
    try:
        yield watched
    finally:
        watched.gateways.close()


def test_a_good_candidate_goes_through_its_stages_and_is_promoted(store):
    begin(store, MODEL, plan=PLAN)
    with FakeGateway(store) as one, FakeGateway(store) as two, watching(store, one, two) as seen:
        # Ready for no time yet.
        assert isinstance(seen.look(), Wait)
        assert isinstance(seen.look(), Advance)
        assert (seen.canary.rollout.stage, seen.stable.version) == (1, 1)
        assert isinstance(seen.look(), Promote)
        assert (seen.stable.version, seen.canary.rollout.state) == (2, RolloutState.PROMOTED)
        assert seen.look() is None
    # Both gateways' figures were added up: two looks of 50 each.
    assert "0 of 200 failed, others 0 of 2000" in seen.canary.history[-3].reason
    assert seen.stable.history[-1].reason == seen.canary.history[-1].reason


def test_a_failing_candidate_is_given_up_at_the_first_look(store):
    begin(store, MODEL, plan=PLAN)
    with FakeGateway(store, requests=3, failing=1.0) as gateway, watching(store, gateway) as seen:
        assert isinstance(seen.look(after_s=0.0), Abort)
    assert (seen.stable.version, seen.canary.rollout.state) == (1, RolloutState.ABORTED)
    assert "it failed 3 of 3 requests" in seen.canary.history[-1].reason


def test_a_gateway_that_is_silent_or_has_not_heard_holds_it_up(store):
    begin(store, MODEL, plan=PLAN)
    with FakeGateway(store) as good, FakeGateway(store, deaf=True) as other:
        with watching(store, good, other) as seen:
            seen.look()
            assert "ready on 2 of 4 endpoints" in seen.look().reason
            other.deaf, other.ready = False, 1
            assert "ready on 3 of 4 endpoints" in seen.look().reason
            other.close()
            assert f"gateway {other.address} does not answer" in seen.look().reason
        with watching(store, good) as seen:
            assert seen.look().needs == ("time",)
            assert isinstance(seen.look(), Advance)


def test_a_controller_that_starts_again_goes_on(store):
    begin(store, MODEL, plan=PLAN)
    with FakeGateway(store) as gateway:
        for verdict in (Advance, Promote):
            with watching(store, gateway) as seen:
                found = seen.look()
                # A first stage counts from when this process saw all ready.
                if isinstance(found, Wait):
                    found = seen.look()
                assert isinstance(found, verdict)
    assert seen.stable.version == 2


@pytest.mark.parametrize(("steps", "stable"), [(1, 1), (2, 2)])
def test_a_promotion_that_was_cut_off_is_completed(store, steps, stable):
    begin(store, MODEL, plan=RolloutPlan(shares=()))
    lost = Unavailable("STORE_UNAVAILABLE", "the connection broke")
    faulty = FaultyStore(store, [Fault("move_channel", lost, skip=steps)])
    with FakeGateway(store) as gateway:
        with watching(faulty, gateway) as seen, capture_logs() as logs:
            assert seen.look() is None
            assert [event["why"] for event in logs if event["log_level"] == "warning"] == [
                "the connection broke"
            ]
        assert (seen.stable.version, seen.canary.rollout.state) == (stable, RolloutState.PROMOTING)
        # What it was decided by is not asked again.
        gateway.ready = 0
        with watching(store, gateway) as seen:
            assert isinstance(seen.look(), Promote)
    assert (seen.stable.version, seen.canary.rollout.state) == (2, RolloutState.PROMOTED)


def test_a_rollback_of_the_other_channel_wins(store):
    publish(store, stored(store, 3))
    begin(store, MODEL, plan=PLAN, version=publish_to(store, 4, "canary"))
    assert rollback(store, MODEL, reason="worse").version == 1
    with FakeGateway(store) as gateway, watching(store, gateway) as seen:
        assert seen.look() == Abort("channel stable is held at version 1")
    assert (seen.stable.version, seen.stable.held) == (1, True)
    assert seen.canary.rollout.state is RolloutState.ABORTED


def test_nobody_is_promoted_over_a_rollback_that_came_between(store):
    publish(store, stored(store, 3))
    begin(store, MODEL, plan=RolloutPlan(shares=()), version=publish_to(store, 4, "canary"))
    operator = iter([lambda: rollback(store, MODEL, reason="an operator")])
    told = lambda _standing: next(operator, lambda: None)()  # noqa: E731
    with FakeGateway(store) as gateway, watching(store, gateway, told=told) as seen:
        assert isinstance(seen.look(), Promote)
        assert (seen.stable.version, seen.stable.held) == (1, True)
        assert isinstance(seen.look(), Abort)
    assert seen.stable.version == 1


@pytest.mark.parametrize("step", ["asked", "begun"])
def test_nobody_is_promoted_over_a_newer_publication_that_came_between(store, step, monkeypatch):
    begin(store, MODEL, plan=RolloutPlan(shares=()))
    newer = iter([lambda: publish(store, stored(store, 3))])
    publishes = lambda: next(newer, lambda: None)()  # noqa: E731
    told = lambda _standing: publishes() if step == "asked" else None  # noqa: E731
    if step == "begun":
        monkeypatch.setattr(
            "model_store.promotion.failpoint",
            lambda name: publishes() if name == "promote.begun" else None,
        )
    with FakeGateway(store) as gateway, watching(store, gateway, told=told) as seen:
        assert isinstance(seen.look(), Promote)
        assert (seen.stable.version, seen.canary.rollout.running) == (3, True)
        assert seen.look() == Abort("channel stable moved on to version 3")
    assert (seen.stable.version, seen.canary.rollout.state) == (3, RolloutState.ABORTED)


def publish_to(store: Store, step: int, channel: str) -> int:
    return publish(store, stored(store, step), channel=channel).manifest.version


def test_who_moved_first_is_looked_at_again(store):
    begin(store, MODEL, plan=RolloutPlan(shares=()))
    with FakeGateway(store) as gateway:
        told = lambda _standing: abort(store, MODEL, reason="a person")  # noqa: E731
        with watching(store, gateway, told=told) as seen, capture_logs() as logs:
            assert isinstance(seen.look(), Promote)
            assert seen.look() is None
    assert "somebody else moved first" in [event["event"] for event in logs]
    assert seen.stable.version == 1


def test_new_versions_begin_by_themselves_once(store):
    plan = RolloutPlan(shares=(0.1,), stage_s=0.0, min_requests=10)
    gateway = FakeGateway(store, failing=1.0)
    with gateway, watching(store, gateway, auto=plan) as seen:
        assert seen.look() is None
        assert (seen.canary.version, seen.canary.rollout.plan) == (2, plan)
        assert isinstance(seen.look(), Abort)
        # Given up is given up.
        assert seen.look() is None and seen.look() is None
        gateway.failing = 0.0
        publish(store, stored(store, 3), channel="canary")
        seen.look()
        assert isinstance(seen.look(), Promote)
    assert seen.stable.version == 3


def test_what_is_new_was_never_there_before(store):
    def new():
        return is_new(*(existing_channel(store, MODEL, name) for name in ("canary", "stable")))

    assert new()
    begin(store, MODEL, plan=PLAN)
    assert not new()
    abort(store, MODEL, reason="worse")
    publish(store, stored(store, 3), channel="canary")
    assert new()
    back = existing_channel(store, MODEL, "canary")
    store.move_channel(MODEL, "canary", 2, expected_revision=back.revision, reason="a person")
    assert not new()
    publish(store, stored(store, 4), channel="canary")
    assert new()
    rollback(store, MODEL, channel="canary", reason="no")
    assert not new()
    assert not is_new(None, existing_channel(store, MODEL, "stable"))


def test_a_rollout_begins_forward_and_not_over_a_hold(store):
    publish(store, stored(store, 3))
    with pytest.raises(FailedPrecondition, match="a rollout goes forward") as caught:
        start(store, MODEL, plan=PLAN)
    assert caught.value.reason == "NOT_NEWER"
    rollback(store, MODEL, reason="worse")
    with pytest.raises(FailedPrecondition, match="headrace channel set clicks stable 1") as caught:
        start(store, MODEL, plan=PLAN)
    assert caught.value.reason == "CHANNEL_HELD"
    with pytest.raises(NotFound):
        start(store, MODEL, plan=PLAN, against="live")


def test_trouble_is_told_once_and_its_end_too(store):
    begin(store, MODEL, plan=PLAN)
    gone = Unavailable("STORE_UNAVAILABLE", "the store sleeps")
    faulty = FaultyStore(store, [Fault("channels", gone, times=3)])
    with FakeGateway(store) as gateway, watching(faulty, gateway) as seen, capture_logs() as logs:
        for _ in range(4):
            seen.look()
    words = [event["event"] for event in logs]
    assert words.count("trouble: tried again at each look") == 1
    assert words.count("well again") == 1


def test_trouble_with_the_store_does_not_start_the_stage_anew(store):
    begin(store, MODEL, plan=PLAN)
    gone = Unavailable("STORE_UNAVAILABLE", "the store sleeps")
    faulty = FaultyStore(store)
    with FakeGateway(store) as gateway, watching(faulty, gateway) as seen:
        assert isinstance(seen.look(), Wait)
        for call in ("models", "channels", "channel"):
            faulty.add(Fault(call, gone, times=1))
            assert seen.look(after_s=0.0) is None
        assert isinstance(seen.look(), Advance)


def test_each_decision_is_logged_with_its_figures(store):
    begin(store, MODEL, plan=PLAN)
    with FakeGateway(store) as gateway, watching(store, gateway) as seen, capture_logs() as logs:
        for _ in range(3):
            seen.look()
    told = {event["event"]: event for event in logs}
    assert {"wait", "advance", "promote"} <= told.keys()
    assert told["advance"]["candidate"]["requests"] == 100
    assert told["advance"]["ready"] == "2/2"


def test_it_ends_when_it_is_told_to(store):
    begin(store, MODEL, plan=PLAN)
    stop = threading.Event()
    told = lambda _standing: stop.set()  # noqa: E731
    with FakeGateway(store) as gateway, watching(store, gateway, told=told) as seen:
        seen.passed_s = 0.0
        seen.controller.run(stop, poll_s=0.001)
    assert seen.canary.rollout.running


def test_a_name_stands_for_all_its_addresses():
    with FakeGateway() as gateway:
        port = gateway.address.rpartition(":")[2]
        asked = Gateways([f"dns:127.0.0.1:{port}", "dns:nowhere.invalid:1"])
        assert set(asked.rollout(MODEL)) == {gateway.address, "dns:nowhere.invalid:1"}
        asked.close()
    for wrong in ("localhost", "dns::1", "host:x", "host:70000"):
        with pytest.raises(InvalidArgument, match="expected host:port"):
            Gateways([wrong])
