"""Structured logs and the Prometheus endpoint of a process."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from dataclasses import dataclass
from typing import TextIO, cast

import structlog
from prometheus_client import CollectorRegistry, start_http_server
from structlog.typing import EventDict

from chassis.errors import InvalidArgument
from chassis.settings import ProcessSettings

REGISTRY = CollectorRegistry()


class _StandardError(io.TextIOBase):
    """Standard error as it is at each write. Nobody reading it any more is no reason to fail: a
    log line must not end the thread that wrote it."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()


_STANDARD_ERROR = cast(TextIO, _StandardError())

if not structlog.is_configured():
    # Unconfigured, structlog prints to standard output, which belongs to the program that imports
    # us: a training loop's own lines, or a command's JSON.
    structlog.configure(logger_factory=structlog.WriteLoggerFactory(file=_STANDARD_ERROR))


@dataclass(frozen=True, slots=True)
class LogOutput:
    """Which events are written, and how their time reads.

    `verbose_level` above 0 writes debug events too. `time_format` is "ISO8601", or "default" for
    what Triton's logs begin with (month and day, time of day, UTC).
    """

    info: bool = True
    warning: bool = True
    error: bool = True
    verbose_level: int = 0
    time_format: str = "ISO8601"

    @classmethod
    def of_level(cls, level: str) -> LogOutput:
        """What the setting process.log_level means."""
        return cls(
            info=level in ("debug", "info"),
            warning=level != "error",
            verbose_level=int(level == "debug"),
        )

    def writes(self, method: str) -> bool:
        """Whether an event logged by that method of a logger is written."""
        if method == "debug":
            return self.verbose_level > 0
        if method == "info":
            return self.info
        return self.warning if method == "warning" else self.error


class _Logs:
    """The process's output; replaced as a whole, so that threads see one or the other."""

    def __init__(self) -> None:
        self.output = LogOutput()


_LOGS = _Logs()
_STAMPS = {
    "ISO8601": structlog.processors.TimeStamper(fmt="iso", utc=True),
    "default": structlog.processors.TimeStamper(fmt="%m%d %H:%M:%S.%f", utc=True),
}
TIME_FORMATS = tuple(_STAMPS)


def log_output() -> LogOutput:
    """What is written now."""
    return _LOGS.output


def set_log_output(output: LogOutput) -> None:
    """From now on events of every logger of the process are written as `output` says."""
    _LOGS.output = output


def configure_logs(service: str, settings: ProcessSettings) -> None:
    """Logs go to standard error: one JSON object a line, or a console line on a terminal."""
    set_log_output(LogOutput.of_level(settings.log_level))
    console = settings.log_format == "console" or (
        settings.log_format == "auto" and sys.stderr.isatty()
    )
    structlog.configure(
        processors=[
            # First, so that an event nobody wants costs next to nothing. Loggers are made once and
            # kept: what they write can only be switched behind them.
            _drops_unwanted,
            # Not a context variable: those do not reach the threads a process starts.
            _adds_service(service),
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _stamps,
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.WriteLoggerFactory(file=_STANDARD_ERROR),
        cache_logger_on_first_use=True,
    )


def _drops_unwanted(_logger: object, method: str, event: EventDict) -> EventDict:
    if not _LOGS.output.writes(method):
        raise structlog.DropEvent
    return event


def _stamps(logger: object, method: str, event: EventDict) -> EventDict:
    return _STAMPS[_LOGS.output.time_format](logger, method, event)


def _adds_service(service: str) -> structlog.typing.Processor:
    def add(_logger: object, _method: str, event: EventDict) -> EventDict:
        return {"service": service, **event}

    return add


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of a module; `name` tells where an event came from."""
    bound: structlog.stdlib.BoundLogger = structlog.get_logger(source=name)
    return bound


def serve_metrics(host: str, port: int) -> int:
    """Serves REGISTRY over HTTP from a daemon thread; returns the port (`port` 0 picks one).

    Raises InvalidArgument (PORT_IN_USE).
    """
    try:
        server, _ = start_http_server(port, addr=host, registry=REGISTRY)
    except OSError as error:
        raise InvalidArgument(
            "PORT_IN_USE", f"metrics cannot listen on {host}:{port}: {error.strerror}"
        ) from None
    return int(server.server_address[1])
