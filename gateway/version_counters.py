"""Counters of one model by version, whose sums never go down.

The versions that answered last are kept apart. With a publication every few seconds the others
would fill the memory: what is dropped is added to the entry without a version, where it stays. A
version that was dropped and answers again is counted there, so that no version's counters ever
begin anew.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

KEPT_VERSIONS = 64
# Responses of a decoupled request that are counted by their index; the last of them stands for all
# that follow.
KEPT_RESPONSES = 256


@dataclass(slots=True)
class BatchSizeCounters:
    """Executions of one batch size, and their nanoseconds."""

    executions: int = 0
    input_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0

    def add(self, other: BatchSizeCounters) -> None:
        """Takes the other's counts over."""
        self.executions += other.executions
        self.input_ns += other.input_ns
        self.infer_ns += other.infer_ns
        self.output_ns += other.output_ns


@dataclass(slots=True)
class Span:
    """How often, and for how many nanoseconds in all."""

    count: int = 0
    ns: int = 0

    def add(self, count: int, ns: int) -> None:
        """More of it."""
        self.count += count
        self.ns += ns


@dataclass(slots=True)
class ResponseCounters:
    """The responses with one index of decoupled requests; each span is since the one before."""

    success: Span = field(default_factory=Span)
    fail: Span = field(default_factory=Span)
    empty: Span = field(default_factory=Span)
    cancelled: Span = field(default_factory=Span)

    def add(self, other: ResponseCounters) -> None:
        """Takes the other's counts over."""
        self.success.add(other.success.count, other.success.ns)
        self.fail.add(other.fail.count, other.fail.ns)
        self.empty.add(other.empty.count, other.empty.ns)
        self.cancelled.add(other.cancelled.count, other.cancelled.ns)


@dataclass(slots=True)
class VersionCounters:
    """One version of a model; a batch's nanoseconds count once per request in it."""

    succeeded: int = 0
    success_ns: int = 0
    failed: int = 0
    fail_ns: int = 0
    queue_ns: int = 0
    input_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0
    rows: int = 0
    executions: int = 0
    last_inference_time_ms: int = 0
    by_rows: dict[int, BatchSizeCounters] = field(default_factory=dict)
    # By the index of a response to a decoupled request.
    responses: dict[int, ResponseCounters] = field(default_factory=dict)

    def response(self, index: int) -> ResponseCounters:
        """The counters of responses with that index."""
        return self.responses.setdefault(min(index, KEPT_RESPONSES - 1), ResponseCounters())

    def add(self, other: VersionCounters) -> None:
        """Takes the other's counts over."""
        self.succeeded += other.succeeded
        self.success_ns += other.success_ns
        self.failed += other.failed
        self.fail_ns += other.fail_ns
        self.queue_ns += other.queue_ns
        self.input_ns += other.input_ns
        self.infer_ns += other.infer_ns
        self.output_ns += other.output_ns
        self.rows += other.rows
        self.executions += other.executions
        self.last_inference_time_ms = max(self.last_inference_time_ms, other.last_inference_time_ms)
        for rows, size in other.by_rows.items():
            self.by_rows.setdefault(rows, BatchSizeCounters()).add(size)
        for index, response in other.responses.items():
            self.response(index).add(response)


class Versions:
    """The versions of one model; iterated, (version, counters).

    The entry "" is there only if it counted something: dropped versions, and requests that failed
    before any version had answered.
    """

    def __init__(self) -> None:
        # The one that answered last comes last.
        self._kept: OrderedDict[str, VersionCounters] = OrderedDict()
        self._rest = VersionCounters()
        self._gone_up_to = 0
        self._gone: set[str] = set()

    def answering(self, version: str) -> VersionCounters:
        """The counters of a version that just answered."""
        counters = self._kept.get(version)
        if counters is not None:
            self._kept.move_to_end(version)
            return counters
        if not version or self.dropped(version):
            return self._rest
        counters = self._kept[version] = VersionCounters()
        if len(self._kept) > KEPT_VERSIONS:
            self._drop(*self._kept.popitem(last=False))
        return counters

    def newest(self) -> VersionCounters:
        """The version that answered last; the entry "" before any did."""
        return next(reversed(self._kept.values()), self._rest)

    def dropped(self, version: str) -> bool:
        """Whether the version is counted in the entry "" from now on."""
        if version in self._kept:
            return False
        return int(version) <= self._gone_up_to if version.isdecimal() else version in self._gone

    def __iter__(self) -> Iterator[tuple[str, VersionCounters]]:
        yield from self._kept.items()
        if self._rest != VersionCounters():
            yield "", self._rest

    def _drop(self, version: str, counters: VersionCounters) -> None:
        self._rest.add(counters)
        if version.isdecimal():
            self._gone_up_to = max(self._gone_up_to, int(version))
        else:
            self._gone.add(version)
