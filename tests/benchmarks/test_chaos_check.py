"""The checker finds each invariant broken in records made by hand, and nothing in clean ones."""

from __future__ import annotations

import json

import pytest

from benchmarks.chaos.check import main
from benchmarks.chaos.exact import expected_digest
from benchmarks.chaos.invariants import missing_evidence, verdicts
from benchmarks.chaos.record import Record, Recorder
from tests.benchmarks.chaos_record import (
    ONE,
    TWO,
    call,
    channel,
    clean,
    endpoints,
    failed,
    killed,
    line,
    publication,
    replica,
    sample,
    serving,
)


def broken(lines):
    """The invariants that a record breaks."""
    return [verdict.invariant for verdict in verdicts(Record(lines)) if verdict.broken]


def test_a_clean_record_breaks_nothing_and_speaks_of_everything():
    for lines in (clean(), killed()):
        found = verdicts(Record(lines))
        assert [verdict.invariant for verdict in found if not verdict.held] == []
        assert missing_evidence(Record(lines), found) == []


BREAKING = {
    "a torn reply": (["I1"], [call(15.5, 77, digest="0" * 16)]),
    "a reply of a version that is not there": (["I1"], [call(15.5, 77, version=9)]),
    "a reply of a version that must not serve": (
        ["I1"],
        [call(15.5, 77, version=3), line("stored", 31, version=3, seed=-1, whole=True)],
    ),
    "the rows of another call": (
        ["I1", "I10"],
        [call(15.5, 77, digest=expected_digest(101, 12, 2))],
    ),
    "another call's id": (["I10"], [call(15.5, 77, echoed=False)]),
    "a channel that goes back": (["I2"], [channel(23, 1, 3)]),
    "a revision that goes back": (["I2"], [channel(23, 2, 1)]),
    "an epoch that goes back": (["I2"], [channel(23, 2, 3, epoch=0)]),
    "a replica that goes back": (["I2"], [serving(23, 1)]),
    "a fenced writer that publishes": (["I2"], [line("epoch", 19, publisher="t2", epoch=2)]),
    "a failed call beside a healthy replica": (["I3"], [failed(15.5, 77)]),
    "UNKNOWN": (["I3", "I4"], [failed(15.5, 77, "UNKNOWN")]),
    "INTERNAL": (["I3", "I4"], [failed(15.5, 77, "INTERNAL")]),
    "a path in a message": (["I3", "I4"], [failed(15.5, 77, message="open /srv/store/x failed")]),
    "a traceback in a message": (["I3", "I4"], [failed(15.5, 77, message="Traceback (most")]),
    "a publisher's error that shows a path": (
        ["I4"],
        [publication(21, 0, acknowledged=False, code="UNAVAILABLE", message="at '/a/b/c'")],
    ),
    "memory that stays": (["I5"], [sample(at, memory_bytes=4e8) for at in (29.1, 29.2, 29.3)]),
    "descriptors that stay": (["I5"], [sample(at, descriptors=90) for at in (29.1, 29.2, 29.3)]),
    "threads that stay": (["I5"], [sample(at, threads=40) for at in (29.1, 29.2, 29.3)]),
    "a process that is gone": (["I5"], [sample(at, "gateway") for at in (11, 12, 13)]),
    "a queue that stays": (["I5"], [endpoints(29 + at / 9, queued=3) for at in range(9)]),
    "a late answer": (["I7"], [call(15.5, 77, ended=25.7)]),
    "a late error": (["I7"], [failed(15.5, 77, timeout_s=0.1, ended=15.75)]),
    "an acknowledged version that is gone": (["I8"], [publication(21, 3)]),
    "an acknowledged version with other weights": (["I8"], [publication(21, 2, seed=999)]),
    "an acknowledged version that is not whole": (
        ["I8"],
        [publication(21, 3), line("stored", 31, version=3, seed=103, whole=False)],
    ),
    "a failure that status does not name": (
        ["I9"],
        [line("expect", 20, where="status", text="STORE_EVICTS", within_s=5)],
    ),
    "a failure that the log names too late": (
        ["I9"],
        [
            line("expect", 20, where="log", text="STORE_EVICTS", within_s=5),
            line("log", 25.5, process="replica-0", text="STORE_EVICTS"),
        ],
    ),
    "service that is slower than before": (["I6"], [call(24.5, 77, ended=24.9, version=2)]),
}


@pytest.mark.parametrize(("invariants", "lines"), BREAKING.values(), ids=BREAKING)
def test_each_invariant_is_caught_broken(invariants, lines):
    assert broken([*clean(), *lines]) == invariants


def test_a_killed_replica_that_is_used_on():
    assert broken(killed(away_at=21.6)) == ["I6"]
    assert broken([*killed(), call(21.5, 77, version=2, ended=23.0)]) == ["I6"]
    # The call that the fault itself hit may take what a retry takes.
    assert broken([*killed(), call(20.3, 77, version=2, ended=22.0)]) == []


