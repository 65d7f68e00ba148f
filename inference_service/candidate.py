"""The candidate of a rollout as a replica sees it: which version, and how much it gets to do.

Decides when a channel's version is one: while its rollout runs against the channel followed here.
Loading it is `policy.pursuit`'s and the loader's affair, sending it requests a gateway's.
"""

from __future__ import annotations

from dataclasses import dataclass

from model_store.records import Channel


@dataclass(frozen=True, slots=True)
class Candidate:
    """`share` and `shadow` are parts of the requests, 0 to 1; `revision` is its channel's and grows
    with each `stage`, which counts from 0; `metric` names the scores it is judged by, if any."""

    version: int
    revision: int
    share: float
    shadow: float
    stage: int
    metric: str = ""


def candidate_of(channel: Channel | None, *, against: str) -> Candidate | None:
    """The candidate that `channel` holds beside the channel `against`; None where none is."""
    rollout = None if channel is None else channel.rollout
    if channel is None or rollout is None or not rollout.running or rollout.against != against:
        return None
    return Candidate(
        channel.version,
        channel.revision,
        rollout.share,
        rollout.shadow,
        rollout.stage,
        rollout.plan.metric,
    )
