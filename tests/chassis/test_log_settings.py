"""Log settings: what is taken, what is refused, and that the output follows."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator

import pytest
import structlog

from chassis.call import Call
from chassis.errors import InvalidArgument, PermissionDenied, Unimplemented
from chassis.log_settings import log_settings
from chassis.settings import ProcessSettings
from chassis.telemetry import LogOutput, configure_logs, log_output, logger, set_log_output
from protos.inference import grpc_service_pb2 as oip

OPERATOR = Call("ops", control=True)
KINDS = {bool: "bool_param", int: "uint32_param", str: "string_param"}


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """The process's logs are as before afterwards."""
    before, configuration = log_output(), structlog.get_config()
    set_log_output(LogOutput())
    yield
    set_log_output(before)
    structlog.configure(**configuration)


def change(call: Call = OPERATOR, **settings: bool | int | str | None) -> dict[str, object]:
    request = oip.LogSettingsRequest()
    for name, value in settings.items():
        entry = request.settings[name]
        if value is not None:
            setattr(entry, KINDS[type(value)], value)
    reply = log_settings(request, call)
    return {
        name: getattr(value, value.WhichOneof("parameter_choice"))
        for name, value in reply.settings.items()
    }


def test_reading_is_open_and_tells_all():
    assert change(Call()) == {
        "log_file": "",
        "log_info": True,
        "log_warning": True,
        "log_error": True,
        "log_verbose_level": 0,
        "log_format": "ISO8601",
    }


def test_changing_needs_control():
    with pytest.raises(PermissionDenied):
        change(Call("someone"), log_info=False)
    assert log_output().info


def test_the_output_of_loggers_that_exist_is_switched(monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    configure_logs("test", ProcessSettings(log_format="json", log_level="warning"))
    log = logger("here")

    def said() -> list[str]:
        written.seek(0)
        written.truncate()
        for level in ("debug", "info", "warning", "error"):
            getattr(log, level)(level)
        return [json.loads(line)["event"] for line in written.getvalue().splitlines()]

    assert said() == ["warning", "error"]
    assert not change(Call())["log_info"]
    change(log_info=True, log_warning=False)
    assert said() == ["info", "error"]
    change(log_verbose_level=1, log_error=False)
    assert said() == ["debug", "info"]
    change(log_verbose_level=0, log_info=False)
    assert said() == []


def test_the_format_is_that_of_the_time(monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    configure_logs("test", ProcessSettings(log_format="json"))
    assert change(log_format="default")["log_format"] == "default"
    logger("here").info("first")
    change(log_format="ISO8601")
    logger("here").info("second")
    stamps = {
        event["event"]: event["timestamp"]
        for event in map(json.loads, written.getvalue().splitlines())
    }
    assert re.fullmatch(r"\d{4} \d\d:\d\d:\d\d\.\d{6}", stamps["first"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", stamps["second"])


@pytest.mark.parametrize(
    ("settings", "reason", "words"),
    [
        ({"log_infos": True}, "UNKNOWN_LOG_SETTING", "did you mean log_info?"),
        ({"log_info": 1}, "BAD_LOG_SETTING", "'log_info' must be true or false"),
        ({"log_info": None}, "BAD_LOG_SETTING", "true or false"),
        ({"log_verbose_level": True}, "BAD_LOG_SETTING", "must be a uint32"),
        ({"log_format": "GLOG"}, "BAD_LOG_SETTING", "must be 'ISO8601' or 'default'"),
        ({"log_format": True}, "BAD_LOG_SETTING", "'ISO8601' or 'default'"),
    ],
)
def test_wrong_settings_change_nothing(settings, reason, words):
    with pytest.raises(InvalidArgument) as caught:
        change(**{"log_error": False, **settings})
    assert caught.value.reason == reason
    assert words in caught.value.message
    assert caught.value.field == f"settings[{next(iter(settings))}]"
    assert log_output() == LogOutput()


def test_no_caller_names_a_file():
    with pytest.raises(Unimplemented, match="cannot be set over the network"):
        change(log_file="/etc/passwd")
