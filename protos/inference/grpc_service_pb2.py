"""Messages of inference/grpc_service.proto; written by `make protos`."""

from protos.pool import module_members

globals().update(module_members("inference/grpc_service.proto"))
