"""Balance: least loaded first, ties in rotation, never beyond the bound."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.policy.balance import Balance

ANY = frozenset[int]()


def balance(*addresses: str, max_inflight: int = 2, model: str = "m") -> Balance:
    core = Balance(max_inflight=max_inflight)
    for address in addresses:
        core.on_endpoint(address, {model: ANY}, now=0.0)
    return core


def send(core: Balance, **wish) -> str:
    address = core.pick("m", **wish)
    assert address is not None
    core.on_sent(address)
    return address


def test_ties_rotate():
    core = balance("a", "b", "c", max_inflight=100)
    assert Counter(send(core) for _ in range(30)) == {"a": 10, "b": 10, "c": 10}
    lonely = balance("a", "b", max_inflight=1)
    picks = []
    for _ in range(4):
        picks.append(send(lonely))
        lonely.on_ended(picks[-1])
    assert picks == ["a", "b", "a", "b"]


def test_the_least_loaded_is_picked_until_all_are_full():
    core = balance("a", "b")
    core.on_sent("a")
    assert send(core) == "b"
    assert {send(core), send(core)} == {"a", "b"}
    assert core.pick("m") is None
    assert not core.has_room()
    core.on_ended("b")
    assert core.pick("m") == "b"


def test_only_endpoints_that_serve_the_model():
    core = balance("a")
    core.on_endpoint("b", {"other": ANY}, now=0.0)
    assert core.pick("m") == "a"
    assert core.pick("m", avoid={"a"}) is None
    assert core.pick("unknown") is None
    assert core.has_candidate("m") and not core.has_candidate("m", {"a"})


def test_a_pinned_version_goes_where_it_is_else_anywhere():
    core = Balance(max_inflight=1)
    core.on_endpoint("a", {"m": frozenset({1})}, now=0.0)
    core.on_endpoint("b", {"m": frozenset({2})}, now=0.0)
    assert core.pick("m", 2) == "b"
    core.on_sent("b")
    assert core.pick("m", 2) is None, "its holder is full: wait, do not ask where it is not"
    assert core.pick("m", 3) == "a"


def test_it_knows_since_when_a_model_is_unserved():
    core = balance("a", "b")
    core.on_endpoint("a", {}, now=1.0)
    assert core.unserved_since("m") is None
    core.on_removed("b", now=2.0)
    assert core.unserved_since("m") == 2.0
    core.on_endpoint("a", {}, now=3.0)
    assert core.unserved_since("m") == 2.0
    core.on_endpoint("a", {"m": ANY}, now=4.0)
    assert core.unserved_since("m") is None
    assert core.unserved_since("never seen") is None


def test_snapshot():
    core = balance("a", "b")
    core.on_sent("b")
    assert core.snapshot().inflight == {"a": 0, "b": 1}
    assert core.snapshot().serving == {"m": ("a", "b")}
    assert core.inflight("b") == 1 and core.inflight("gone") == 0


@given(
    st.lists(st.sampled_from(["send", "end", "eject", "heal"]), max_size=80),
    st.integers(1, 3),
    st.randoms(use_true_random=False),
)
@settings(max_examples=80, deadline=None)
def test_loads_stay_level_and_bounded(steps, bound, random):
    core = balance("a", "b", "c", max_inflight=bound)
    loads = Counter({"a": 0, "b": 0, "c": 0})
    healthy = {"a", "b", "c"}
    for step in steps:
        address = random.choice("abc")
        if step == "send":
            picked = core.pick("m")
            free = [each for each in healthy if loads[each] < bound]
            assert (picked is None) == (not free)
            if picked is not None:
                assert loads[picked] == min(loads[each] for each in free)
                core.on_sent(picked)
                loads[picked] += 1
        elif step == "end" and loads[address]:
            core.on_ended(address)
            loads[address] -= 1
        elif step == "eject":
            healthy.discard(address)
            core.on_endpoint(address, {}, now=0.0)
        elif step == "heal":
            healthy.add(address)
            core.on_endpoint(address, {"m": ANY}, now=0.0)
        assert core.snapshot().inflight == loads
        assert max(loads.values()) <= bound


def test_open_endpoints_come_in_rotation_with_their_load():
    core = balance("a", "b", "c")
    core.on_sent("a")
    core.on_sent("b")
    core.on_sent("b")
    assert list(core.open("m", 0, ())) == [(0, "c"), (1, "a")]
    assert list(core.open("m", 0, {"c"})) == [(1, "a")]
    assert set(core.serving("m")) == set(core.addresses()) == {"a", "b", "c"}