def test_service_that_comes_back_late():
    later = [made for made in clean() if made.get("name") not in ("proof", "end")]
    later += [sample(41), endpoints(41), call(40, 77, version=2), call(41, 78, version=2)]
    later += [line("phase", 40, name="proof"), line("phase", 42, name="end")]
    assert broken(later) == ["I6"]


def test_what_is_allowed():
    # No replica was up; the deadline left no time for a retry; the client itself was late.
    down = [replica(15, ONE, False, "killed"), replica(15, TWO, False, "killed")]
    lines = [made for made in clean() if made["kind"] != "call" or not 14 < made["at"] < 18]
    up = [replica(18, ONE, True), replica(18, TWO, True)]
    away = [endpoints(15.2, "ejected", "ejected")]
    assert broken([*lines, *down, *up, *away, failed(16, 77)]) == []
    assert broken([*clean(), failed(15.5, 77, "DEADLINE_EXCEEDED", timeout_s=0.1)]) == []
    assert broken([*clean(), call(15.5, 77, ended=25.8, lag_s=0.3)]) == []
    starved = [sample(15.4, "gateway", waited_s=1.0), sample(25.9, "gateway", waited_s=1.3)]
    after = [sample(at, "gateway", waited_s=1.3) for at in (28.0, 29.5)]
    assert broken([*clean(), *starved, *after, call(15.5, 77, ended=25.8)]) == []
    # An operator went back; a fault wiped the store.
    back = [line("rollback", 22.5, version=1), channel(23, 1, 3), serving(23, 1)]
    assert broken([*clean(), *back]) == []
    assert broken([*clean(), line("wiped", 30.5), publication(21, 3)]) == []
    gone = [line("epoch", 19, publisher="t2", epoch=2), line("wiped", 19.5)]
    assert broken([*clean(), *gone]) == []


@pytest.mark.parametrize(
    ("kind", "invariants"),
    [
        ("call", ["I1", "I3", "I7", "I10"]),
        ("sample", ["I5"]),
        ("stored", []),
        ("expect", ["I9"]),
        ("channel", []),
    ],
)
def test_a_record_that_does_not_speak_of_an_invariant_is_told(kind, invariants):
    record = Record([made for made in clean() if made["kind"] != kind])
    found = verdicts(record)
    assert missing_evidence(record, found) == invariants
    if kind == "stored":
        assert [verdict.invariant for verdict in found if verdict.broken] == ["I1", "I8"]


def test_the_command_judges_a_directory(tmp_path, capsys):
    with Recorder(tmp_path, "made") as recorder:
        for made in clean():
            fields = {key: value for key, value in made.items() if key not in ("kind", "at")}
            recorder.write(made["kind"], at=made["at"], **fields)
    assert main([str(tmp_path)]) == 0
    assert "broken: none; no evidence: none" in capsys.readouterr().out
    (tmp_path / "more.jsonl").write_text(json.dumps(failed(15.5, 77)) + "\n")
    assert main([str(tmp_path)]) == 1
    assert "broken: I3" in capsys.readouterr().out
    assert main([str(tmp_path / "nothing")]) == 2


def failover(at, lost_since=0):
    return line("failover", at, lost_since=lost_since)


def test_a_failover_may_lose_what_nobody_acknowledged():
    moved = [channel(22.5, 3, 3), failover(22.8), channel(23, 2, 2), publication(24, 3)]
    stored = line("stored", 31, version=3, seed=103, whole=True)
    assert broken([*clean(), *moved, stored]) == []
    assert broken([*clean(), publication(22.4, 3), *moved[:-1], stored]) == ["I2"]
    assert broken([*clean(), publication(22.4, 3), *moved[:-1]]) == ["I2", "I8"]


def test_what_a_failover_lost_is_named_once_and_served_on():
    lost = [publication(22.4, 3), call(22.6, 77, version=3), channel(22.5, 3, 3)]
    lossy = [*clean(), *lost, failover(22.8, lost_since=22.3), channel(23, 2, 2)]
    assert broken(lossy) == []
    # Acknowledged before the lag began; a replica that went back; the number of another version.
    assert broken([*lossy, publication(20.5, 4)]) == ["I8"]
    assert broken([*lossy, serving(22.7, 3), serving(23.5, 2)]) == ["I2"]
    again = [publication(24, 3, seed=777), line("stored", 31, version=3, seed=777, whole=True)]
    assert broken([*lossy, *again]) == ["I2"]


def test_what_a_collector_removed_is_not_missed():
    gone = [publication(20.5, 3), call(21, 77, version=3)]
    assert broken([*clean(), *gone]) == ["I1", "I8"]
    assert broken([*clean(), *gone, line("collected", 25, versions=[3], blobs=1)]) == []


def test_a_pinned_version_is_not_left():
    pins = [line("pin", 11, version=1), line("pin", 19.5, version=0)]
    assert broken([*clean(), *pins]) == []
    assert broken([*clean(), pins[0], line("pin", 25, version=0)]) == ["I2"]
