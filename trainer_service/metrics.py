"""Runs as Prometheus sees them: read from the records when somebody looks, so never out of date."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from trainer_service.record import RunRecord

Family = CounterMetricFamily | GaugeMetricFamily

_GAUGES: dict[str, tuple[str, Callable[[RunRecord], float]]] = {
    "state": ("RunState, as in headrace.v1", lambda record: record.state.value),
    "step": ("Optimizer steps made", lambda record: record.step),
    "checkpoint_step": ("Step of the newest checkpoint", lambda record: record.checkpoint_step),
    "steps_per_s": ("Optimizer steps per second", lambda record: record.steps_per_s),
    "last_version": ("Newest version published", lambda record: record.last_version),
    "loss": ("Newest training loss", lambda record: record.loss),
}
_COUNTERS: dict[str, tuple[str, Callable[[RunRecord], float]]] = {
    "versions_published": ("Versions published", lambda record: record.versions_published),
    "restarts": ("Times the job was started after a failure", lambda record: record.restarts),
}


class RunCollector(Collector):
    """A family per figure, a sample per run; `records` is called in the scraper's thread."""

    def __init__(self, records: Callable[[], Iterable[RunRecord]]) -> None:
        self._records = records

    def collect(self) -> Iterator[Family]:
        records = list(self._records())
        for kind, figures in ((GaugeMetricFamily, _GAUGES), (CounterMetricFamily, _COUNTERS)):
            for name, (text, value) in figures.items():
                family = kind(f"headrace_run_{name}", text, labels=["run"])
                for record in records:
                    family.add_metric([record.run_id], value(record))
                yield family
