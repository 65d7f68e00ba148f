"""Who is on trial, as endpoints tell it a moment apart, and whose requests it gets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.balance import Balance
from gateway.policy.rollout import Candidate, Holding, Rollouts


def candidate(revision: int = 1, *, version: int = 2, share: float = 0.5) -> Candidate:
    return Candidate(version, revision, 0, share, 0.0)


def holding(*versions: int, tried: Candidate | None = None, heard: int = 0) -> dict[str, Holding]:
    return {"m": Holding(frozenset(versions), tried, heard)}


def test_the_newest_stage_that_any_endpoint_names_counts() -> None:
    core = Rollouts()
    core.on_endpoint("a", holding(1, 2, tried=candidate(4)))
    core.on_endpoint("b", holding(1, 2, tried=candidate(5, share=0.6)))
    core.on_endpoint("c", holding(1))
    # Of the share of a whole fleet those have their part that can answer.
    assert core.current("m") == candidate(5, share=0.6 * 2 / 3)
    assert core.endpoints("m") == (3, 2)
    assert core.current("other") is None


def test_an_end_that_was_heard_of_is_never_forgotten() -> None:
    core = Rollouts()
    core.on_endpoint("a", holding(1, 2, tried=candidate(4)))
    assert core.current("m") == candidate(4)
    core.on_endpoint("b", holding(1, heard=5))
    assert core.current("m") is None
    # Nor by whoever heard of it, nor by one that is cut off and still names it.
    core.on_endpoint("b", {})
    core.on_endpoint("a", {})
    core.on_endpoint("a", holding(1, 2, tried=candidate(4)))
    assert core.current("m") is None
    core.on_endpoint("a", holding(1, 2, tried=candidate(6)))
    assert core.current("m") == candidate(6)


def test_who_holds_it_for_another_reason_ends_nothing() -> None:
    core = Rollouts()
    core.on_endpoint("a", holding(1, 2, tried=candidate(4)))
    core.on_endpoint("b", holding(2, heard=4))
    assert core.current("m") == candidate(4)
    core.on_endpoint("a", {})
    assert core.current("m") is None


def test_a_share_of_nothing_and_of_everything() -> None:
    assert not candidate(share=0.0).takes("", 0.0)
    assert not candidate(share=0.0).takes("someone", 0.0)
    assert candidate(share=1.0).takes("", 0.999)
    assert candidate(share=1.0).takes("someone", 0.999)


@given(
    st.lists(st.text(min_size=1), min_size=1, max_size=50),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_a_session_stays_as_the_share_grows(
    sessions: list[str], share: float, other: float
) -> None:
    small, large = (candidate(share=each) for each in sorted((share, other)))
    for session in sessions:
        assert small.takes(session, 0.3) == small.takes(session, 0.9)
        assert large.takes(session, 0.5) or not small.takes(session, 0.5)


def test_sessions_are_spread_by_the_version_too() -> None:
    names = [f"user-{number}" for number in range(2000)]
    first = {name for name in names if candidate(version=2).takes(name, 0.0)}
    second = {name for name in names if candidate(version=3).takes(name, 0.0)}
    assert 900 < len(first) < 1100
    assert 400 < len(first & second) < 600


def served(*addresses: str) -> Balance:
    balance = Balance(max_inflight=2)
    for address in addresses:
        balance.on_endpoint(address, {"m": frozenset({1})}, now=0.0)
    return balance


def opened(balance: Balance, version: int = 0) -> set[str]:
    return {address for _, address in balance.open("m", version, ())}


def test_only_the_newest_revision_gets_what_is_not_pinned() -> None:
    balance = served("a", "b", "c")
    assert opened(balance) == {"a", "b", "c"}
    assert balance.on_revision("a", "m", 3)
    assert opened(balance) == {"a"}
    assert sorted(balance.behind("m")) == ["b", "c"]
    # Known already, older, of an endpoint or a model that is not there: no news.
    assert not balance.on_revision("a", "m", 3)
    assert not balance.on_revision("b", "m", 2)
    assert not balance.on_revision("x", "m", 9)
    assert not balance.on_revision("a", "other", 9)
    assert not balance.on_revision("b", "m", 3)
    assert opened(balance) == {"a", "b"}
    assert opened(balance, version=1) == {"a", "b", "c"}


def test_what_is_behind_is_nowhere_to_go_unless_it_is_asked_for() -> None:
    balance = served("a", "b")
    balance.on_revision("a", "m", 2)
    assert not balance.has_candidate("m", {"a"})
    assert balance.has_candidate("m", {"a"}, 1)
    # One that is told a version has no revision any more.
    balance.on_no_revision("a", "m")
    assert opened(balance) == {"a", "b"}
    assert balance.unserved_since("m") is None


def test_the_newest_revision_leaves_with_the_last_endpoint_that_has_it() -> None:
    balance = served("a", "b")
    balance.on_revision("a", "m", 2)
    balance.on_revision("b", "m", 1)
    balance.on_endpoint("a", {}, now=1.0)
    assert opened(balance) == {"b"}
    assert balance.unserved_since("m") is None
    balance.on_endpoint("a", {"m": frozenset({1})}, now=2.0)
    # It came back, perhaps with an older version: it has to say so again.
    assert opened(balance) == {"b"}
    balance.on_revision("a", "m", 2)
    balance.on_removed("a", now=3.0)
    assert opened(balance) == {"b"}
