"""The numbers that a loop ends with."""

from __future__ import annotations

from headrace.cli.output import Row
from headrace.cli.up.traffic import Tally
from headrace.cli.up.watch import Seen


def summary(tally: Tally, seen: Seen, *, seconds: float, restarts: int) -> Row:
    """One record: latencies in milliseconds, accuracy of what was served in [0, 1] or None.

    `max_staleness_s` is the greatest age of a serving version that a poll of the replicas saw.
    """
    p50_ms, p99_ms = tally.percentiles_ms(recent=False)
    accuracies = tally.accuracies()
    run = seen.run
    return {
        "seconds": round(seconds, 3),
        "versions_published": run.versions_published if run else 0,
        "versions_served": len(tally.scores),
        "requests": tally.requests,
        "failed": tally.failed,
        "errors": dict(tally.errors),
        "requests_per_s": round(tally.requests / seconds, 1) if seconds else 0.0,
        "p50_ms": round(p50_ms, 2),
        "p99_ms": round(p99_ms, 2),
        "accuracy_first": round(accuracies[0][1], 4) if accuracies else None,
        "accuracy_last": round(accuracies[-1][1], 4) if accuracies else None,
        "max_staleness_s": round(seen.max_staleness_s, 3),
        "train_step": run.step if run else 0,
        "process_restarts": restarts,
    }
