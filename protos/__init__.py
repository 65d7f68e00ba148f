"""Wire messages of Headrace and of the Open Inference Protocol.

All files live in one private descriptor pool (`POOL`), so that this package imports beside
tritonclient, kserve and mlserver, which register the same OIP names in protobuf's default pool.
The modules `*_pb2.py` are written by `make protos`; nothing else in the tree defines messages.
"""

from protos.pool import POOL

__all__ = ["POOL"]
