"""Collections as tests run them: with a present of their own, so nobody waits for the grace."""

from __future__ import annotations

from chassis.clock import wall_time_ms
from model_store import Store
from model_store.collection import LEAST_GRACE_S, Collected, Collection, Wish

HOUR_MS = 3600 * 1000


def collected(store: Store, *, keep: int = 10, dry_run: bool = False) -> Collected:
    """A collection hours from now: everything there is is older than the grace."""
    wish = Wish(keep=keep, dry_run=dry_run)
    return Collection(store, wish, wall_time_ms() + 2 * HOUR_MS).run()


def collected_beside(store: Store, *, keep: int, grace_ms: int) -> Collected:
    """A collection with so short a grace as no operator may set."""
    wish = Wish(keep=keep, grace_s=LEAST_GRACE_S)
    return Collection(store, wish, wall_time_ms() + round(LEAST_GRACE_S * 1000) - grace_ms).run()


def blobs_of(store: Store) -> set[str]:
    return {blob.digest for blob in store.blobs()}


def named_by(store: Store) -> set[str]:
    """What the versions left name."""
    return {
        digest
        for model in store.models()
        for version in store.versions(model)
        for digest in store.manifest(model, version).digests()
    }
