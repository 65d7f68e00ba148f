"""Blobs from other replicas, and from the store where none has to be asked or none can.

Decides how long a peer may take and that nothing of what it says is believed: the bytes are
verified against their digest. Whom to ask is `policy.relay`'s decision. Blocking and thread-safe;
used by loads and by what peers ask of this replica.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Collection, Sequence

import grpc
from prometheus_client import Counter

from chassis.connections import Access, open_channel
from chassis.edge import Stub, error_from_rpc
from chassis.errors import HeadraceError, Unavailable
from chassis.telemetry import REGISTRY, logger
from inference_service.policy.relay import Relay
from model_store.blobs import Blobs, at_once, place
from model_store.digests import hex_part, verified
from protos.headrace.v1 import exchange_pb2

log = logger(__name__)

SERVICE = "headrace.v1.BlobExchange"
# A peer that is gone must cost less than the store would.
CONNECT_S = 1.0

BYTES = Counter(
    "headrace_replica_blob_bytes",
    "Bytes of blobs that came to this replica, by where from: peer or store",
    ["origin"],
    registry=REGISTRY,
)
_FROM_PEERS, _FROM_STORE = BYTES.labels("peer"), BYTES.labels("store")


class PeerBlobs:
    """Blobs of `store` by way of peers; `timeout_s` bounds what one of them may take for a blob."""

    def __init__(
        self, store: Blobs, own: str, *, fanout: int, timeout_s: float, access: Access
    ) -> None:
        self._store = store
        self._own = own
        self._timeout_s = timeout_s
        self._access = access
        self._relay = Relay(own, fanout=fanout)
        self._channels: dict[str, grpc.Channel] = {}
        self._lock = threading.Lock()

    def on_peers(self, addresses: Collection[str]) -> None:
        """The list as it is now; connections to those that are gone are closed."""
        with self._lock:
            self._relay.on_peers(addresses)
            for gone in self._channels.keys() - self._relay.peers:
                self._channels.pop(gone).close()

    def read_blob(self, digest: str) -> bytes:
        """The bytes, verified. Raises what the store raises."""
        return self.relayed(digest, ())

    def read_blob_into(
        self, digest: str, target: memoryview, before: Callable[[int], None] = at_once
    ) -> None:
        """As `Store.read_blob_into`, in one part."""
        before(len(target))
        place(self.read_blob(digest), target, digest)

    def relayed(self, digest: str, via: Sequence[str]) -> bytes:
        """As `read_blob`, for a question that came by way of these replicas."""
        digits = hex_part(digest)
        with self._lock:
            sources = self._relay.sources(digits, now=time.monotonic())
        for peer in sources:
            if peer in via:
                # Its list of peers is another than ours: it waits for us.
                continue
            content = self._ask(peer, digest, via)
            if content is not None:
                _FROM_PEERS.inc(len(content))
                return content
        content = self._store.read_blob(digest)
        _FROM_STORE.inc(len(content))
        return content

    def close(self) -> None:
        """Closes every connection."""
        self.on_peers(())

    def _ask(self, peer: str, digest: str, via: Sequence[str]) -> bytes | None:
        try:
            return self._received(peer, digest, via)
        except HeadraceError as error:
            with self._lock:
                self._relay.on_failed(peer, now=time.monotonic())
            log.warning("a peer did not give a blob", peer=peer, reason=error.reason)
            return None

    def _received(self, peer: str, digest: str, via: Sequence[str]) -> bytes:
        request = exchange_pb2.ReadBlobRequest(digest=digest, via=[*via, self._own])
        try:
            channel = self._channel(peer)
            stub = Stub(channel, SERVICE, self._access.metadata)
            parts: list[bytes] = []
            received = 0
            for part in stub.ReadBlob(request, timeout=self._timeout_s):
                received += len(part.content)
                if received > part.size_bytes:
                    break
                parts.append(part.content)
        except grpc.RpcError as error:
            raise error_from_rpc(error) from None
        except (OSError, ValueError):
            # ValueError: it went off the list, and its channel was closed under this call.
            raise Unavailable("PEER_UNREACHABLE", "the peer takes no connections") from None
        return verified(b"".join(parts), digest)

    def _channel(self, peer: str) -> grpc.Channel:
        with self._lock:
            if peer in self._channels:
                return self._channels[peer]
        # gRPC alone would try a machine that is gone for 20 s.
        host, _, port = peer.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
        with self._lock:
            # Another thread may have been here, and the peer may be off the list by now.
            if peer not in self._channels:
                self._channels[peer] = open_channel(peer, access=self._access)
            return self._channels[peer]
