"""The RPCs TraceSetting and LogSettings, the same on every server of ours."""

# ruff: noqa: N802 - RPC names are the protocol's.

from __future__ import annotations

from collections.abc import Callable

from chassis.call import Call
from chassis.log_settings import log_settings
from chassis.telemetry import logger
from chassis.tracing import Tracing
from protos.inference import grpc_service_pb2 as oip

log = logger(__name__)


class TelemetryRpcs:
    """Part of an `inference.GRPCInferenceService`.

    `check_model` raises NotFound (MODEL_NOT_FOUND) for a name that is not a model of the server.
    """

    def __init__(self, tracing: Tracing, check_model: Callable[[str], object]) -> None:
        self._tracing = tracing
        self._check_model = check_model

    async def TraceSetting(
        self, request: oip.TraceSettingRequest, call: Call
    ) -> oip.TraceSettingResponse:
        """Changes what the request names, all of it or nothing, and tells what is in force.

        A setting without a value is cleared: a model's falls back to the server's, the server's to
        its value at start. Reading is open. Raises PermissionDenied (CONTROL_NOT_ALLOWED) and
        what `Tracing.update` raises.
        """
        model = request.model_name
        if model:
            self._check_model(model)
        if request.settings:
            call.require_control("changing trace settings")
            changes = {name: tuple(given.value) for name, given in sorted(request.settings.items())}
            self._tracing.update(changes, model)
            log.info("trace settings changed", by=call.identity, model=model, changes=changes)
        reply = oip.TraceSettingResponse()
        for name, value in self._tracing.values(model).items():
            reply.settings[name].value.extend(value)
        return reply

    async def LogSettings(
        self, request: oip.LogSettingsRequest, call: Call
    ) -> oip.LogSettingsResponse:
        """As `log_settings`."""
        return log_settings(request, call)
