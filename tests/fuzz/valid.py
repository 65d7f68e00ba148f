"""Valid requests of every RPC, as bytes: what the mutations start from."""

from __future__ import annotations

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from tests.conformance.datatypes import TYPED_FIELDS, values
from tests.conformance.models import TORCH_DATATYPES

# Shared memory that is really there, and what requests call it.
KEY, REGION, REGION_BYTES = "/headrace_fuzz", "fuzz", 4096

# Half of all messages are inference requests, the others share the rest.
INFER_SHARE = 0.6


def infer_requests() -> list[bytes]:
    """Each datatype raw and typed, several inputs, every parameter; each has one answer."""
    requests = [_raw(datatype) for datatype in TORCH_DATATYPES]
    requests += [_typed(datatype) for datatype in TORCH_DATATYPES if datatype in TYPED_FIELDS]
    requests += [mix(), _full(), _flat(), _ragged("ragged"), _ragged("padded"), texts()]
    requests += [tally(2), classes()]
    return [request.SerializeToString() for request in requests]


def other_requests() -> dict[str, list[bytes]]:
    """By RPC; control RPCs name a model that nothing else uses."""
    named = {
        "ServerLive": [pb.ServerLiveRequest()],
        "ServerReady": [pb.ServerReadyRequest()],
        "ServerMetadata": [pb.ServerMetadataRequest()],
        "ModelReady": [pb.ModelReadyRequest(name="mix", version="1")],
        "ModelMetadata": [pb.ModelMetadataRequest(name="mix", version="1")],
        "ModelConfig": [pb.ModelConfigRequest(name="mix", version="1")],
        "ModelStatistics": [pb.ModelStatisticsRequest(name="mix", version="1")],
        "RepositoryIndex": [pb.RepositoryIndexRequest(ready=True)],
        "RepositoryModelLoad": [_load()],
        "RepositoryModelUnload": [_unload()],
        "SystemSharedMemoryStatus": [pb.SystemSharedMemoryStatusRequest(name="region")],
        "SystemSharedMemoryRegister": [
            pb.SystemSharedMemoryRegisterRequest(name="region", key="/none", byte_size=64),
            pb.SystemSharedMemoryRegisterRequest(name=REGION, key=KEY, byte_size=REGION_BYTES),
        ],
        "SystemSharedMemoryUnregister": [pb.SystemSharedMemoryUnregisterRequest(name="region")],
        "CudaSharedMemoryStatus": [pb.CudaSharedMemoryStatusRequest(name="region")],
        "CudaSharedMemoryRegister": [
            pb.CudaSharedMemoryRegisterRequest(name="region", raw_handle=bytes(64), byte_size=64)
        ],
        "CudaSharedMemoryUnregister": [pb.CudaSharedMemoryUnregisterRequest(name="region")],
        "TraceSetting": [pb.TraceSettingRequest(model_name="mix"), _trace()],
        "LogSettings": [pb.LogSettingsRequest(), _logs()],
    }
    return {
        method: [request.SerializeToString() for request in requests]
        for method, requests in named.items()
    }


def mix(rows: int = 2) -> pb.ModelInferRequest:
    """A request of the model with two inputs."""
    request = pb.ModelInferRequest(model_name="mix", id="7")
    request.inputs.add(name="a", datatype="FP32", shape=[rows, 4])
    request.inputs.add(name="b", datatype="INT32", shape=[rows])
    request.raw_input_contents.append(np.ones((rows, 4), np.float32).tobytes())
    request.raw_input_contents.append(np.ones(rows, np.int32).tobytes())
    return request


def texts() -> pb.ModelInferRequest:
    """A request of the model of texts."""
    request = pb.ModelInferRequest(model_name="text")
    request.inputs.add(name="x", datatype="BYTES", shape=[1, 4])
    words = (b"", b"a", b"\xff\x00", b"some words")
    request.raw_input_contents.append(
        b"".join(len(word).to_bytes(4, "little") + word for word in words)
    )
    return request


def count(responses: int) -> pb.ModelInferRequest:
    """A request of the decoupled model."""
    request = pb.ModelInferRequest(model_name="count")
    request.inputs.add(name="n", datatype="INT32", shape=[1])
    request.raw_input_contents.append(np.array([responses], np.int32).tobytes())
    return request


def tally(rows: int) -> pb.ModelInferRequest:
    """A whole sequence of the model with states."""
    request = pb.ModelInferRequest(model_name="tally")
    request.inputs.add(name="x", datatype="INT64", shape=[rows, 1])
    request.raw_input_contents.append(np.ones((rows, 1), np.int64).tobytes())
    request.parameters["sequence_id"].int64_param = 77
    request.parameters["sequence_start"].bool_param = True
    request.parameters["sequence_end"].bool_param = True
    return request


def classes() -> pb.ModelInferRequest:
    """The two best classes of a classifier."""
    request = pb.ModelInferRequest(model_name="classes")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 3])
    request.raw_input_contents.append(np.arange(3, dtype=np.float32).tobytes())
    output = request.outputs.add(name="scores")
    output.parameters["classification"].int64_param = 2
    return request


def _raw(datatype: str) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=f"identity-{datatype.lower()}")
    request.inputs.add(name="x", datatype=datatype, shape=[2, 4])
    request.raw_input_contents.append(values(datatype).tobytes())
    return request


def _typed(datatype: str) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=f"identity-{datatype.lower()}")
    tensor = request.inputs.add(name="x", datatype=datatype, shape=[2, 4])
    getattr(tensor.contents, TYPED_FIELDS[datatype]).extend(values(datatype).reshape(-1).tolist())
    return request


def _full() -> pb.ModelInferRequest:
    request = mix()
    request.model_version = "1"
    request.parameters["priority"].uint64_param = 2
    request.parameters["timeout"].int64_param = 5_000_000
    request.parameters["anything"].string_param = "a"
    request.parameters["number"].double_param = 0.5
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    for name in ("sum", "twice"):
        output = request.outputs.add(name=name)
        output.parameters["anything"].int64_param = 1
    request.inputs[0].parameters["anything"].bool_param = True
    return request


def _flat() -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="flat")
    request.inputs.add(name="x", datatype="FP32", shape=[3])
    request.inputs.add(name="factor", datatype="FP32")
    request.raw_input_contents.extend([bytes(12), bytes(4)])
    return request


def _ragged(model: str) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model)
    request.inputs.add(name="x", datatype="FP32", shape=[1, 6])
    request.raw_input_contents.append(bytes(24))
    return request


def _load() -> pb.RepositoryModelLoadRequest:
    request = pb.RepositoryModelLoadRequest(model_name="spare")
    request.parameters["config"].string_param = '{"max_batch_size": 4}'
    return request


def _unload() -> pb.RepositoryModelUnloadRequest:
    request = pb.RepositoryModelUnloadRequest(model_name="spare")
    request.parameters["unload_dependents"].bool_param = False
    return request


def _trace() -> pb.TraceSettingRequest:
    request = pb.TraceSettingRequest(model_name="mix")
    request.settings["trace_level"].value.append("OFF")
    return request


def _logs() -> pb.LogSettingsRequest:
    request = pb.LogSettingsRequest()
    request.settings["log_info"].bool_param = True
    return request
