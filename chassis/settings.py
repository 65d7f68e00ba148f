"""Settings: one YAML file with a section per service, overridden by the environment, then by flags.

`gateway.port` in the file is `HEADRACE_GATEWAY_PORT` in the environment. Settings are read once,
at process start. An unknown key stops the process with its name and the nearest valid one. This is
the only module that reads the environment.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import yaml
from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from chassis import failpoints
from chassis.errors import InvalidArgument

SECTIONS = ("gateway", "replica", "trainer", "process", "client")
ENVIRONMENT_PREFIX = "HEADRACE_"
# Set by tests and operators outside any section.
BARE_VARIABLES = ("HEADRACE_FAILPOINTS", "HEADRACE_CONFIG", "HEADRACE_STORE")


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


# A list that the environment and flags write with commas.
CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


class Settings(BaseSettings):
    """Base of every settings class: frozen, closed, read by `load`."""

    section: ClassVar[str] = ""
    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_nested_delimiter="__")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)

    @classmethod
    def load(cls, file: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Self:
        """Reads this section from `file`, the environment and `overrides`, the last winning.

        An override of None is left out. Raises InvalidArgument (BAD_SETTING).
        """
        prefix = f"{ENVIRONMENT_PREFIX}{cls.section.upper()}_"
        values = _file_section(file, cls.section)
        _refuse_unknown(values, cls.model_fields, "setting {} in the file", f"{cls.section}.")
        _refuse_unknown_environment(prefix, cls)
        values |= EnvSettingsSource(cls, env_prefix=prefix)()
        values |= {key: value for key, value in (overrides or {}).items() if value is not None}
        _refuse_unknown(values, cls.model_fields, "setting {}", f"{cls.section}.")
        try:
            return cls(**values)
        except ValidationError as error:
            raise InvalidArgument("BAD_SETTING", _sentences(error, cls.section)) from None


class ProcessSettings(Settings):
    """What every process has beside its own section."""

    section: ClassVar[str] = "process"

    # debug, info, warning or error.
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$")
    # "json" (a line per event), "console", or "auto": console on a terminal.
    log_format: str = Field("auto", pattern="^(auto|json|console)$")


def config_file(given: Path | None) -> Path | None:
    """The settings file: the flag's, else HEADRACE_CONFIG's, else none."""
    named = os.environ.get("HEADRACE_CONFIG", "")
    return given or (Path(named) if named else None)


def default_store() -> str | None:
    """The store URL that HEADRACE_STORE names, for the CLI; None if unset."""
    return os.environ.get("HEADRACE_STORE") or None


def arm_failpoints() -> None:
    """Arms what HEADRACE_FAILPOINTS names; called once at process start."""
    failpoints.arm(os.environ.get("HEADRACE_FAILPOINTS", ""))


def child_environment(**changes: str) -> dict[str, str]:
    """This process's environment with `changes`, for a child process."""
    return os.environ | changes


def malloc_arenas_are_set() -> bool:
    """Whether the environment tells glibc how many arenas to have."""
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    return "MALLOC_ARENA_MAX" in os.environ or "glibc.malloc.arena_max" in tunables


def nearest(name: str, known: Iterable[str]) -> str:
    """A clause that names the closest of `known`, or all of them if none is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else "expected one of " + ", ".join(sorted(known))


def _file_section(file: Path | None, section: str) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        document = yaml.safe_load(file.read_text()) or {}
    except OSError as error:
        raise InvalidArgument(
            "BAD_SETTING", f"settings file {file} cannot be read: {error.strerror}"
        ) from None
    except yaml.YAMLError as error:
        raise InvalidArgument("BAD_SETTING", f"settings file {file} is not YAML: {error}") from None
    if not isinstance(document, dict):
        raise InvalidArgument(
            "BAD_SETTING", f"settings file {file} must hold a mapping of sections: {SECTIONS}"
        )
    _refuse_unknown(document, SECTIONS, "section {} in the file", "")
    values = document.get(section) or {}
    if not isinstance(values, dict):
        raise InvalidArgument("BAD_SETTING", f"section {section} must hold a mapping")
    return dict(values)


def _refuse_unknown(values: Iterable[object], known: Iterable[str], what: str, prefix: str) -> None:
    names = list(known)
    for key in values:
        if key not in names:
            hint = nearest(f"{prefix}{key}", [prefix + name for name in names])
            raise InvalidArgument(
                "BAD_SETTING", f"{what.format(f'{prefix}{key}')} is unknown; {hint}"
            )


def _refuse_unknown_environment(prefix: str, cls: type[Settings]) -> None:
    own = [prefix + name.upper() for name in cls.model_fields]
    others = tuple(f"{ENVIRONMENT_PREFIX}{name.upper()}_" for name in SECTIONS)
    for name in sorted(os.environ):
        if not name.startswith(ENVIRONMENT_PREFIX) or name in BARE_VARIABLES:
            continue
        known = name.split("__")[0] in own if name.startswith(prefix) else name.startswith(others)
        if not known:
            hint = nearest(name, [*own, *BARE_VARIABLES])
            raise InvalidArgument("BAD_SETTING", f"environment variable {name} is unknown; {hint}")


def _sentences(error: ValidationError, section: str) -> str:
    return "; ".join(
        f"setting {section}.{'.'.join(map(str, item['loc']))}: {item['msg']}, got {item['input']!r}"
        for item in error.errors()
    )
