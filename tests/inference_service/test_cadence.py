"""When publications are overdue, when a trainer was replaced, and when neither may be said."""

from __future__ import annotations

import pytest

from inference_service.policy.cadence import LEAST_S, OVERDUE, REPLACED, TOLD_S, Cadence
from model_store.records import Channel, ChannelMove

# Of the publishers' clock, which is not ours.
ORIGIN_MS = 5_000_000


def channel(*published_at_s, epoch=1, reason="publish", held=False, name="stable"):
    """One whose versions were published at these seconds of the trainer's clock."""
    moves = tuple(
        ChannelMove(number, number, round(ORIGIN_MS + at_s * 1000), reason, epoch)
        for number, at_s in enumerate(published_at_s, start=1)
    )
    return Channel("m", name, len(moves), len(moves), epoch, held, moves)


def reason_at(cadence, now):
    found = cadence.irregularity(now=now)
    return "" if found is None else found.reason


@pytest.mark.parametrize(
    ("times_s", "bound_s"),
    [((0, 0.2, 0.4, 0.6), LEAST_S), ((0, 10, 25, 30), 45.0), ((0, 1, 2, 3, 4, 5), 3.0)],
)
def test_a_silence_three_times_the_longest_is_overdue(times_s, bound_s):
    cadence = Cadence()
    cadence.on_channel(channel(*times_s), now=100.0)
    assert reason_at(cadence, 100.0 + bound_s) == ""
    assert reason_at(cadence, 100.1 + bound_s) == OVERDUE


def test_what_is_overdue_names_the_version_and_the_habit():
    cadence = Cadence()
    cadence.on_channel(channel(0, 0.4, 0.8, 1.3), now=0.0)
    assert str(cadence.irregularity(now=12.2)) == (
        "PUBLICATIONS_OVERDUE: no version was published since version 4, 12 s ago; until then at "
        "most 0.5 s lay between two"
    )


def test_the_next_version_ends_it():
    cadence = Cadence()
    cadence.on_channel(channel(0, 1, 2, 3), now=0.0)
    assert reason_at(cadence, 50.0) == OVERDUE
    cadence.on_channel(channel(0, 1, 2, 3, 53), now=50.0)
    assert reason_at(cadence, 50.0) == ""


@pytest.mark.parametrize(
    "seen",
    [
        channel(0, 1, 2),
        channel(0, 1, 2, 3, reason="an operator's words"),
        channel(0, 1, 2, 3, held=True),
        channel(),
    ],
    ids=["three versions are no habit", "nobody published", "held", "no history"],
)
def test_silence_that_says_nothing(seen):
    cadence = Cadence()
    cadence.on_channel(seen, now=0.0)
    assert reason_at(cadence, 1e6) == ""


def test_without_a_channel_nothing_is_unusual():
    cadence = Cadence()
    assert reason_at(cadence, 1e6) == ""
    cadence.on_channel(channel(0, 1, 2, 3), now=0.0)
    cadence.on_channel(None, now=1.0)
    assert reason_at(cadence, 1e6) == ""


def test_what_older_programs_wrote_counts_for_no_trainer():
    moves = tuple(
        ChannelMove(number, number, ORIGIN_MS + number, "publish") for number in (1, 2, 3, 4)
    )
    cadence = Cadence()
    cadence.on_channel(Channel("m", "stable", 4, 4, 9, False, moves), now=0.0)
    assert reason_at(cadence, 1e6) == ""


def test_a_new_trainer_begins_a_habit_of_its_own():
    cadence = Cadence()
    cadence.on_channel(channel(0, 0.1, 0.2, 0.3), now=0.0)
    cadence.on_channel(channel(100, epoch=2), now=100.0)
    assert reason_at(cadence, 1e6) == ""


def test_a_trainer_that_comes_between_is_told_for_a_while():
    cadence = Cadence()
    cadence.on_channel(channel(0, 0.1, 0.2, 0.3, epoch=6), now=0.0)
    cadence.on_channel(channel(0.5, epoch=7), now=0.25)
    assert str(cadence.irregularity(now=1.0)) == (
        "TRAINER_REPLACED: the trainer of epoch 7 took over 0.25 s after that of epoch 6 had "
        "published: it was restarted, or two train at once"
    )
    assert reason_at(cadence, 0.25 + TOLD_S) == REPLACED
    assert reason_at(cadence, 0.3 + TOLD_S) == ""


@pytest.mark.parametrize(
    ("before", "silent_s"),
    [(channel(0, 0.1, 0.2, 0.3), LEAST_S + 0.1), (channel(0, 0.1), 0.1)],
    ids=["the one before was silent", "the one before had no habit"],
)
def test_a_trainer_that_follows_another_is_nothing_unusual(before, silent_s):
    cadence = Cadence()
    cadence.on_channel(before, now=0.0)
    cadence.on_channel(channel(1, epoch=2), now=silent_s)
    assert reason_at(cadence, silent_s) == ""


def test_another_channel_has_other_trainers():
    cadence = Cadence()
    cadence.on_channel(channel(0, 0.1, 0.2, 0.3), now=0.0)
    cadence.on_channel(channel(0.4, epoch=2, name="beta"), now=0.1)
    assert reason_at(cadence, 0.2) == ""
