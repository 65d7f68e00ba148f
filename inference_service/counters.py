"""What was computed, by model and version: the figures of ModelStatistics. Owned by the loop.

Counters of a version only grow. The newest versions are kept; a replica that loads one every few
seconds must not grow with them.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from chassis.clock import wall_time_ms
from inference_service import metrics
from inference_service.work import Response, Work

MOST_VERSIONS = 16
# Responses of a decoupled model are counted by their place in the answer; those from this place on
# together.
MOST_RESPONSES = 64


@dataclass(slots=True)
class Span:
    """How often, and for how many seconds in all."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self.count += 1
        self.seconds += seconds


@dataclass(slots=True)
class SizeCounters:
    """Batches of one size."""

    compute_input: Span = field(default_factory=Span)
    compute_infer: Span = field(default_factory=Span)
    compute_output: Span = field(default_factory=Span)

    def add(self, work: Work) -> None:
        """One more batch."""
        self.compute_input.add(work.input_s)
        self.compute_infer.add(work.infer_s)
        self.compute_output.add(work.output_s)


@dataclass(slots=True)
class ResponseCounters:
    """Responses of a decoupled model at one place in the answer."""

    compute_infer: Span = field(default_factory=Span)
    compute_output: Span = field(default_factory=Span)
    success: Span = field(default_factory=Span)
    fail: Span = field(default_factory=Span)
    empty: Span = field(default_factory=Span)
    cancel: Span = field(default_factory=Span)


@dataclass(slots=True)
class VersionCounters:
    """One version of one model."""

    last_inference_ms: int = 0
    rows: int = 0
    success: Span = field(default_factory=Span)
    fail: Span = field(default_factory=Span)
    queue: Span = field(default_factory=Span)
    compute: SizeCounters = field(default_factory=SizeCounters)
    sizes: dict[int, SizeCounters] = field(default_factory=lambda: defaultdict(SizeCounters))
    responses: dict[int, ResponseCounters] = field(
        default_factory=lambda: defaultdict(ResponseCounters)
    )


class Counters:
    """Counts finished work of one model."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._versions: OrderedDict[str, VersionCounters] = OrderedDict()
        self._batches: dict[str, Any] = {}
        self._rows = metrics.BATCH_ROWS.labels(model)
        self._seconds = metrics.BATCH_SECONDS.labels(model)
        self._responses = metrics.RESPONSES.labels(model)
        self._first_reply = metrics.FIRST_REPLY_SECONDS.labels(model)

    def on_done(self, work: Work) -> None:
        """Counts one work that the executor ended."""
        code = "OK" if work.error is None else work.error.code.name
        batches = self._batches.get(code)
        if batches is None:
            batches = self._batches[code] = metrics.BATCHES.labels(self._model, code)
        batches.inc()
        if not work.version_text:
            return
        counters = self._version(work.version_text)
        total_s = work.queue_s + work.input_s + work.infer_s + work.output_s
        if work.signature.decoupled:
            _count_end(counters, work)
        if work.error is not None:
            counters.fail.add(total_s)
            return
        self._note_reply(work)
        self._rows.observe(work.inputs.rows)
        if not work.signature.decoupled:
            self._seconds.observe(work.infer_s)
        counters.last_inference_ms = wall_time_ms()
        counters.rows += work.inputs.rows
        counters.success.add(total_s)
        counters.queue.add(work.queue_s)
        counters.compute.add(work)
        counters.sizes[work.inputs.rows].add(work)

    def on_response(self, work: Work, response: Response) -> None:
        """Counts one response of a generation under way."""
        self._note_reply(work)
        self._responses.inc()
        self._seconds.observe(response.infer_s)
        counters = self._version(work.version_text)
        place = counters.responses[min(response.index, MOST_RESPONSES)]
        place.compute_infer.add(response.infer_s)
        place.compute_output.add(response.output_s)
        place.success.add(response.infer_s + response.output_s)
        work.responses_made = response.index + 1

    def _note_reply(self, work: Work) -> None:
        provenance = work.provenance
        if provenance is not None and work.served.on_reply(provenance):
            self._first_reply.observe(provenance.age_ms / 1000)

    def versions(self) -> Iterator[tuple[str, VersionCounters]]:
        """The versions kept, oldest use first."""
        yield from self._versions.items()

    def _version(self, text: str) -> VersionCounters:
        counters = self._versions.get(text)
        if counters is None:
            counters = self._versions[text] = VersionCounters()
            while len(self._versions) > MOST_VERSIONS:
                self._versions.popitem(last=False)
        return counters


def _count_end(counters: VersionCounters, work: Work) -> None:
    """What came where the next response would have: an error, a caller gone, or nothing."""
    place = counters.responses[min(work.responses_made, MOST_RESPONSES)]
    if work.error is None:
        if work.empty_final or not work.responses_made:
            place.empty.add(0.0)
    elif work.abandoned:
        place.cancel.add(0.0)
    else:
        place.fail.add(0.0)


class CountersByModel(dict[str, Counters]):
    """Counters of every model ever served, made when first asked for; they outlive an unload."""

    def __missing__(self, model: str) -> Counters:
        made = self[model] = Counters(model)
        return made
