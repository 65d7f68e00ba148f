"""Settings: three sources, one order, and an unknown key that stops the process by name."""

from typing import ClassVar

import pytest
from pydantic import Field

from chassis.errors import InvalidArgument
from chassis.settings import CommaSeparated, ProcessSettings, Settings, nearest


class Example(Settings):
    section: ClassVar[str] = "gateway"
    port: int = Field(8001, ge=0, le=65535)
    endpoints: CommaSeparated = ()


@pytest.fixture
def config(tmp_path):
    def write(text):
        file = tmp_path / "headrace.yaml"
        file.write_text(text)
        return file

    return write


def test_flags_win_over_the_environment_and_it_over_the_file(config, monkeypatch):
    file = config("gateway: {port: 1, endpoints: [a, b]}\nreplica: {device: cpu}")
    assert Example.load(file) == Example(port=1, endpoints=("a", "b"))
    monkeypatch.setenv("HEADRACE_GATEWAY_PORT", "2")
    monkeypatch.setenv("HEADRACE_GATEWAY_ENDPOINTS", "c, d")
    assert Example.load(file) == Example(port=2, endpoints=("c", "d"))
    assert Example.load(file, {"port": "3", "endpoints": None}).port == 3


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("gateway: {prot: 1}", "gateway.prot in the file is unknown; did you mean gateway.port?"),
        ("gatway: {port: 1}", "section gatway in the file is unknown; did you mean gateway?"),
        ("gateway: {port: many}", "gateway.port: .*integer.*'many'"),
        ("gateway: {port: 70000}", "gateway.port: .*65535.*70000"),
        ("gateway: [1]", "section gateway must hold a mapping"),
        ("- 1", "must hold a mapping of sections"),
        ("a: b: c", "is not YAML"),
    ],
)
def test_a_wrong_file_names_what_is_wrong(config, text, sentence):
    with pytest.raises(InvalidArgument, match=sentence) as caught:
        Example.load(config(text))
    assert caught.value.reason == "BAD_SETTING"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InvalidArgument, match="nothere.yaml cannot be read: No such file"):
        Example.load(tmp_path / "nothere.yaml")


@pytest.mark.parametrize(
    ("variable", "sentence"),
    [
        ("HEADRACE_GATEWAY_PROT", "did you mean HEADRACE_GATEWAY_PORT"),
        ("HEADRACE_FAILPOINT", "did you mean HEADRACE_FAILPOINTS"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest(monkeypatch, variable, sentence):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(InvalidArgument, match=f"{variable} is unknown; {sentence}"):
        Example.load()


def test_variables_of_other_sections_are_not_ours(monkeypatch):
    monkeypatch.setenv("HEADRACE_REPLICA_DEVICE", "cpu")
    assert Example.load().port == 8001


def test_an_unknown_override_is_refused():
    with pytest.raises(InvalidArgument, match=r"gateway.endpoint is unknown; did you mean"):
        Example.load(None, {"endpoint": "a"})


def test_settings_are_frozen_and_levels_are_checked():
    with pytest.raises(ValueError, match="frozen"):
        Example().port = 3
    with pytest.raises(InvalidArgument, match="process.log_level"):
        ProcessSettings.load(None, {"log_level": "loud"})


def test_nearest_lists_all_when_none_is_close():
    assert nearest("zzz", ["port", "host"]) == "expected one of host, port"
