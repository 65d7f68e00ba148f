"""What a trace tells of a batch at the replica."""

from __future__ import annotations

import time

from chassis.tracing import Tracing
from inference_service.work import Work


def trace_work(tracing: Tracing, work: Work) -> None:
    """Writes the stages of work that the executor ended, if it is one to be traced.

    Work that never came to a slot has no stages between queued and answered.
    """
    if not tracing.take(work.served.name):
        return
    stages = {"received": work.received_at or work.queued_at, "queued": work.queued_at}
    at = work.queued_at + work.queue_s
    if work.version_text:
        stages["compute_start"] = at
        if work.error is None:
            stages["infer_start"] = at + work.input_s
            stages["infer_end"] = at + work.input_s + work.infer_s
            stages["compute_end"] = at + work.input_s + work.infer_s + work.output_s
    stages["answered"] = time.monotonic()
    tracing.write(
        work.served.name,
        work.request_id,
        stages,
        version=work.version_text,
        status="OK" if work.error is None else work.error.code.name,
        rows=work.inputs.rows,
    )
