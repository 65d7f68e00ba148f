"""Messages of headrace/v1/delta.proto; written by `make protos`."""

from protos.pool import module_members

globals().update(module_members("headrace/v1/delta.proto"))
