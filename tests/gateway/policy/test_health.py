"""The state machine of an endpoint, and that it never asks to be woken in the past."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.policy.health import FIRST_PROBE_S, MAX_PROBE_S, EndpointHealth, State


def health(interval_s: float = 1.0) -> EndpointHealth:
    return EndpointHealth(interval_s=interval_s, now=0.0)


def passed(core: EndpointHealth, now: float, *, ready: bool = True) -> State:
    assert core.take_check(now)
    core.on_check_passed(ready=ready, started_at=now, now=now)
    return core.state


def failed(core: EndpointHealth, now: float, *, silent: bool = False) -> State:
    assert core.take_check(now)
    core.on_check_failed("gone", silent=silent, started_at=now, now=now)
    return core.state


def healthy() -> EndpointHealth:
    core = health()
    passed(core, 0.0)
    return core


def test_it_is_asked_at_once_and_is_healthy_when_ready():
    core = health()
    assert core.state is State.UNKNOWN and not core.heard
    assert passed(core, 0.0) is State.HEALTHY
    assert core.heard
    assert core.next_wakeup() == 1.0


def test_one_that_starts_is_unknown_and_one_that_stops_is_draining():
    core = health()
    assert passed(core, 0.0, ready=False) is State.UNKNOWN
    assert passed(core, 1.0) is State.HEALTHY
    assert passed(core, 2.0, ready=False) is State.DRAINING
    assert passed(core, 3.0) is State.HEALTHY


def test_a_broken_stream_ejects_at_once_and_it_is_asked_soon():
    core = healthy()
    core.on_broken("reset", now=0.5)
    assert core.state is State.EJECTED
    assert core.next_wakeup() == 0.5 + FIRST_PROBE_S
    assert core.snapshot().error == "reset"
    assert passed(core, 0.6) is State.HEALTHY


def test_probes_grow_apart_up_to_a_bound_and_start_again():
    core = healthy()
    now, gaps = 1.0, []
    for _ in range(8):
        failed(core, now)
        gaps.append(core.next_wakeup() - now)
        now = core.next_wakeup()
    assert gaps == sorted(gaps) and gaps[-1] <= MAX_PROBE_S + 1e-9
    assert gaps[-1] > gaps[0]
    assert passed(core, now) is State.HEALTHY
    failed(core, now + 1.0)
    assert core.next_wakeup() - (now + 1.0) <= FIRST_PROBE_S + 1e-9


def test_silence_ejects_unless_something_was_heard_meanwhile():
    core = healthy()
    assert core.take_check(1.0)
    core.on_heard(now=1.5)
    core.on_check_failed("late", silent=True, started_at=1.0, now=2.0)
    assert core.state is State.HEALTHY
    assert core.next_wakeup() == 3.0
    assert failed(core, 3.0, silent=True) is State.EJECTED


def test_a_refused_connection_ejects_whatever_was_heard():
    core = healthy()
    assert core.take_check(1.0)
    core.on_heard(now=1.5)
    core.on_check_failed("refused", silent=False, started_at=1.0, now=2.0)
    assert core.state is State.EJECTED


def test_a_check_begun_before_an_ejection_does_not_end_it():
    core = healthy()
    assert core.take_check(1.0)
    core.on_broken("reset", now=1.1)
    core.on_check_passed(ready=True, started_at=1.0, now=1.2)
    assert core.state is State.EJECTED
    assert passed(core, core.next_wakeup()) is State.HEALTHY


def test_an_operator_drains_and_restores():
    core = healthy()
    core.on_drain_requested()
    assert core.state is State.DRAINING
    assert passed(core, 1.0) is State.DRAINING
    core.on_broken("reset", now=1.1)
    assert core.state is State.EJECTED
    assert passed(core, 1.3) is State.DRAINING, "a restart does not undo it"
    core.on_restore_requested()
    assert core.state is State.HEALTHY


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["pass", "unready", "fail", "silent", "break", "hear", "drain"]),
            st.floats(0.0, 2.0),
        ),
        max_size=40,
    )
)
@settings(max_examples=100, deadline=None)
def test_progress_law(steps):
    core = health(0.25)
    now, started_at = 0.0, None
    for step, span in steps:
        now += span
        if started_at is None and core.take_check(now):
            started_at = now
        wakeup = core.next_wakeup()
        assert wakeup is None or wakeup > now
        assert (wakeup is None) == (started_at is not None)
        if step == "break":
            core.on_broken("reset", now=now)
            assert core.state is State.EJECTED
        elif step == "hear":
            core.on_heard(now=now)
        elif step == "drain":
            core.on_drain_requested()
        elif started_at is not None:
            if step in ("pass", "unready"):
                core.on_check_passed(ready=step == "pass", started_at=started_at, now=now)
            else:
                core.on_check_failed("x", silent=step == "silent", started_at=started_at, now=now)
            started_at = None
        assert core.state is core.snapshot().state
