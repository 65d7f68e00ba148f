"""Whom a replica asks for a blob, so that however many there are the store is asked once.

The peers of a blob stand in a tree with `fanout` children each: everybody asks the parent, the root
asks the store. Every replica computes the same tree from the same list: peers are ordered by a
digest of their address and of the blob's group (rendezvous hashing, Thaler and Ravishankar 1998),
so that the work at the top is spread over all and a peer more or less moves few others. A peer
that failed is passed over for a while: its children ask its parent, the root's ask the store.
"""

from __future__ import annotations

from collections.abc import Collection
from hashlib import blake2b

# Blobs of one group share a tree; as many as keep the work at the top spread.
GROUPS = 16
# Seconds for which a peer that failed is not asked.
AVOID_S = 5.0
# Ancestors asked before the store: behind several dead ones it is nearer.
MOST_TRIES = 2


class Relay:
    """`own` is this replica's address as its peers know it; not thread-safe."""

    def __init__(self, own: str, *, fanout: int) -> None:
        self._own = own
        self._fanout = fanout
        self._peers: frozenset[str] = frozenset()
        self._orders: dict[int, list[str]] = {}
        self._avoided_until: dict[str, float] = {}

    @property
    def peers(self) -> frozenset[str]:
        """Everybody else."""
        return self._peers

    def on_peers(self, addresses: Collection[str]) -> None:
        """The list as it is now; whether it holds this replica does not matter."""
        peers = frozenset(addresses) - {self._own}
        if peers != self._peers:
            self._peers = peers
            self._orders.clear()

    def on_failed(self, peer: str, *, now: float) -> None:
        """It did not answer, or not as it should."""
        self._avoided_until = {
            address: until for address, until in self._avoided_until.items() if until > now
        }
        self._avoided_until[peer] = now + AVOID_S

    def sources(self, digest_hex: str, *, now: float) -> list[str]:
        """Whom to ask in turn before the store; nobody for the root of the blob's tree."""
        order = self.order(digest_hex)
        place = order.index(self._own)
        found: list[str] = []
        while place and len(found) < MOST_TRIES:
            place = (place - 1) // self._fanout
            if self._avoided_until.get(order[place], now) <= now:
                found.append(order[place])
        return found

    def order(self, digest_hex: str) -> list[str]:
        """The tree of a blob: its root, the root's children, theirs."""
        group = int(digest_hex[:2], 16) % GROUPS
        order = self._orders.get(group)
        if order is None:
            key = group.to_bytes(1, "big")
            order = sorted(
                (*self._peers, self._own),
                key=lambda address: blake2b(address.encode(), key=key, digest_size=8).digest(),
            )
            self._orders[group] = order
        return order
