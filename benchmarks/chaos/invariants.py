"""I1 to I10 over a record: what is compared with what, and how much slack each comparison gets.

Pure: lines in, verdicts out. A verdict without evidence is no success: an invariant for which the
record has nothing to say is told apart from one that held.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from statistics import median

from benchmarks.chaos.exact import expected_digest
from benchmarks.chaos.record import Line, Record

# A call that may take this long can be sent twice.
RETRY_S = 2.0
# What is granted beyond a deadline. Two things that are measured beside every call come on top: how
# late the client's own timers fired meanwhile (it cannot tell when an answer came while it was not
# run), and how long the gateway's threads were ready to run and had no core. On an idle machine
# both are milliseconds.
LATE_S = 0.1
# After a fault clears.
SETTLED_WITHIN_S = 10.0
GROWTH = 1.05
# Below these a percentage says nothing: an allocator's arena, a connection that is renewed, a
# thread pool's next thread.
FLOORS = {"memory_bytes": 16 * 2**20, "descriptors": 6, "threads": 3}
# Calls that wait at one moment, where callers wait for their answers.
WAITING = 2
ROUTED_WITHIN_S = {
    "killed": 1.0,
    # A stopped process keeps its connections: only silence tells, and the gateway waits 1.5 s
    # (health_timeout_s) for a check that it began up to 0.25 s (health_interval_s) later.
    "stopped": 2.75,
}
# Service as before: p99 at most three times the baseline's, or this.
PROOF_P99_S = 0.25
TYPED = {
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "FAILED_PRECONDITION",
    "ABORTED",
    "RESOURCE_EXHAUSTED",
    "DEADLINE_EXCEEDED",
    "UNAVAILABLE",
    "DATA_LOSS",
}
# INTERNAL is a defect of ours by definition, and no scenario asks for one.
_LEAK = re.compile(r"Traceback|\.py\b|0x[0-9a-f]{6,}|(?:^|[\s'\"(=])/(?:[\w.-]+/)+[\w.-]*")
MOST_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Verdict:
    """One invariant: how many facts were compared, and the sentences of those that broke it."""

    invariant: str
    checked: int
    broken: tuple[str, ...] = ()

    @property
    def held(self) -> bool:
        """Whether there was something to compare and all of it was right."""
        return bool(self.checked) and not self.broken

    def __str__(self) -> str:
        if not self.checked:
            return f"{self.invariant} no evidence"
        if not self.broken:
            return f"{self.invariant} held ({self.checked})"
        shown = "; ".join(self.broken[:MOST_SHOWN])
        return f"{self.invariant} BROKEN {len(self.broken)} of {self.checked}: {shown}"


@dataclass
class _Finding:
    checked: int = 0
    broken: list[str] = field(default_factory=list)

    def check(self, right: bool, sentence: str) -> None:
        self.checked += 1
        if not right:
            self.broken.append(sentence)

    def verdict(self, invariant: str) -> Verdict:
        return Verdict(invariant, self.checked, tuple(self.broken))


def verdicts(record: Record) -> list[Verdict]:
    """I1 to I10, in order."""
    checks = [exact, forward, answered, typed, settled, routed, in_time, durable, visible, own_rows]
    return [check(record).verdict(f"I{number}") for number, check in enumerate(checks, 1)]


def missing_evidence(record: Record, found: Iterable[Verdict]) -> list[str]:
    """Invariants that a record should speak of and does not."""
    optional = set()
    if not any(line["cause"] for line in record.of("replica")):
        optional.add("I6")
    if not record.of("publication"):
        optional.add("I8")
    return [v.invariant for v in found if not v.checked and v.invariant not in optional]


def exact(record: Record) -> _Finding:
    """A reply is bit by bit what the version it names computes."""
    finding, seeds = _Finding(), _seeds(record)
    for call in _answered(record):
        known = seeds.get(call["version"], set()) - {-1}
        finding.check(
            bool(known) and call["digest"] in _digests(call, known),
            (
                f"call {call['seed']} names version {call['version']}, "
                + ("which computes something else" if known else "which must not be served")
            ),
        )
    return finding


def own_rows(record: Record) -> _Finding:
    """No reply carries the answer to another call, or another call's id."""
    finding, seeds = _Finding(), _seeds(record)
    others: dict[str, int] | None = None
    for call in _answered(record):
        known = seeds.get(call["version"], set()) - {-1}
        own = call["digest"] in _digests(call, known)
        if not own and others is None:
            others = _all_digests(record, seeds)
        owner = None if own or others is None else others.get(call["digest"])
        finding.check(
            bool(call["echoed"]) and (own or owner in (None, call["seed"])),
            (
                f"call {call['seed']} was given "
                + ("another id" if not call["echoed"] else f"the rows of call {owner}")
            ),
        )
    return finding


