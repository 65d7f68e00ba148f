"""Structured logs and the Prometheus endpoint of a process."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
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


def configure_logs(service: str, settings: ProcessSettings) -> None:
    """Logs go to standard error: one JSON object a line, or a console line on a terminal."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    console = settings.log_format == "console" or (
        settings.log_format == "auto" and sys.stderr.isatty()
    )
    structlog.configure(
        processors=[
            # Not a context variable: those do not reach the threads a process starts.
            _adds_service(service),
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=_STANDARD_ERROR),
        cache_logger_on_first_use=True,
    )


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
