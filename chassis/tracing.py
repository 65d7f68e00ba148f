"""Which requests are traced, and what is written of them.

Every `trace_rate`-th request of a model that ended is one log event "trace" with the times of its
stages, until `trace_count` of them are written. Settings are the server's, and a model may have
values of its own over them. Whoever ends requests asks `on` first: tracing that is off costs that.

Names, values and defaults are Triton's; how they travel is `telemetry_rpcs`' affair.
"""

from __future__ import annotations

from collections.abc import Mapping

from chassis.errors import HeadraceError, InvalidArgument, Unimplemented
from chassis.settings import nearest
from chassis.telemetry import logger

log = logger(__name__)

NANOSECONDS = 1_000_000_000
# What is shown of a request's id, which its caller chose.
MOST_ID_CHARS = 128
MOST_COUNT = 2**31 - 1
# A setting's value is one or more texts, as clients send it.
Value = tuple[str, ...]

DEFAULTS: Mapping[str, Value] = {
    "trace_level": ("OFF",),
    "trace_rate": ("1000",),
    "trace_count": ("-1",),
    "log_frequency": ("0",),
    "trace_file": ("",),
    "trace_mode": ("triton",),
}


class Tracing:
    """The trace settings of a process and the counting of its requests. Owned by the loop.

    `place` is what its events call this process: "gateway" or "replica".
    """

    def __init__(self, place: str) -> None:
        self.on = False
        self._place = place
        self._own: dict[str, Value] = {}
        self._models: dict[str, dict[str, Value]] = {}
        self._sampler = _Sampler(DEFAULTS, None)
        # Only of models that have values of their own; the others are counted together.
        self._samplers: dict[str, _Sampler] = {}

    def values(self, model: str = "") -> dict[str, Value]:
        """What is in force for the model, or for the server; `trace_count` is what is left."""
        sampler = self._samplers.get(model, self._sampler)
        return {**sampler.settings, "trace_count": (str(sampler.left),)}

    def update(self, changes: Mapping[str, Value], model: str = "") -> None:
        """Sets values of the server, or of `model`; an empty one goes back to what is above it.

        All or nothing. Raises InvalidArgument (UNKNOWN_TRACE_SETTING, BAD_TRACE_SETTING) and
        Unimplemented (TRACE_FILE_FIXED).
        """
        for name, value in changes.items():
            _check(name, value)
        own = self._models.get(model, {}) if model else self._own
        merged = {name: value for name, value in {**own, **changes}.items() if value}
        if not model:
            self._own = merged
        elif merged:
            self._models[model] = merged
        else:
            self._models.pop(model, None)
        self._resettle(model, counted="trace_count" in changes)

    def take(self, model: str) -> bool:
        """Whether the request that ended now is to be written."""
        taken = self._samplers.get(model, self._sampler).take()
        if taken:
            self._settle_on()
        return taken

    def write(
        self,
        model: str,
        request_id: str,
        stages: Mapping[str, float],
        *,
        version: str = "",
        status: str = "OK",
        rows: int = 0,
    ) -> None:
        """Logs a request that `take` took, or keeps it until `log_frequency` of them are there.

        `stages` are points of the monotonic clock in seconds, in order; they are written as
        nanoseconds. `rows` are those of the batch that it ran in.
        """
        sampler = self._samplers.get(model, self._sampler)
        sampler.write(
            {
                "place": self._place,
                "model": model,
                "version": version,
                "id": request_id[:MOST_ID_CHARS],
                "status": status,
                "batch_rows": rows,
                "timestamps_ns": {name: int(at * NANOSECONDS) for name, at in stages.items()},
            }
        )

    def _resettle(self, changed: str, *, counted: bool) -> None:
        """New samplers for new values; a count that was not set anew goes on where it was."""
        effective = {**DEFAULTS, **self._own}
        before = self._sampler
        before.flush()
        self._sampler = _Sampler(effective, None if counted and not changed else before)
        samplers = {}
        for model, own in self._models.items():
            concerned = changed == model or (not changed and "trace_count" not in own)
            earlier = None if counted and concerned else self._samplers.get(model)
            samplers[model] = _Sampler({**effective, **own}, earlier)
        for sampler in self._samplers.values():
            sampler.flush()
        self._samplers = samplers
        self._settle_on()

    def _settle_on(self) -> None:
        self.on = self._sampler.on or any(s.on for s in self._samplers.values())


class _Sampler:
    """Counts requests under one set of values; `left` is how many more are taken, -1 for all."""

    def __init__(self, settings: Mapping[str, Value], earlier: _Sampler | None) -> None:
        self.settings = dict(settings)
        self.left = int(settings["trace_count"][0])
        if earlier is not None and earlier.settings["trace_count"] == settings["trace_count"]:
            self.left = earlier.left
        self._wanted = "TIMESTAMPS" in settings["trace_level"]
        self._rate = int(settings["trace_rate"][0])
        self._frequency = int(settings["log_frequency"][0])
        self._seen = 0
        self._kept: list[Mapping[str, object]] = []

    @property
    def on(self) -> bool:
        """Whether it may still take a request."""
        return self._wanted and self._rate > 0 and self.left != 0

    def take(self) -> bool:
        """Counts a request; whether it is one to be written."""
        if not self.on:
            return False
        self._seen += 1
        if self._seen % self._rate:
            return False
        if self.left > 0:
            self.left -= 1
        return True

    def write(self, trace: Mapping[str, object]) -> None:
        """Logs it, with those kept before it once there are enough of them, or no more come."""
        self._kept.append(trace)
        if len(self._kept) >= self._frequency or not self.on:
            self.flush()

    def flush(self) -> None:
        """Logs what was kept."""
        kept, self._kept = self._kept, []
        for trace in kept:
            log.info("trace", **trace)


def _check(name: str, value: Value) -> None:
    if name not in DEFAULTS:
        raise InvalidArgument(
            "UNKNOWN_TRACE_SETTING",
            f"trace setting {name[:64]!r} is unknown; {nearest(name[:64], DEFAULTS)}",
            field=f"settings[{name[:64]}]",
        )
    if name == "trace_file":
        raise Unimplemented(
            "TRACE_FILE_FIXED",
            "trace_file cannot be set over the network; traces are events of the server's log",
            field="settings[trace_file]",
        )
    if not value:
        return
    if name == "trace_level":
        _check_level(value)
    elif name == "trace_mode":
        if value != ("triton",):
            raise _bad(name, "'triton'; other modes are not served here")
    else:
        _check_number(name, value)


def _check_level(value: Value) -> None:
    if value not in (("OFF",), ("TIMESTAMPS",)):
        raise _bad(
            "trace_level", "'OFF' or 'TIMESTAMPS'; the contents of tensors are not traced here"
        )


def _check_number(name: str, value: Value) -> None:
    least = -1 if name == "trace_count" else 0
    text = value[0]
    digits = text.removeprefix("-") if least < 0 else text
    number = len(value) == 1 and digits.isascii() and digits.isdigit() and len(digits) <= 10
    if not number or not least <= int(text) <= MOST_COUNT:
        raise _bad(name, f"one integer from {least} to {MOST_COUNT}")


def _bad(name: str, expected: str) -> HeadraceError:
    return InvalidArgument(
        "BAD_TRACE_SETTING",
        f"trace setting {name!r} must be {expected}",
        field=f"settings[{name}]",
    )
