"""Requests as bytes, made before the load begins: a request is a body, who asks, and an id.

Serialized protobuf messages that are joined are one message with the fields of all (the encoding
says so). So a body of tensors is serialized once for all classes, tenants and ids; sending joins
three strings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from chassis.infer import infer_request
from chassis.tensors import encode_raw
from headrace.load.contents import Contents
from headrace.load.mix import Tenant, TrafficClass
from headrace.load.plan import LoadPlan
from headrace.load.target import Target
from headrace.prediction import MICROSECONDS, set_parameter
from protos.inference import grpc_service_pb2 as oip

# Distinct bodies, so that no cache on the way answers, and how much memory they may take.
DISTINCT = 64
MOST_BYTES = 64 * 1024 * 1024

# Field 3 of ModelInferRequest, a string: `id`.
_ID_TAG = b"\x1a"


@dataclass(frozen=True, slots=True)
class Bodies:
    """Serialized requests without id and parameters, by their number of rows."""

    of_rows: Mapping[int, tuple[bytes, ...]]

    def body(self, rows: int, number: int) -> bytes:
        """What request `number` carries."""
        some = self.of_rows[rows]
        return some[number % len(some)]


def bodies_of(plan: LoadPlan, target: Target) -> Bodies:
    """Bodies for every number of rows that the plan may draw. Raises what `Contents` does."""
    contents = Contents(
        target, rows=plan.rows, given=plan.inputs, shapes=plan.shapes, seed=plan.seed
    )
    least, most = plan.rows
    budget = MOST_BYTES // (most - least + 1)
    return Bodies({rows: _some(plan, contents, rows, budget) for rows in range(least, most + 1)})


def sender_fields(kind: TrafficClass, tenant: Tenant) -> bytes:
    """Parameters of every request of a class and tenant, serialized."""
    request = oip.ModelInferRequest()
    if kind.priority:
        request.parameters["priority"].uint64_param = kind.priority
    if tenant.name and not tenant.token:
        set_parameter(request, "tenant", tenant.name)
    return bytes(request.SerializeToString())


def timeout_field(seconds: float) -> bytes:
    """The parameter `timeout`, as Triton reads it, serialized."""
    request = oip.ModelInferRequest()
    request.parameters["timeout"].int64_param = max(1, int(seconds * MICROSECONDS))
    return bytes(request.SerializeToString())


def id_field(wire_id: str) -> bytes:
    """A request's id of less than 128 characters, serialized."""
    encoded = wire_id.encode("ascii")
    return _ID_TAG + bytes((len(encoded),)) + encoded


def _some(plan: LoadPlan, contents: Contents, rows: int, budget: int) -> tuple[bytes, ...]:
    first = _body(plan, contents, rows, 0)
    count = min(DISTINCT, max(1, budget // len(first)))
    return (first, *(_body(plan, contents, rows, number) for number in range(1, count)))


def _body(plan: LoadPlan, contents: Contents, rows: int, number: int) -> bytes:
    inputs = [
        (name, datatype, array.shape, encode_raw(array, datatype))
        for name, (datatype, array) in contents.arrays(rows, number).items()
    ]
    message = infer_request(model=plan.model, version=plan.version, inputs=inputs)
    return bytes(message.SerializeToString())
