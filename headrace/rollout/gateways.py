"""The gateways whose figures a rollout is judged by: which there are, and what each says.

Decides that a name in DNS stands for all its addresses at each look, and that a gateway which does
not answer is one whose figures are missing, with the reason, never one that is left out.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc

from chassis.connections import PLAIN, Access, open_channel
from chassis.edge import Stub, error_from_rpc
from chassis.errors import HeadraceError, InvalidArgument, NotFound, Unavailable
from headrace.policy.confidence import Sample
from headrace.policy.evidence import Arm, Shadow, View
from protos.headrace.v1 import gateway_pb2

SERVICE = "headrace.v1.GatewayAdmin"
CALL_TIMEOUT_S = 2.0
# Gateways asked side by side.
MAX_CALLS = 16
_DNS = "dns:"


@dataclass(frozen=True, slots=True)
class Answer:
    """What one gateway said of a rollout, or why it said nothing."""

    view: View | None
    error: str = ""


class Gateways:
    """The gateways that `sources` name: admin ports as host:port or dns:host:port.

    Connections are made when they are needed. Raises InvalidArgument (BAD_ADDRESS).
    """

    def __init__(self, sources: Sequence[str], access: Access = PLAIN) -> None:
        for source in sources:
            _check(source)
        self._sources = tuple(dict.fromkeys(sources))
        self._access = access
        self._channels: dict[str, grpc.Channel] = {}
        self._threads = ThreadPoolExecutor(MAX_CALLS, thread_name_prefix="gateways")

    def rollout(self, model: str) -> dict[str, Answer]:
        """What each gateway sees of the model's rollout, by its address."""
        answers: dict[str, Answer] = {}
        addresses: list[str] = []
        for source in self._sources:
            try:
                addresses += _addresses(source)
            except OSError as error:
                answers[source] = Answer(None, f"the name is not resolved: {error}")
        self._keep(addresses)
        names = list(dict.fromkeys(addresses))
        asked = self._threads.map(lambda address: self._ask(address, model), names)
        return dict(zip(names, asked, strict=True)) | answers

    def close(self) -> None:
        """Closes every connection."""
        self._threads.shutdown()
        self._keep([])

    def _ask(self, address: str, model: str) -> Answer:
        try:
            stub = Stub(self._channels[address], SERVICE, self._access.metadata)
            request = gateway_pb2.GetRolloutRequest(model=model)
            return Answer(_view(stub.GetRollout(request, timeout=CALL_TIMEOUT_S)))
        except grpc.RpcError as error:
            refusal = error_from_rpc(error)
            # A gateway without the model has seen nothing of it, which is an answer.
            if isinstance(refusal, NotFound):
                return Answer(View())
            return Answer(None, _words(refusal))

    def _keep(self, addresses: Sequence[str]) -> None:
        """Connections to these and no others."""
        for gone in self._channels.keys() - set(addresses):
            self._channels.pop(gone).close()
        for address in addresses:
            if address not in self._channels:
                self._channels[address] = open_channel(address, access=self._access)


def views_of(answers: Mapping[str, Answer]) -> dict[str, View | None]:
    """As `headrace.policy.evidence` takes them."""
    return {name: answer.view for name, answer in answers.items()}


def _words(refusal: HeadraceError) -> str:
    if isinstance(refusal, Unavailable) and refusal.reason == "UNAVAILABLE":
        return "no gateway answers there"
    return refusal.message


def _addresses(source: str) -> list[str]:
    """Raises OSError where a name is not known now."""
    if not source.startswith(_DNS):
        return [source]
    host, _, port = source.removeprefix(_DNS).rpartition(":")
    found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    hosts = sorted({str(item[4][0]) for item in found})
    return [f"[{one}]:{port}" if ":" in one else f"{one}:{port}" for one in hosts]


def _check(source: str) -> None:
    host, _, port = source.removeprefix(_DNS).rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()) or not 0 < int(port) < 65536:
        raise InvalidArgument(
            "BAD_ADDRESS",
            f"gateway {source[:80]!r} is not an address: expected host:port or dns:host:port",
        )


def _view(reply: Any) -> View:
    return View(
        version=reply.candidate_version,
        revision=reply.revision,
        endpoints=reply.endpoints,
        ready_endpoints=reply.ready_endpoints,
        candidate=_arm(reply.candidate),
        control=_arm(reply.control),
        shadow=Shadow(
            reply.shadow.batches,
            reply.shadow.failed,
            reply.shadow.rows,
            reply.shadow.changed_rows,
            _sample(reply.shadow.difference),
            reply.shadow.max_difference,
        ),
    )


def _arm(arm: Any) -> Arm:
    return Arm(
        arm.version,
        arm.requests,
        arm.failed,
        _sample(arm.slowness),
        _sample(arm.latency_ms),
        {name: _sample(scores) for name, scores in sorted(arm.scores.items())},
    )


def _sample(scores: Any) -> Sample:
    return Sample(scores.count, scores.sum, scores.sum_squares)
