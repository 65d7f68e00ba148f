"""Lines of a record made by hand: a run in which nothing broke, and what a test adds to it."""

from __future__ import annotations

from benchmarks.chaos.exact import expected_digest

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
