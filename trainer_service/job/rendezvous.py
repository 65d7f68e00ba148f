"""How the processes of a job find one another: a store on loopback, and nowhere else.

torchrun's own rendezvous listens on every interface, where anybody may write into it. One host is
all that a job spans, so there is nobody to wait for either.
"""

from __future__ import annotations

import socket

from torch._C._distributed_c10d import PrefixStore, TCPStore
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)

BACKEND = "loopback"
HOST = "127.0.0.1"


class LoopbackRendezvous(RendezvousHandler):
    """One agent; its workers share its store."""

    def __init__(self, parameters: RendezvousParameters) -> None:
        self._run_id = parameters.run_id
        listener = socket.create_server((HOST, 0))
        self._port = listener.getsockname()[1]
        self._store = TCPStore(
            HOST,
            self._port,
            is_master=True,
            multi_tenant=True,
            # The store owns the socket from here on.
            master_listen_fd=listener.detach(),
        )

    def get_backend(self) -> str:
        return BACKEND

    @property
    def use_agent_store(self) -> bool:
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        store = PrefixStore(self._run_id, self._store)
        return RendezvousInfo(store, 0, 1, RendezvousStoreInfo(HOST, self._port))

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        return None

    def num_nodes_waiting(self) -> int:
        return 0

    def get_run_id(self) -> str:
        return self._run_id

    def shutdown(self) -> bool:
        return True


def register() -> str:
    """Makes torchrun know it; returns the name to ask for."""
    rendezvous_handler_registry.register(BACKEND, LoopbackRendezvous)
    return BACKEND
