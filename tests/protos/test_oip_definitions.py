"""Our OIP definitions are tritonclient's, field by field, and both live in one process.

What ours add is listed here: with numbers far beyond theirs, so that neither side minds the other.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from tritonclient.grpc import model_config_pb2 as their_config
from tritonclient.grpc import service_pb2 as their_service

from protos.inference import grpc_service_pb2, model_config_pb2

REPOSITORY = Path(__file__).parents[2]
FILES = [
    pytest.param(grpc_service_pb2, their_service, id="grpc_service"),
    pytest.param(model_config_pb2, their_config, id="model_config"),
]


INDEX = "inference.RepositoryIndexResponse"
ADDED = {
    f"{INDEX}.ModelIndex": {"revision": 1001, "rollout": 1002, "candidates_revision": 1003},
}
ADDED_MESSAGES = {f"{INDEX}.Rollout"}


def file_proto(module) -> descriptor_pb2.FileDescriptorProto:
    return descriptor_pb2.FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)


def messages(scope: str, found) -> dict[str, descriptor_pb2.DescriptorProto]:
    """Every message by full name, nested and map entries included."""
    flat = {}
    for message in found:
        name = f"{scope}.{message.name}"
        flat |= {name: message} | messages(name, message.nested_type)
    return flat


def message_facts(message: descriptor_pb2.DescriptorProto) -> dict[str, object]:
    oneofs = [oneof.name for oneof in message.oneof_decl]
    fields = {
        field.name: (
            field.number,
            field.Type.Name(field.type),
            field.Label.Name(field.label),
            field.type_name,
            oneofs[field.oneof_index] if field.HasField("oneof_index") else "",
            field.proto3_optional,
            field.options.SerializeToString(),
        )
        for field in message.field
    }
    return {"fields": fields, "oneofs": set(oneofs), "map": message.options.map_entry}


def enum_facts(scope: str, enums) -> dict[str, dict[str, int]]:
    return {
        f"{scope}.{enum.name}": {value.name: value.number for value in enum.value} for enum in enums
    }


def file_facts(module) -> dict[str, object]:
    file = file_proto(module)
    flat = messages(file.package, file.message_type)
    enums = enum_facts(file.package, file.enum_type)
    for name, message in flat.items():
        enums |= enum_facts(name, message.enum_type)
    return {
        "package": file.package,
        "syntax": file.syntax,
        "messages": {name: message_facts(message) for name, message in flat.items()},
        "enums": enums,
        "services": {service.name: service_facts(service) for service in file.service},
    }


def service_facts(service) -> dict[str, object]:
    return {
        method.name: (
            method.input_type,
            method.output_type,
            method.client_streaming,
            method.server_streaming,
        )
        for method in service.method
    }


@pytest.mark.parametrize(("ours", "theirs"), FILES)
def test_definitions_match_tritonclients_field_by_field(ours, theirs):
    mine, reference = file_facts(ours), file_facts(theirs)
    for name in ADDED_MESSAGES & mine["messages"].keys():
        del mine["messages"][name]
    for name, added in ADDED.items():
        fields = mine["messages"].get(name, {"fields": {}})["fields"]
        assert {field: fields.pop(field)[0] for field in list(added) if fields} in (added, {})
    assert mine.keys() == reference.keys()
    for kind in ("messages", "enums", "services"):
        assert mine[kind].keys() == reference[kind].keys()
        for name, facts in reference[kind].items():
            assert mine[kind][name] == facts, name
    assert mine == reference


def test_the_comparison_sees_every_rpc_and_nested_message():
    facts = file_facts(grpc_service_pb2)
    assert len(facts["services"]["GRPCInferenceService"]) == 20
    assert "inference.ModelInferRequest.InferInputTensor.ParametersEntry" in facts["messages"]
    parameter = facts["messages"]["inference.InferParameter"]["fields"]["uint64_param"]
    assert parameter[:2] == (5, "TYPE_UINT64")
    assert parameter[4] == "parameter_choice"


def test_bytes_of_one_are_bytes_of_the_other():
    theirs = their_service.ModelInferRequest(model_name="digits", id="7")
    theirs.parameters["priority"].uint64_param = 2**63
    theirs.inputs.add(name="pixels", datatype="FP32", shape=[1, 64])
    theirs.raw_input_contents.append(bytes(256))
    wire = theirs.SerializeToString(deterministic=True)
    ours = grpc_service_pb2.ModelInferRequest.FromString(wire)
    assert ours.parameters["priority"].uint64_param == 2**63
    assert ours.SerializeToString(deterministic=True) == wire


@pytest.mark.parametrize("order", ["ours first", "theirs first"])
def test_both_packages_import_into_one_process(order):
    lines = [
        "from protos.inference import grpc_service_pb2 as ours",
        "from protos.headrace.v1 import manifest_pb2",
        "import tritonclient.grpc",
    ]
    if order == "theirs first":
        lines.reverse()
    lines += [
        "from tritonclient.grpc import service_pb2 as theirs",
        "assert ours.ServerLiveRequest is not theirs.ServerLiveRequest",
        "print(theirs.ServerLiveResponse.FromString(",
        "    ours.ServerLiveResponse(live=True).SerializeToString()).live)",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
