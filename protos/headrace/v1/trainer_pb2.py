"""Messages of headrace/v1/trainer.proto; written by `make protos`."""

from protos.pool import module_members

globals().update(module_members("headrace/v1/trainer.proto"))
