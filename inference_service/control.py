"""RPCs that change a replica: models it serves, traces, logs."""

from __future__ import annotations

from chassis.telemetry_rpcs import TelemetryRpcs


class ControlRpcs(TelemetryRpcs):
    """The controlling part of `inference.GRPCInferenceService`."""
