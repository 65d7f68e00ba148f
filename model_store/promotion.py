"""The order of a rollout's moves: a candidate begins, goes on, is promoted or given up.

Decides that publishers leave a candidate alone while its rollout runs, that a channel somebody
holds, or that stands at a newer version, is not moved unless a person says so, and that a promotion
is three steps which whoever repeats it completes: the candidate's channel says from which revision
the other one will move, that one moves, the candidate's says that it did. Each step is one
compare-and-set; who lost it reads again.
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

    Raises FailedPrecondition (NO_ROLLOUT, PROMOTION_BEGUN), Aborted (CHANNEL_MOVED) if `seen` is
    not how it stands.
    """
    rollout = _running(seen)
    if rollout.promoting:
        raise FailedPrecondition(
            "PROMOTION_BEGUN",
            f"version {seen.version} of model {seen.model!r} is being promoted: no stage follows",
        )
    return _move(store, seen, replace(rollout, stage=rollout.stage + 1), held=True, reason=reason)


def promote(
    store: Store,
    model: str,
    *,
    channel: str = CANARY,
    seen: Channel | None = None,
    despite_hold: bool = False,
    despite_newer: bool = False,
    reason: str,
) -> Channel:
    """Points the other channel to the candidate; returns that channel.

    With `seen` only while the candidate's channel stands as it says. `despite_hold` moves the
    other one though somebody holds it, and releases it; `despite_newer` though it stands at a newer
    version. Repeating a call that was cut off completes it, as it was allowed then.
    Raises NotFound (CHANNEL_NOT_FOUND), FailedPrecondition (NO_ROLLOUT, CHANNEL_HELD, NOT_NEWER,
    ROLLOUT_MOVED), Aborted (CHANNEL_MOVED).
    """

    def move() -> Channel:
        current = _as_seen(store, model, channel, seen)
        rollout = _running(current)
        base = existing_channel(store, model, rollout.against)
        if not was_promoted(current.version, rollout, base):
            if not promotion_pending(rollout, base):
                _check_promotable(current, base, despite_hold, despite_newer)
                current, rollout = _begin_promotion(store, current, rollout, base, reason)
            failpoint("promote.begun")
            base = store.move_channel(
                model,
                base.name,
                current.version,
                expected_revision=rollout.base_revision,
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

    Raises NotFound (CHANNEL_NOT_FOUND), FailedPrecondition (NO_ROLLOUT, ROLLOUT_MOVED,
    ALREADY_PROMOTED, PROMOTION_BEGUN), Aborted (CHANNEL_MOVED).
    """

    def move() -> Channel:
        current = _as_seen(store, model, channel, seen)
        rollout = _running(current)
        _check_abortable(current, rollout, store.channel(model, rollout.against))
        done = replace(rollout, state=RolloutState.ABORTED)
        return _move(store, current, done, held=False, reason=reason)

    return _repeated(move, channel)


def promotion_pending(rollout: Rollout, base: Channel) -> bool:
    """Whether the other channel, `base`, stands where the promotion that began will move it.

    Once it moved otherwise that promotion never will: its compare-and-set is of that revision.
    """
    return rollout.promoting and base.revision == rollout.base_revision


def was_promoted(version: int, rollout: Rollout, base: Channel) -> bool:
    """Whether the other channel, `base`, moved to the candidate `version`, by this or by hand.

    It may have moved on since: its history tells, as far as it goes back.
    """
    if base.version == version:
        return True
    moved = rollout.base_revision + 1
    return rollout.promoting and any(
        (move.revision, move.version) == (moved, version) for move in base.history
    )


def _begin_promotion(
    store: Store, current: Channel, rollout: Rollout, base: Channel, reason: str
) -> tuple[Channel, Rollout]:
    """Says first from where the other channel will be moved: until it is, nobody gives up what may
    serve already, and a move of that channel in between is seen to have won."""
    begun = replace(rollout, state=RolloutState.PROMOTING, base_revision=base.revision)
    return _move(store, current, begun, held=True, reason=reason), begun


def _check_promotable(
    current: Channel, base: Channel, despite_hold: bool, despite_newer: bool
) -> None:
    if base.held and not despite_hold:
        raise FailedPrecondition(
            "CHANNEL_HELD",
            f"channel {base.name!r} of model {base.model!r} is held at version {base.version}; "
            "it takes a person to promote over that",
        )
    if base.version > current.version and not despite_newer:
        raise FailedPrecondition(
            "NOT_NEWER",
            f"channel {base.name!r} of model {base.model!r} is at version {base.version}, newer "
            f"than the candidate {current.version}; it takes a person to promote over that",
        )


def _check_abortable(current: Channel, rollout: Rollout, base: Channel | None) -> None:
    if base is None:
        return
    where = f"channel {base.name!r} of model {base.model!r}"
    # One that left it again, as by a rollback, is given up: it must not keep its share.
    if base.version == current.version:
        raise FailedPrecondition(
            "ALREADY_PROMOTED",
            f"{where} is at version {current.version} already: `headrace rollback` goes back",
        )
    if promotion_pending(rollout, base):
        raise FailedPrecondition(
            "PROMOTION_BEGUN",
            f"{where} is about to move to version {current.version}: `headrace rollback` goes back "
            "or, if nobody promotes any more, repeat `headrace rollout promote` first",
        )


def _as_seen(store: Store, model: str, channel: str, seen: Channel | None) -> Channel:
    """The channel, if it stands as in `seen`."""
    current = existing_channel(store, model, channel)
    if seen is not None and current.revision != seen.revision:
        raise FailedPrecondition("ROLLOUT_MOVED", _moved_words(seen, current))
    return current


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
