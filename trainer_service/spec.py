"""What a run is asked to be: the specification, its defaults and its limits.

Decides what can be said about a specification without running any of its code; whether the class
behind the import path is a usable Model is found out by the job.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from chassis.errors import InvalidArgument
from chassis.names import checked_name
from headrace.policy.publish_policy import PublishRule
from model_store import open_store

MAX_PROCESSES = 64
DEFAULT_CHECKPOINT_STEPS = 200
DEFAULT_EVALUATE_STEPS = 50
_INT64_MAX = 2**63 - 1

_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


@dataclass(frozen=True, slots=True)
class RunSpec:
    """As in headrace.v1.RunSpec, with the defaults filled in."""

    model: str
    store: str
    publish_as: str = ""
    channel: str = "stable"
    processes: int = 1
    max_steps: int = 0
    checkpoint_every_steps: int = DEFAULT_CHECKPOINT_STEPS
    evaluate_every_steps: int = DEFAULT_EVALUATE_STEPS
    publish: PublishRule = field(default_factory=PublishRule)
    seed: int = 0
    max_steps_per_s: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Plain values, for a record."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RunSpec:
        """Raises TypeError or KeyError for what `as_json` did not write."""
        return cls(**{**values, "publish": PublishRule(**values["publish"])})


def check_spec(spec: RunSpec, folder: Path) -> None:
    """Refuses a specification that no job could run; looks for the model's file from `folder`.

    Reads the file system, imports nothing. Raises InvalidArgument (BAD_IMPORT_PATH, BAD_STORE_URL,
    BAD_NAME, BAD_SPEC) naming the field and what was expected.
    """
    _check_import_path(spec.model, folder)
    _check_store(spec.store)
    if spec.publish_as:
        checked_name(spec.publish_as, what="publish_as")
    checked_name(spec.channel, what="channel")
    _check_numbers(spec)


def _check_numbers(spec: RunSpec) -> None:
    _check_range("processes", spec.processes, 1, MAX_PROCESSES)
    for name in ("max_steps", "checkpoint_every_steps", "evaluate_every_steps"):
        _check_range(name, getattr(spec, name), 0, _INT64_MAX)
    _check_range("publish.every_steps", spec.publish.every_steps, 0, _INT64_MAX)
    for name, value in (
        ("publish.every_s", spec.publish.every_s),
        ("max_steps_per_s", spec.max_steps_per_s),
    ):
        if not (math.isfinite(value) and value >= 0):
            raise _bad(name, f"expected seconds or steps of 0 or more, got {value}")
    if len(spec.publish.metric) > 128:
        raise _bad("publish.metric", "expected a metric's name of up to 128 characters")


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        bound = f"{low} to {high}" if high < _INT64_MAX else f"{low} or more"
        raise _bad(name, f"expected {bound}, got {value}")


def _bad(name: str, why: str) -> InvalidArgument:
    return InvalidArgument("BAD_SPEC", f"{name}: {why}", field=f"spec.{name}")


def _check_store(url: str) -> None:
    if url.startswith("memory://"):
        raise InvalidArgument(
            "BAD_STORE_URL",
            "store: memory:// ends with its process, and the job is another one; expected "
            "file:///path or redis://host:port/db",
            field="spec.store",
        )
    open_store(url).close()


def _check_import_path(path: str, folder: Path) -> None:
    if not _IMPORT_PATH.fullmatch(path):
        raise _bad_path(path, "that is not of this form")
    module = path.partition(":")[0]
    missing = _missing_module(module, folder)
    if missing:
        raise _bad_path(path, f"there is no module {missing!r}")


def _bad_path(path: str, why: str) -> InvalidArgument:
    return InvalidArgument(
        "BAD_IMPORT_PATH",
        f'model {path[:100]!r}: {why}; expected "package.module:Class" of a headrace.Model',
        field="spec.model",
    )


def _missing_module(module: str, folder: Path) -> str:
    """The first part of a dotted name that no finder knows; empty if all are found.

    importlib.util.find_spec would import the parents, which are a user's code.
    """
    importlib.invalidate_caches()
    search: list[str] | None = [str(folder), *sys.path]
    found = ""
    for part in module.split("."):
        found = f"{found}.{part}" if found else part
        if search is None:
            return found
        spec = _find(found, search, top=found == part)
        if spec is None:
            return found
        inside = spec.submodule_search_locations
        search = None if inside is None else list(inside)
    return ""


def _find(name: str, search: list[str], *, top: bool) -> importlib.machinery.ModuleSpec | None:
    found = importlib.machinery.PathFinder.find_spec(name, search)
    if found is None and top:
        # Built-in modules, and the finders that editable installs bring.
        others = [finder for finder in sys.meta_path if hasattr(finder, "find_spec")]
        found = next(filter(None, (finder.find_spec(name, None) for finder in others)), None)
    return found
