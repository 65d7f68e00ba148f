"""Messages of inference/model_config.proto; written by `make protos`."""

from protos.pool import module_members

globals().update(module_members("inference/model_config.proto"))
