"""How blobs come to this replica: from the store, through the host's cache, by way of peers.

Decides what is put together of what the settings ask for. A load sees one thing that reads blobs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from chassis.errors import InvalidArgument
from inference_service.exchange import ExchangeServicer
from inference_service.peer_directory import PeerDirectory
from inference_service.peers import PeerBlobs
from inference_service.settings import ReplicaSettings
from model_store.blobs import Blobs
from model_store.host_cache import HostCache
from model_store.store import Store


@dataclass(slots=True)
class Distribution:
    """`blobs` is what loads read; the rest is there where peers are asked."""

    blobs: Blobs
    peers: PeerBlobs | None = None
    directory: PeerDirectory | None = None
    servicer: ExchangeServicer | None = None

    @classmethod
    def of(cls, settings: ReplicaSettings, store: Store) -> Distribution:
        """As the settings say. Raises InvalidArgument (BAD_SETTING, BAD_TOKEN_FILE)."""
        if settings.peers:
            return cls._among_peers(settings, store)
        if settings.cache_dir is None:
            return cls(store)
        return cls(_cache(settings.cache_dir, store, settings))

    @classmethod
    def _among_peers(cls, settings: ReplicaSettings, store: Store) -> Distribution:
        if settings.cache_dir is None:
            raise InvalidArgument(
                "BAD_SETTING",
                "setting replica.peers needs replica.cache_dir: what peers ask for is kept there",
            )
        if not settings.advertise and not settings.port:
            raise InvalidArgument(
                "BAD_SETTING", "setting replica.peers needs replica.advertise, or a port"
            )
        own = settings.advertise or f"{settings.host}:{settings.port}"
        peers = PeerBlobs(
            store,
            own,
            fanout=settings.peer_fanout,
            timeout_s=settings.peer_timeout_s,
            access=settings.peer_access(),
        )
        directory = PeerDirectory(settings.peers, settings.registry, peers.on_peers)
        cache = _cache(settings.cache_dir, peers, settings)
        return cls(cache, peers, directory, ExchangeServicer(own, cache, peers))

    def start(self) -> None:
        """Begins to follow the list of peers; on the event loop."""
        if self.directory is not None:
            self.directory.start()

    def stop(self) -> None:
        """Asks peers no more and lets go of connections."""
        if self.directory is not None:
            self.directory.stop()
        if self.servicer is not None:
            self.servicer.close()
        if self.peers is not None:
            self.peers.close()


def _cache(directory: Path, source: Blobs, settings: ReplicaSettings) -> HostCache:
    return HostCache(directory, source, max_bytes=settings.cache_bytes)
