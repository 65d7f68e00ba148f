"""A log line that nobody can read must not end the thread that wrote it."""

from __future__ import annotations

import io
import sys
from dataclasses import replace

from chassis.telemetry import logger


class Broken(io.StringIO):
    def write(self, _text: str) -> int:
        raise BrokenPipeError("nobody reads")


def test_a_replica_survives_the_loss_of_its_standard_error(line, follower, monkeypatch):
    line.publish(1.0)
    follower.wait_serving(1)
    gone = io.StringIO()
    gone.close()
    for stream in (Broken(), gone):
        monkeypatch.setattr(sys, "stderr", stream)
        logger("test").info("unread")
        version = line.publish(2.0)
        follower.wait_serving(version)
    # A refusal is logged too.
    version = line.publish(3.0, change=lambda m: replace(m, tensors=()))
    assert follower.wait_failed(version).failures[0].reason == "MISSING_TENSOR"
