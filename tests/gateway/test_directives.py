"""Who is told what of a model, and what is withheld meanwhile: bare numbers, no clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.directives import FIRST_PAUSE_S, LONGEST_PAUSE_S, Directive, Directives

PINNED = Directive(1, "m", True, version=7)
UNLOADED = Directive(2, "m", False)


def joined(*addresses: str) -> Directives:
    directives = Directives()
    for address in addresses:
        directives.on_joined(address)
    return directives


def test_nothing_is_due_where_nothing_was_said():
    assert joined("a").take_due("a", now=0.0) == []
    assert joined("a").withheld("a") == frozenset()


def test_an_endpoint_is_told_once():
    directives = joined("a", "b")
    directives.on_given(PINNED)
    directives.on_applied("a", PINNED)
    assert directives.take_due("a", now=0.0) == []
    assert directives.take_due("b", now=0.0) == [PINNED]
    assert directives.take_due("b", now=1e9) == [], "under way"
    directives.on_applied("b", PINNED)
    assert directives.take_due("b", now=1e9) == []


def test_one_that_returns_is_told_again_and_not_used_until_it_did_it():
    directives = joined("a")
    directives.on_given(PINNED)
    directives.on_applied("a", PINNED)
    assert directives.withheld("a") == frozenset()
    directives.on_joined("a")
    assert directives.withheld("a") == {"m"}
    assert directives.take_due("a", now=0.0) == [PINNED]
    assert directives.withheld("a") == {"m"}
    directives.on_applied("a", PINNED)
    assert directives.withheld("a") == frozenset()


def test_one_that_could_not_is_used_as_it_is_and_told_again_with_growing_pauses():
    directives, now, pauses = joined("a"), 0.0, []
    directives.on_given(PINNED)
    for _ in range(7):
        assert directives.take_due("a", now=now) == [PINNED]
        assert directives.next_wakeup("a") is None
        directives.on_failed("a", PINNED, now=now)
        assert directives.withheld("a") == frozenset()
        assert directives.take_due("a", now=now) == []
        wakeup = directives.next_wakeup("a")
        pauses.append(wakeup - now)
        now = wakeup
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (FIRST_PAUSE_S, LONGEST_PAUSE_S)


def test_an_unloaded_model_is_withheld_whatever_the_endpoint_does():
    directives = joined("a")
    directives.on_given(UNLOADED)
    assert directives.unloaded() == {"m"}
    directives.on_failed("a", UNLOADED, now=0.0)
    assert directives.withheld("a") == {"m"}
    directives.on_given(Directive(3, "m", True))
    directives.on_applied("a", Directive(3, "m", True))
    assert directives.unloaded() == frozenset()
    assert directives.withheld("a") == frozenset()


def test_what_was_overtaken_under_way_is_followed_by_what_stands():
    directives = joined("a")
    directives.on_given(PINNED)
    assert directives.take_due("a", now=0.0) == [PINNED]
    directives.on_given(UNLOADED)
    assert directives.take_due("a", now=0.0) == [], "one at a time"
    directives.on_applied("a", PINNED)
    assert directives.take_due("a", now=0.0) == [UNLOADED]


def test_one_that_left_is_forgotten():
    directives = joined("a")
    directives.on_given(PINNED)
    directives.on_left("a")
    assert directives.take_due("a", now=0.0) == []
    directives.on_applied("a", PINNED)
    directives.on_joined("a")
    assert directives.take_due("a", now=0.0) == [PINNED]


@given(
    facts=st.lists(
        st.tuples(
            st.sampled_from(["give", "apply", "fail", "join", "leave", "wait"]),
            st.sampled_from("ab"),
            st.sampled_from("mn"),
            st.booleans(),
        ),
        max_size=60,
    )
)
def test_progress_after_draining_the_next_wakeup_lies_ahead(facts):
    directives, now, number = joined("a"), 0.0, 0
    under_way: list[tuple[str, Directive]] = []
    for fact, address, model, loaded in facts:
        now += 2.0
        if fact == "give":
            number += 1
            directives.on_given(Directive(number, model, loaded))
        elif fact == "join":
            directives.on_joined(address)
            under_way = [item for item in under_way if item[0] != address]
        elif fact == "leave":
            directives.on_left(address)
            under_way = [item for item in under_way if item[0] != address]
        elif fact in ("apply", "fail") and under_way:
            told, directive = under_way.pop(0)
            if fact == "apply":
                directives.on_applied(told, directive)
            else:
                directives.on_failed(told, directive, now=now)
        for each in "ab":
            taken = directives.take_due(each, now=now)
            under_way += [(each, directive) for directive in taken]
            assert directives.take_due(each, now=now) == []
            wakeup = directives.next_wakeup(each)
            assert wakeup is None or wakeup > now
            assert directives.withheld(each) >= directives.unloaded()
        told_of = [(told, directive.model) for told, directive in under_way]
        assert len(told_of) == len(set(told_of)), "one at a time"
