"""The checker finds each invariant broken in records made by hand, and nothing in clean ones."""

from __future__ import annotations

import json

import pytest

from benchmarks.chaos.check import main
from benchmarks.chaos.exact import expected_digest
from benchmarks.chaos.invariants import missing_evidence, verdicts
from benchmarks.chaos.record import Record, Recorder

ONE, TWO = "127.0.0.1:1", "127.0.0.1:2"


def call(at, seed, *, version=1, **changes):
    made = {
        "kind": "call",
        "at": at,
        "seed": seed,
        "rows": 2,
        "timeout_s": 10.0,
        "ended": at + 0.01,
        "code": "OK",
        "reason": "",
        "message": "",
        "version": version,
        "digest": expected_digest(100 + version, seed, 2),
        "echoed": True,
        "lag_s": 0.0,
    }
    return made | changes


def failed(at, seed, code="UNAVAILABLE", message="no replica serves it", **changes):
    return call(at, seed, code=code, reason=code, message=message, **changes)


def publication(at, version, **changes):
    made = {
        "kind": "publication",
        "at": at,
        "publisher": "t1",
        "epoch": 1,
        "seed": 100 + version,
        "ended": at + 0.1,
        "acknowledged": True,
        "version": version,
        "code": "OK",
        "reason": "",
        "message": "",
    }
    return made | changes


def sample(at, process="replica-0", **changes):
    made = {"memory_bytes": 3e8, "descriptors": 30, "threads": 20, "waited_s": 0.0}
    return {"kind": "sample", "at": at, "process": process} | made | changes


def endpoints(at, one="healthy", two="healthy", queued=0):
    states = {ONE: one, TWO: two}
    return {"kind": "endpoints", "at": at, "states": states, "queued": queued, "inflight": 0}


def channel(at, version, revision, epoch=1):
    place = {"version": version, "revision": revision, "epoch": epoch}
    return {"kind": "channel", "at": at, "held": False} | place


def serving(at, version, replica=ONE):
    return {"kind": "serving", "at": at, "replica": replica, "version": version, "age_s": 1.0}


def line(kind, at, **fields):
    return {"kind": kind, "at": at} | fields


def replica(at, address, up, cause=""):
    return line("replica", at, address=address, up=up, cause=cause)


def clean():
    """Baseline from 10, the fault from 20 to 22, proof from 23, the end at 30."""
    lines = [call(at, at, version=1 if at < 20 else 2) for at in range(10, 31)]
    lines += [sample(at + 0.5) for at in range(10, 31)]
    lines += [endpoints(at / 4) for at in range(40, 120)]
    lines += [
        replica(0, ONE, True),
        replica(0, TWO, True),
        publication(1, 1),
        publication(20, 2),
        line("epoch", 0.5, publisher="t1", epoch=1),
        line("stored", 31, version=1, seed=101, whole=True),
        line("stored", 31, version=2, seed=102, whole=True),
        channel(12, 1, 1),
        channel(22, 2, 2),
        serving(12, 1),
        serving(22, 2),
        line("phase", 10, name="baseline"),
        line("phase", 20, name="fault"),
        line("phase", 23, name="proof"),
        line("phase", 30, name="end"),
        line("fault", 20, phase="begin", what="x"),
        line("fault", 22, phase="clear", what="x"),
        line("expect", 20, where="status", text=r"v3 NON_FINITE", within_s=5),
        line("status", 21, text="v3 NON_FINITE: tensor 'w' holds NaN"),
    ]
    return lines


def killed(at=20.1, up_at=29.0, away_at=20.5):
    """A replica is killed; the gateway is seen to look away at `away_at`."""
    found = [made for made in clean() if made["kind"] != "endpoints"]
    found += [
        endpoints(at / 10, two="ejected" if away_at <= at / 10 < up_at else "healthy")
        for at in range(100, 300)
    ]
    return [*found, replica(at, TWO, False, "killed"), replica(up_at, TWO, True)]


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