def forward(record: Record) -> _Finding:
    """Channels and what replicas serve move forward; a fenced writer moves nothing.

    Nor is a number given twice, whatever was lost, and a pinned version is not left.
    """
    finding = _Finding()
    _check_channel(record, finding)
    _check_failovers(record, finding)
    _check_serving(record, finding)
    _check_fences(record, finding)
    _check_numbers(record, finding)
    _check_pins(record, finding)
    return finding


def answered(record: Record) -> _Finding:
    """No request fails that had time for a retry while a replica was healthy all along."""
    finding = _Finding()
    downs = _spans_without_replicas(record)
    for call in record.of("call"):
        if call["timeout_s"] < RETRY_S or _meets(call["at"], call["ended"], downs):
            continue
        finding.check(
            call["code"] == "OK",
            (f"call {call['seed']} ended in {call['code']} {call['reason']}: {call['message']}"),
        )
    return finding


def typed(record: Record) -> _Finding:
    """Errors are of the known codes and tell nothing of the inside."""
    finding = _Finding()
    for line in [*record.of("call"), *record.of("publication")]:
        finding.check(
            line["code"] in TYPED | {"OK"} and not _LEAK.search(line["message"]),
            f"{line['code']} {line['reason']}: {line['message']}",
        )
    for line in record.of("status"):
        finding.check(
            not _LEAK.search(line["text"]),
            f"status shows {_LEAK.search(line['text'])}",
        )
    return finding


def settled(record: Record) -> _Finding:
    """Memory, descriptors, threads and the gateway's queue are back where they were."""
    finding = _Finding()
    began, cleared, end = record.phase("baseline"), _cleared_at(record), record.phase("end")
    if began is None or cleared is None or end is None or not record.of("sample"):
        return finding
    fault_at = min(line["at"] for line in record.of("fault"))
    since = min(cleared + SETTLED_WITHIN_S, end - 1.0)
    for process in sorted({line["process"] for line in record.of("sample")}):
        lines = [line for line in record.of("sample") if line["process"] == process]
        before = [line for line in lines if began <= line["at"] < fault_at]
        after = [line for line in lines if since <= line["at"] <= end]
        for quantity, floor in FLOORS.items():
            _check_quantity(finding, process, quantity, floor, before, after)
    looks = record.of("endpoints")
    before = [line for line in looks if began <= line["at"] < fault_at]
    after = [line for line in looks if since <= line["at"] <= end]
    _check_quantity(finding, "gateway", "queued", WAITING, before, after)
    return finding


def routed(record: Record) -> _Finding:
    """A replica that fell silent gets no more work, and service is as before once it is over."""
    finding, starved = _Finding(), _Starved(record, "gateway")
    for address, cause, down_at, up_at in _outages(record):
        bound = ROUTED_WITHIN_S[cause]
        looks = [line for line in record.of("endpoints") if down_at <= line["at"] < up_at]
        away = next(
            (line["at"] for line in looks if line["states"].get(address) != "healthy"), None
        )
        # As long as it was seen to be used: a look that came late says nothing about before.
        used = [line["at"] for line in looks if away is not None and line["at"] < away]
        took = float("inf") if away is None else max(used, default=down_at) - down_at
        finding.check(
            took <= bound + starved.between(down_at, down_at + took),
            f"a {cause} replica was used for {took:.2f} s",
        )
        for call in record.of("call"):
            if down_at + bound <= call["at"] < up_at and call["timeout_s"] >= RETRY_S:
                _check_quick(finding, call, bound, cause)
    _check_proof(record, finding)
    return finding


