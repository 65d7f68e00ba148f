"""Which requests are traced: settings of the server and of models, rates, counts."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from chassis.errors import InvalidArgument, Unimplemented
from chassis.tracing import DEFAULTS, Tracing

ON = {"trace_level": ("TIMESTAMPS",), "trace_rate": ("1",)}


def ended(tracing: Tracing, count: int, model: str = "m") -> list[str]:
    """The ids written of `count` requests that end one after another."""
    with capture_logs() as events:
        for number in range(1, count + 1):
            if tracing.on and tracing.take(model):
                tracing.write(model, str(number), {"received": 1.0, "answered": 1.5}, version="3")
    return [event["id"] for event in events if event["event"] == "trace"]


def test_nothing_is_traced_by_default():
    tracing = Tracing("gateway")
    assert not tracing.on
    assert tracing.values() == DEFAULTS


def test_every_nth_request_is_written_until_the_count_is_reached():
    tracing = Tracing("gateway")
    tracing.update({**ON, "trace_rate": ("3",), "trace_count": ("2",)})
    assert tracing.on
    assert ended(tracing, 12) == ["3", "6"]
    assert not tracing.on
    assert tracing.values()["trace_count"] == ("0",)
    tracing.update({"trace_count": ("1",)})
    assert ended(tracing, 4) == ["3"]


def test_another_setting_does_not_start_the_count_again():
    tracing = Tracing("gateway")
    tracing.update({**ON, "trace_count": ("3",)})
    ended(tracing, 1)
    tracing.update({"trace_rate": ("2",)})
    assert tracing.values()["trace_count"] == ("2",)


def test_an_event_tells_the_stages_in_nanoseconds():
    tracing = Tracing("replica")
    tracing.update(ON)
    with capture_logs() as events:
        assert tracing.take("m")
        tracing.write("m", "x" * 300, {"received": 1.0, "answered": 1.5}, version="3", rows=4)
    [event] = events
    assert event == {
        "event": "trace",
        "log_level": "info",
        "source": "chassis.tracing",
        "place": "replica",
        "model": "m",
        "version": "3",
        "id": "x" * 128,
        "status": "OK",
        "batch_rows": 4,
        "timestamps_ns": {"received": 1_000_000_000, "answered": 1_500_000_000},
    }


def test_a_model_has_values_of_its_own_over_the_servers():
    tracing = Tracing("gateway")
    tracing.update(ON, "m")
    assert tracing.values("m")["trace_level"] == ("TIMESTAMPS",)
    assert tracing.values()["trace_level"] == ("OFF",)
    assert ended(tracing, 2, "m") == ["1", "2"]
    assert ended(tracing, 2, "other") == []
    tracing.update({"log_frequency": ("0",), "trace_rate": ("7",)})
    assert tracing.values("m")["trace_rate"] == ("1",)
    tracing.update({"trace_rate": ()}, "m")
    assert tracing.values("m")["trace_rate"] == ("7",), "cleared: the server's counts"
    tracing.update({"trace_level": ()}, "m")
    assert not tracing.on
    tracing.update({"trace_rate": ()})
    assert tracing.values("m") == DEFAULTS


def test_traces_are_kept_until_there_are_log_frequency_of_them():
    tracing = Tracing("gateway")
    tracing.update({**ON, "log_frequency": ("3",)})
    assert ended(tracing, 2) == []
    assert ended(tracing, 1) == ["1", "2", "1"]
    assert ended(tracing, 1) == []
    with capture_logs() as events:
        tracing.update({"trace_level": ("OFF",)})
    assert [event["id"] for event in events] == ["1"], "what was kept is not lost"
    tracing.update({**ON, "log_frequency": ("9",), "trace_count": ("2",)})
    assert ended(tracing, 3) == ["1", "2"], "no more come: they are written"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("trace_levels", ("OFF",), "UNKNOWN_TRACE_SETTING"),
        ("trace_level", ("TENSORS",), "BAD_TRACE_SETTING"),
        ("trace_level", ("TIMESTAMPS", "TENSORS"), "BAD_TRACE_SETTING"),
        ("trace_rate", ("-1",), "BAD_TRACE_SETTING"),
        ("trace_rate", ("fast",), "BAD_TRACE_SETTING"),
        ("trace_rate", ("1", "2"), "BAD_TRACE_SETTING"),
        ("trace_rate", ("9" * 5000,), "BAD_TRACE_SETTING"),
        ("trace_rate", ("2147483648",), "BAD_TRACE_SETTING"),
        ("trace_count", ("-2",), "BAD_TRACE_SETTING"),
        ("trace_count", ("--1",), "BAD_TRACE_SETTING"),
        ("trace_count", ("",), "BAD_TRACE_SETTING"),
        ("trace_count", ("\N{SUPERSCRIPT TWO}",), "BAD_TRACE_SETTING"),
        ("log_frequency", ("1.5",), "BAD_TRACE_SETTING"),
        ("trace_mode", ("opentelemetry",), "BAD_TRACE_SETTING"),
    ],
)
def test_wrong_values_change_nothing_and_name_the_setting(name, value, reason):
    tracing = Tracing("gateway")
    with pytest.raises(InvalidArgument) as caught:
        tracing.update({**ON, name: value})
    assert caught.value.reason == reason
    assert name in caught.value.message
    assert caught.value.field == f"settings[{name}]"
    assert tracing.values() == DEFAULTS
    assert not tracing.on


def test_no_caller_names_a_file():
    for value in (("/etc/passwd",), ()):
        with pytest.raises(Unimplemented) as caught:
            Tracing("gateway").update({"trace_file": value})
        assert caught.value.reason == "TRACE_FILE_FIXED"
