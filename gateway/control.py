"""RPCs that change the gateway and what stands behind it: models, traces, logs."""

from chassis.telemetry_rpcs import TelemetryRpcs


class ControlRpcs(TelemetryRpcs):
    """The controlling part of `inference.GRPCInferenceService`."""