def in_time(record: Record) -> _Finding:
    """An answer or an error is there by the deadline."""
    finding, starved = _Finding(), _Starved(record, "gateway")
    for call in record.of("call"):
        late = call["ended"] - call["at"] - call["timeout_s"]
        waited = starved.between(call["at"], call["ended"])
        finding.check(
            late <= LATE_S + call["lag_s"] + waited,
            f"call {call['seed']} ended {late * 1000:.0f} ms after its deadline in {call['code']}; "
            f"the client's timers were {call['lag_s'] * 1000:.0f} ms late, the gateway was "
            f"{waited * 1000:.0f} ms without a core",
        )
    return finding


class _Starved:
    """How long a process was ready to run and had no core, between two moments."""

    def __init__(self, record: Record, process: str) -> None:
        samples = [line for line in record.of("sample") if line["process"] == process]
        self._at = [line["at"] for line in samples]
        self._waited = [line["waited_s"] for line in samples]

    def between(self, since: float, until: float) -> float:
        """Seconds, from the sample before to the one after; 0 where there are no samples."""
        if not self._at:
            return 0.0
        first = max(0, bisect_right(self._at, since) - 1)
        last = min(len(self._at) - 1, bisect_left(self._at, until))
        return max(0.0, float(self._waited[last] - self._waited[first]))


def durable(record: Record) -> _Finding:
    """What was acknowledged is in the store, whole and with the weights it had."""
    finding = _Finding()
    wiped = max((line["at"] for line in record.of("wiped")), default=float("-inf"))
    lost = [(line["lost_since"], line["at"]) for line in _lossy(record)]
    collected = {version for line in record.of("collected") for version in line["versions"]}
    stored = {(line["version"], line["seed"]): line for line in record.of("stored")}
    for line in record.of("publication"):
        if not line["acknowledged"] or line["ended"] < wiped:
            continue
        if line["version"] in collected or _meets(line["ended"], line["ended"], lost):
            continue
        found = stored.get((line["version"], line["seed"]))
        finding.check(
            found is not None and found["whole"],
            (
                f"version {line['version']} of {line['publisher']} was acknowledged and is "
                + ("gone" if found is None else "not whole")
            ),
        )
    return finding


def visible(record: Record) -> _Finding:
    """What is wrong shows in `headrace status` and in a log, in time and in words."""
    finding = _Finding()
    for expected in record.of("expect"):
        until = expected["at"] + expected["within_s"]
        pattern = re.compile(expected["text"])
        finding.check(
            any(
                expected["at"] <= line["at"] <= until and pattern.search(line["text"])
                for line in record.of(expected["where"])
            ),
            (
                f"{expected['where']} never showed {expected['text']!r} within "
                f"{expected['within_s']:g} s"
            ),
        )
    return finding


def _answered(record: Record) -> Iterator[Line]:
    return (call for call in record.of("call") if call["code"] == "OK")


def _seeds(record: Record) -> dict[int, set[int]]:
    """Seeds by version; more than one only where a store was wiped and began anew.

    What was lost or collected is in no store at the end.
    """
    found: dict[int, set[int]] = {}
    for line in record.of("stored"):
        found.setdefault(line["version"], set()).add(line["seed"])
    if record.of("wiped") or record.of("collected") or record.of("failover"):
        for line in record.of("publication"):
            if line["acknowledged"]:
                found.setdefault(line["version"], set()).add(line["seed"])
    return found


def _digests(call: Line, seeds: Iterable[int]) -> set[str]:
    return {expected_digest(seed, call["seed"], call["rows"]) for seed in seeds}


