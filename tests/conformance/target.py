"""A server under test, and what the suite sends to it with Triton's own message classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from tritonclient.grpc import service_pb2, service_pb2_grpc

MEMORY_PREFIX = "conformance-"


@dataclass(frozen=True)
class Target:
    """One server by the ports it announced."""

    name: str
    serving: Mapping[str, int]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.serving['port']}"

    @property
    def http_address(self) -> str:
        return f"127.0.0.1:{self.serving['http_port']}"

    @contextmanager
    def stub(self) -> Iterator[service_pb2_grpc.GRPCInferenceServiceStub]:
        """Raw calls with Triton's generated classes."""
        with grpc.insecure_channel(self.address) as channel:
            yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def tensor(name: str, array: np.ndarray, datatype: str) -> triton.InferInput:
    """Triton's input with that content; BF16 arrays are of ml_dtypes.bfloat16."""
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def message(
    model: str,
    *inputs: tuple[str, str, list[int], bytes | None],
    **fields: Any,
) -> service_pb2.ModelInferRequest:
    """A request of (name, datatype, shape, raw bytes or None) inputs."""
    made = service_pb2.ModelInferRequest(model_name=model, **fields)
    for name, datatype, shape, content in inputs:
        made.inputs.add(name=name, datatype=datatype, shape=shape)
        if content is not None:
            made.raw_input_contents.append(content)
    return made


@dataclass(frozen=True)
class Refusal:
    """A failed call as google.rpc tells it."""

    code: str
    reason: str
    field: str
    sentence: str


@contextmanager
def refused(code: str, reason: str, field: str | None = None) -> Iterator[list[Refusal]]:
    """The body must fail with that status, ErrorInfo reason and, if given, BadRequest field."""
    found: list[Refusal] = []
    with pytest.raises(grpc.RpcError) as caught:
        yield found
    found.append(refusal_of(caught.value))
    assert (found[0].code, found[0].reason) == (code, reason), found[0]
    if field is not None:
        assert found[0].field == field, found[0]


def refusal_of(error: grpc.RpcError) -> Refusal:
    """What a client of any language reads from the status."""
    status = rpc_status.from_call(error)
    assert status is not None, f"no google.rpc.Status: {error}"
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
    assert info.domain == "headrace"
    field = bad.field_violations[0].field if bad.field_violations else ""
    return Refusal(error.code().name, info.reason, field, error.details())
