"""How rollouts begin: by a person's word, or by a version that was published to be tried.

Decides that a rollout only goes forward, never over a hold, and that no version is tried twice
without a person's word. The moves are `model_store.promotion`'s.
"""

from __future__ import annotations

from chassis.errors import FailedPrecondition
from model_store.promotion import CANARY, STABLE, begin
from model_store.publication import existing_channel
from model_store.records import Channel
from model_store.rollout import RolloutPlan
from model_store.store import Store


def start(
    store: Store,
    model: str,
    version: int = 0,
    *,
    plan: RolloutPlan,
    channel: str = CANARY,
    against: str = STABLE,
    reason: str = "rollout begins",
) -> Channel:
    """Begins a rollout of `version`, or where it is 0 of the one that `channel` points to.

    Raises what `promotion.begin` raises, and FailedPrecondition (CHANNEL_HELD, NOT_NEWER) where
    the rollout would be given up at once.
    """
    base = existing_channel(store, model, against)
    if base.held:
        raise FailedPrecondition(
            "CHANNEL_HELD",
            f"channel {against!r} of model {model!r} is held at version {base.version}: release it "
            f"with `headrace channel set {model} {against} {base.version}`, then begin",
        )
    current = store.channel(model, channel)
    chosen = version or (current.version if current is not None else 0)
    if 0 < chosen < base.version:
        raise FailedPrecondition(
            "NOT_NEWER",
            f"version {chosen} of model {model!r} is older than {base.version}, where channel "
            f"{against!r} is: a rollout goes forward; `headrace rollback` goes back",
        )
    return begin(store, model, version, plan=plan, channel=channel, against=against, reason=reason)


def is_new(candidate: Channel | None, base: Channel | None) -> bool:
    """Whether `candidate` points to a version that nobody has judged yet, newer than `base`'s.

    A version that the channel stood at before was tried, or was there before rollouts were.
    """
    if candidate is None or base is None or candidate.rollout is not None:
        return False
    if candidate.held or base.held or candidate.version <= base.version:
        return False
    return all(move.version != candidate.version for move in candidate.history[:-1])