def _all_digests(record: Record, seeds: dict[int, set[int]]) -> dict[str, int]:
    return {
        digest: call["seed"]
        for call in _answered(record)
        for digest in _digests(call, seeds.get(call["version"], set()) - {-1})
    }


def _check_channel(record: Record, finding: _Finding) -> None:
    rollbacks = {line["version"] for line in record.of("rollback")}
    past = [(at, until) for at, until, what in _faults(record) if "deposed" in what]
    anew = [line["at"] for line in [*record.of("wiped"), *record.of("failover")]]
    last: Line | None = None
    for line in record.of("channel"):
        if _meets(line["at"], line["at"], past):
            continue
        if last is not None and not any(last["at"] <= at <= line["at"] for at in anew):
            ordered = (line["revision"], line["epoch"]) >= (last["revision"], last["epoch"])
            ordered &= line["epoch"] >= last["epoch"]
            up = line["version"] >= last["version"] or line["version"] in rollbacks
            finding.check(
                ordered and up,
                (f"the channel went from {_position(last)} to {_position(line)}"),
            )
        last = line


def _check_failovers(record: Record, finding: _Finding) -> None:
    """A server that took over may lack moves that were seen, and none that was acknowledged."""
    for failover in record.of("failover"):
        if failover["lost_since"]:
            continue
        known = [
            line["version"]
            for line in record.of("publication")
            if line["acknowledged"] and line["ended"] < failover["at"]
        ]
        first = next((one for one in record.of("channel") if one["at"] > failover["at"]), None)
        if known and first is not None:
            finding.check(
                first["version"] >= max(known),
                f"after a failover the channel was at {_position(first)}, "
                f"and version {max(known)} had been acknowledged",
            )


def _check_numbers(record: Record, finding: _Finding) -> None:
    if not record.of("failover"):
        return
    for version, seeds in _seeds(record).items():
        finding.check(len(seeds) == 1, f"version {version} is the name of {len(seeds)} versions")


def _check_pins(record: Record, finding: _Finding) -> None:
    pins = record.of("pin")
    for number, pin in enumerate(pins):
        until = pins[number + 1]["at"] if number + 1 < len(pins) else float("inf")
        for call in _answered(record):
            if pin["version"] and pin["at"] <= call["at"] and call["ended"] <= until:
                finding.check(
                    call["version"] == pin["version"],
                    f"call {call['seed']} was answered by version {call['version']} while version "
                    f"{pin['version']} was pinned",
                )


def _check_serving(record: Record, finding: _Finding) -> None:
    rollbacks = {line["version"] for line in record.of("rollback")}
    last: dict[str, Line] = {}
    restarts = [(line["address"], line["at"]) for line in record.of("replica") if not line["up"]]
    for line in record.of("serving"):
        before = last.get(line["replica"])
        last[line["replica"]] = line
        if before is None or not line["version"]:
            continue
        if any(
            address == line["replica"] and before["at"] <= at <= line["at"]
            for address, at in restarts
        ):
            continue
        finding.check(
            line["version"] >= before["version"] or line["version"] in rollbacks,
            (f"a replica went from version {before['version']} to {line['version']}"),
        )


def _check_fences(record: Record, finding: _Finding) -> None:
    wiped = [line["at"] for line in record.of("wiped")]
    for line in record.of("publication"):
        if not line["acknowledged"] or not line["epoch"]:
            continue
        # Epochs of a store that is gone fence nobody in the one that began anew.
        began = max((at for at in wiped if at < line["at"]), default=float("-inf"))
        newer = [
            one["epoch"]
            for one in record.of("epoch")
            if one["epoch"] > line["epoch"] and began <= one["at"] < line["at"]
        ]
        finding.check(
            not newer,
            (
                f"{line['publisher']} published version {line['version']} with epoch "
                f"{line['epoch']} after epoch {max(newer, default=0)} was acquired"
            ),
        )


