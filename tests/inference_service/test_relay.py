"""Whom a replica asks for a blob: one tree for all, short, and around those that fail."""

from __future__ import annotations

from collections import Counter

import pytest

from inference_service.policy.relay import AVOID_S, GROUPS, MOST_TRIES, Relay

ADDRESSES = [f"10.0.{number // 250}.{number % 250}:8011" for number in range(200)]
BLOBS = [f"{number:02x}" + "0" * 62 for number in range(256)]


def relays(addresses: list[str], fanout: int = 4) -> dict[str, Relay]:
    made = {address: Relay(address, fanout=fanout) for address in addresses}
    for relay in made.values():
        relay.on_peers(addresses)
    return made


def parents(made: dict[str, Relay], blob: str, now: float = 0.0) -> dict[str, list[str]]:
    return {address: relay.sources(blob, now=now) for address, relay in made.items()}


def depth(asked: dict[str, list[str]], address: str) -> int:
    steps = 0
    while asked[address]:
        address = asked[address][0]
        steps += 1
        assert steps <= len(asked), "a circle"
    return steps


@pytest.mark.parametrize("fanout", [1, 2, 4, 8])
@pytest.mark.parametrize("count", [1, 2, 5, 200])
def test_one_asks_the_store_and_every_way_leads_to_it(fanout, count):
    made = relays(ADDRESSES[:count], fanout)
    asked = parents(made, BLOBS[7])
    assert sum(not sources for sources in asked.values()) == 1
    deepest = max(depth(asked, address) for address in asked)
    reachable, levels = 1, 0
    while reachable < count:
        levels += 1
        reachable += fanout**levels
    assert deepest == levels
    children = Counter(sources[0] for sources in asked.values() if sources)
    assert max(children.values(), default=0) <= fanout


def test_the_work_at_the_top_is_spread():
    made = relays(ADDRESSES)
    roots = {
        next(address for address, sources in parents(made, blob).items() if not sources)
        for blob in BLOBS[:GROUPS]
    }
    assert len(roots) > GROUPS // 2


def test_every_replica_sees_the_same_tree_whatever_the_order_of_its_list():
    one, other = Relay(ADDRESSES[0], fanout=4), Relay(ADDRESSES[0], fanout=4)
    one.on_peers(ADDRESSES)
    other.on_peers(reversed(ADDRESSES[1:]))
    assert [one.sources(blob, now=0) for blob in BLOBS] == [
        other.sources(blob, now=0) for blob in BLOBS
    ]


def test_one_peer_less_changes_few_parents():
    before = relays(ADDRESSES)
    after = relays(ADDRESSES[:-1])
    moved = sum(
        parents(before, BLOBS[1])[address] != parents(after, BLOBS[1])[address]
        for address in ADDRESSES[:20]
    )
    # Places behind the one that left move up by one.
    assert moved < 20


def test_a_peer_that_failed_is_passed_over_for_a_while():
    relay = relays(ADDRESSES)[ADDRESSES[3]]
    blob = next(blob for blob in BLOBS if len(relay.sources(blob, now=0)) == MOST_TRIES)
    first, second = relay.sources(blob, now=10.0)
    relay.on_failed(first, now=10.0)
    assert relay.sources(blob, now=10.1)[0] == second
    assert first not in relay.sources(blob, now=10.0 + AVOID_S - 0.01)
    assert relay.sources(blob, now=10.0 + AVOID_S)[0] == first


def test_where_all_ancestors_failed_the_store_is_asked():
    relay = Relay("b", fanout=1)
    relay.on_peers(["a"])
    blob = next(blob for blob in BLOBS if relay.sources(blob, now=0))
    relay.on_failed("a", now=0.0)
    assert relay.sources(blob, now=0.0) == []


def test_alone_it_asks_nobody():
    relay = Relay("a", fanout=4)
    assert relay.sources(BLOBS[0], now=0) == []
    relay.on_peers(["a"])
    assert relay.peers == frozenset()
    assert relay.sources(BLOBS[0], now=0) == []
