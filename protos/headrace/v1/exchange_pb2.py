"""Messages of headrace/v1/exchange.proto; written by `make protos`."""

from protos.pool import module_members

globals().update(module_members("headrace/v1/exchange.proto"))
