"""The order of a rollout's moves: a candidate begins, goes on, is promoted or given up.

Decides that publishers leave a candidate alone while its rollout runs, that a promotion moves the
other channel first and is finished by whoever repeats it, and that a channel somebody holds is not
moved unless a person says so. Each step is one compare-and-set; who lost it reads again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from chassis.errors import Aborted, FailedPrecondition
from chassis.failpoints import failpoint
from model_store.publication import existing_channel
from model_store.records import Channel
from model_store.rollout import Rollout, RolloutPlan, RolloutState
from model_store.store import Store

CANARY = "canary"
STABLE = "stable"
_ATTEMPTS = 20


def begin(
    store: Store,
    model: str,
    version: int = 0,
    *,
    plan: RolloutPlan,
    channel: str = CANARY,
    against: str = STABLE,
    reason: str = "rollout begins",
) -> Channel:
    """Makes `version`, or where it is 0 the one `channel` points to, the candidate.

    Raises NotFound (CHANNEL_NOT_FOUND, VERSION_NOT_FOUND), FailedPrecondition (ROLLOUT_RUNNING,
    NO_CANDIDATE), InvalidArgument (BAD_ROLLOUT, BAD_NAME, BAD_TEXT).
    """

    def move() -> Channel:
        current, base = store.channel(model, channel), existing_channel(store, model, against)
        if current is not None and current.rollout is not None and current.rollout.running:
            raise FailedPrecondition(
                "ROLLOUT_RUNNING",
                f"version {current.version} of model {model!r} is rolled out already: promote or "
                "abort it first",
            )
        chosen = version or (current.version if current is not None else 0)
        if chosen in (0, base.version) or channel == against:
            raise FailedPrecondition(
                "NO_CANDIDATE",
                f"channel {channel!r} of model {model!r} has no version other than the "
                f"{base.version} of {against!r}: publish one to it, or name one",
            )
        return store.move_channel(
            model,
            channel,
            chosen,
            expected_revision=current.revision if current is not None else 0,
            held=True,
            rollout=Rollout(against=against, plan=plan),
            reason=reason,
        )

    return _repeated(move, channel)


def advance(store: Store, seen: Channel, *, reason: str) -> Channel:
    """The next stage of the rollout in `seen`.

    Raises FailedPrecondition (NO_ROLLOUT), Aborted (CHANNEL_MOVED) if `seen` is not how it stands.
    """
    rollout = _running(seen)
    return _move(store, seen, replace(rollout, stage=rollout.stage + 1), held=True, reason=reason)


def promote(
    store: Store,
    model: str,
    *,
    channel: str = CANARY,
    seen: Channel | None = None,
    despite_hold: bool = False,
    reason: str,
) -> Channel:
    """Points the other channel to the candidate; returns that channel.

    With `seen` only while the candidate's channel stands as it says. `despite_hold` moves the
    other one though somebody holds it, and releases it. Repeating a call that was cut off
    completes it. Raises NotFound (CHANNEL_NOT_FOUND), FailedPrecondition (NO_ROLLOUT,
    CHANNEL_HELD, ROLLOUT_MOVED), Aborted (CHANNEL_MOVED).
    """

    def move() -> Channel:
        current = existing_channel(store, model, channel)
        if seen is not None and current.revision != seen.revision:
            raise FailedPrecondition("ROLLOUT_MOVED", _moved_words(seen, current))
        rollout = _running(current)
        base = existing_channel(store, model, rollout.against)
        if base.version != current.version:
            if base.held and not despite_hold:
                raise FailedPrecondition(
                    "CHANNEL_HELD",
                    f"channel {base.name!r} of model {model!r} is held at version {base.version}; "
                    "it takes a person to promote over that",
                )
            base = store.move_channel(
                model,
                base.name,
                current.version,
                expected_revision=base.revision,
                reason=reason,
            )
        failpoint("promote.between_channels")
        done = replace(rollout, state=RolloutState.PROMOTED)
        _move(store, current, done, held=False, reason=reason)
        return base

    return _repeated(move, channel)


def abort(
    store: Store, model: str, *, channel: str = CANARY, seen: Channel | None = None, reason: str
) -> Channel:
    """Gives the candidate up; what serves beside it never knew. Returns the candidate's channel.

    Raises NotFound (CHANNEL_NOT_FOUND), FailedPrecondition (NO_ROLLOUT, ROLLOUT_MOVED), Aborted
    (CHANNEL_MOVED).
    """

    def move() -> Channel:
        current = existing_channel(store, model, channel)
        if seen is not None and current.revision != seen.revision:
            raise FailedPrecondition("ROLLOUT_MOVED", _moved_words(seen, current))
        done = replace(_running(current), state=RolloutState.ABORTED)
        return _move(store, current, done, held=False, reason=reason)

    return _repeated(move, channel)


def _move(store: Store, seen: Channel, rollout: Rollout, *, held: bool, reason: str) -> Channel:
    return store.move_channel(
        seen.model,
        seen.name,
        seen.version,
        expected_revision=seen.revision,
        held=held,
        rollout=rollout,
        reason=reason,
    )


def _repeated(move: Callable[[], Channel], channel: str) -> Channel:
    for _ in range(_ATTEMPTS):
        try:
            return move()
        except Aborted:
            continue
    raise Aborted("CHANNEL_MOVED", f"channel {channel!r} moved at each of {_ATTEMPTS} attempts")


def _running(channel: Channel) -> Rollout:
    rollout = channel.rollout
    if rollout is None or not rollout.running:
        state = "was none" if rollout is None else f"was {rollout.state}"
        raise FailedPrecondition(
            "NO_ROLLOUT",
            f"no rollout of model {channel.model!r} runs on channel {channel.name!r}: the last one "
            f"{state}",
        )
    return rollout


def _moved_words(seen: Channel, current: Channel) -> str:
    return (
        f"channel {seen.name!r} of model {seen.model!r} is at revision {current.revision}, not "
        f"{seen.revision}: read it again"
    )
