"""LogSettings: what the running process logs, under Triton's names.

Decides which values are taken; `telemetry` does the switching. Where logs go is the operator's
choice at start: a caller over the network never names a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from chassis.call import Call
from chassis.errors import HeadraceError, InvalidArgument, Unimplemented
from chassis.settings import nearest
from chassis.telemetry import TIME_FORMATS, LogOutput, log_output, logger, set_log_output
from protos.inference import grpc_service_pb2 as oip

log = logger(__name__)

# Triton's name: the field of LogOutput, the kind of the value on the wire, and its words.
_FIELDS = {
    "log_info": ("info", "bool_param", "true or false"),
    "log_warning": ("warning", "bool_param", "true or false"),
    "log_error": ("error", "bool_param", "true or false"),
    "log_verbose_level": ("verbose_level", "uint32_param", "a uint32, 0 for off"),
    "log_format": ("time_format", "string_param", " or ".join(map(repr, TIME_FORMATS))),
}
_FILE = "log_file"


def log_settings(request: oip.LogSettingsRequest, call: Call) -> oip.LogSettingsResponse:
    """Changes what the request names, all of it or nothing, and tells what is in force.

    Reading is open. Raises PermissionDenied (CONTROL_NOT_ALLOWED), Unimplemented
    (LOG_FILE_FIXED), InvalidArgument (UNKNOWN_LOG_SETTING, BAD_LOG_SETTING).
    """
    if request.settings:
        call.require_control("changing log settings")
        output = _changed(log_output(), request.settings)
        set_log_output(output)
        log.info("log settings changed", by=call.identity, **asdict(output))
    return _reply(log_output())


def _changed(output: LogOutput, settings: Mapping[str, Any]) -> LogOutput:
    changes = {}
    for name in sorted(settings):
        field, kind, expected = _field_of(name)
        value = settings[name]
        if value.WhichOneof("parameter_choice") != kind:
            raise _bad_value(name, expected)
        changes[field] = getattr(value, kind)
        if kind == "string_param" and changes[field] not in TIME_FORMATS:
            raise _bad_value(name, expected)
    return replace(output, **changes)


def _field_of(name: str) -> tuple[str, str, str]:
    if name == _FILE:
        raise Unimplemented(
            "LOG_FILE_FIXED",
            "log_file cannot be set over the network; logs go to the server's standard error",
            field=f"settings[{_FILE}]",
        )
    if name not in _FIELDS:
        raise InvalidArgument(
            "UNKNOWN_LOG_SETTING",
            f"log setting {name[:64]!r} is unknown; {nearest(name[:64], _FIELDS)}",
            field=f"settings[{name[:64]}]",
        )
    return _FIELDS[name]


def _bad_value(name: str, expected: str) -> HeadraceError:
    return InvalidArgument(
        "BAD_LOG_SETTING",
        f"log setting {name!r} must be {expected}",
        field=f"settings[{name}]",
    )


def _reply(output: LogOutput) -> oip.LogSettingsResponse:
    reply = oip.LogSettingsResponse()
    reply.settings[_FILE].string_param = ""
    for name, (field, kind, _) in _FIELDS.items():
        setattr(reply.settings[name], kind, getattr(output, field))
    return reply
