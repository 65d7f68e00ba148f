"""What the collector wants to keep, decided without a store."""

from __future__ import annotations

from model_store.records import Channel, ChannelMove, Lease
from model_store.retention import Line, retained


def channel(name: str, *past: int) -> Channel:
    moves = tuple(ChannelMove(version, at, 0, "x") for at, version in enumerate(past, start=1))
    return Channel("clicks", name, past[-1], len(past), 0, False, moves)


def made(count: int) -> dict[int, int | None]:
    """Versions 1 to `count`, made at 100, 200, ..."""
    return {version: version * 100 for version in range(1, count + 1)}


def test_the_newest_stay() -> None:
    kept = retained(Line([], [], made(5)), keep=2, since_ms=10_000)
    assert kept == {4: "one of the newest 2", 5: "one of the newest 2"}


def test_nothing_is_kept_for_its_number_where_none_is_wanted() -> None:
    assert retained(Line([], [], made(5)), keep=0, since_ms=10_000) == {}


def test_the_young_stay() -> None:
    assert retained(Line([], [], made(5)), keep=0, since_ms=400).keys() == {4, 5}


def test_channels_and_leases_stay() -> None:
    line = Line([channel("stable", 2, 4, 6), channel("canary", 1)], [Lease(3, "host", 0)], made(8))
    kept = retained(line, keep=1, since_ms=10_000)
    assert kept == {
        1: "channel canary points to it",
        3: "leased by host",
        4: "a rollback of channel stable would reach it",
        6: "channel stable points to it",
        8: "one of the newest 1",
    }


def test_a_rollback_reaches_over_what_is_gone() -> None:
    versions = {version: at for version, at in made(6).items() if version not in (4, 5)}
    line = Line([channel("stable", 1, 2, 4, 5, 6)], [], versions)
    assert retained(line, keep=0, since_ms=10_000).keys() == {2, 6}


def test_a_channel_moved_back_keeps_what_lies_before_it() -> None:
    line = Line([channel("stable", 1, 3, 5, 3)], [], made(9))
    assert retained(line, keep=0, since_ms=10_000).keys() == {1, 3}


def test_what_cannot_be_read_stays() -> None:
    line = Line([], [], {1: 100, 2: None, 3: 300})
    assert retained(line, keep=0, since_ms=10_000) == {2: "its manifest cannot be read"}