def _position(line: Line) -> str:
    return f"version {line['version']} (revision {line['revision']}, epoch {line['epoch']})"


def _lossy(record: Record) -> list[Line]:
    return [line for line in record.of("failover") if line["lost_since"]]


def _faults(record: Record) -> Iterator[tuple[float, float, str]]:
    """(began, cleared, what) of every fault."""
    lines = record.of("fault")
    for at, line in enumerate(lines):
        if line["phase"] == "begin":
            ends = (one["at"] for one in lines[at:] if one["phase"] == "clear")
            yield line["at"], next(ends, float("inf")), line["what"]


def _cleared_at(record: Record) -> float | None:
    return max((ln["at"] for ln in record.of("fault") if ln["phase"] == "clear"), default=None)


def _outages(record: Record) -> Iterator[tuple[str, str, float, float]]:
    """(address, cause, down at, up at) of every replica that was taken."""
    lines = record.of("replica")
    for at, line in enumerate(lines):
        if line["cause"]:
            back = (ln["at"] for ln in lines[at:] if ln["up"] and ln["address"] == line["address"])
            yield line["address"], line["cause"], line["at"], next(back, float("inf"))


def _spans_without_replicas(record: Record) -> list[tuple[float, float]]:
    up: set[str] = set()
    spans: list[tuple[float, float]] = []
    since: float | None = float("-inf")
    for line in record.of("replica"):
        (up.add if line["up"] else up.discard)(line["address"])
        if up and since is not None:
            spans.append((since, line["at"]))
            since = None
        elif not up and since is None:
            since = line["at"]
    if since is not None:
        spans.append((since, float("inf")))
    return spans


def _meets(began: float, ended: float, spans: list[tuple[float, float]]) -> bool:
    return any(began <= until and since <= ended for since, until in spans)


def _check_quantity(
    finding: _Finding,
    process: str,
    quantity: str,
    floor: float,
    before: list[Line],
    after: list[Line],
) -> None:
    if not before:
        return
    baseline = median(line[quantity] for line in before)
    bound = max(baseline * GROWTH, baseline + floor)
    now = median(line[quantity] for line in after) if after else float("inf")
    finding.check(
        now <= bound,
        f"{process}: {quantity} {now:,.0f}, was {baseline:,.0f}, allowed {bound:,.0f}",
    )


def _check_quick(finding: _Finding, call: Line, bound: float, cause: str) -> None:
    took = call["ended"] - call["at"]
    finding.check(
        took <= bound + call["lag_s"],
        f"call {call['seed']} took {took:.2f} s long after a replica was {cause}",
    )


def _check_proof(record: Record, finding: _Finding) -> None:
    """After the fault: every call is answered, about as fast as before it."""
    proof, end, cleared = record.phase("proof"), record.phase("end"), _cleared_at(record)
    baseline, fault = record.phase("baseline"), record.phase("fault")
    if None in (proof, end, cleared, baseline, fault):
        return
    assert proof and end and cleared and baseline and fault
    finding.check(
        proof - cleared <= SETTLED_WITHIN_S,
        f"service was as before only {proof - cleared:.1f} s after the fault",
    )
    before, after = _p99_s(record, baseline, fault), _p99_s(record, proof, end)
    bound = max(PROOF_P99_S, 3 * before)
    finding.check(
        after <= bound,
        f"p99 was {before * 1000:.0f} ms before and {after * 1000:.0f} ms after the fault",
    )


def _p99_s(record: Record, since: float, until: float) -> float:
    """Of calls sent in that span; infinite where none was, or one failed."""
    calls = [
        call
        for call in record.of("call")
        if since <= call["at"] < until and call["timeout_s"] >= RETRY_S
    ]
    if not calls or any(call["code"] != "OK" for call in calls):
        return float("inf")
    spans = sorted(call["ended"] - call["at"] - call["lag_s"] for call in calls)
    return float(spans[min(len(spans) - 1, int(len(spans) * 0.99))])
