"""Replicas that give each other blobs: the store is read once, whatever happens to one of them."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack

import grpc
import numpy as np
import pytest

from chassis.errors import InvalidArgument
from inference_service import peers
from inference_service.distribution import Distribution
from inference_service.peers import PeerBlobs
from inference_service.policy import relay
from inference_service.settings import ReplicaSettings
from model_store import Store, open_store
from model_store.digests import digest
from model_store.faults import FaultyStore
from protos.headrace.v1 import exchange_pb2
from tests.inference_service.line import Line, expected
from tests.inference_service.served_replica import ServedReplica

X = np.ones((1, 4), dtype=np.float32)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fleet that starts together is not avoided for it, nor a busy machine."""
    monkeypatch.setattr(relay, "AVOID_S", 0.0)
    monkeypatch.setattr(peers, "CONNECT_S", 20.0)


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class Fleet:
    """Replicas that are each other's peers, each with a cache and a counted store of its own."""

    def __init__(self, store_url: str, tmp_path, count: int, **settings: object) -> None:
        ports = free_ports(count)
        self.addresses = [f"127.0.0.1:{port}" for port in ports]
        self.stores = [FaultyStore(open_store(store_url)) for _ in ports]
        self.replicas = [
            ServedReplica(
                store_url,
                store,
                port=port,
                cache_dir=tmp_path / f"cache-{port}",
                peers=",".join(self.addresses),
                **settings,
            )
            for port, store in zip(ports, self.stores, strict=True)
        ]

    def reads(self) -> int:
        return sum(store.calls.count("read_blob") for store in self.stores)

    async def __aenter__(self) -> Fleet:
        self._entered = AsyncExitStack()
        for replica in self.replicas:
            await self._entered.enter_async_context(replica)
        for replica in self.replicas:
            await replica.wait_ready()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._entered.aclose()

    async def serve(self, version: int) -> None:
        await asyncio.gather(*(replica.wait_serving(version) for replica in self.replicas))


def blobs_of(store: Store, version: int, before: int) -> int:
    """How many blobs a version has that the one before it had not."""
    known = set(store.manifest("affine", before).digests())
    return len(set(store.manifest("affine", version).digests()) - known)


@pytest.mark.parametrize("fanout", [1, 4])
async def test_a_publication_is_read_from_the_store_once(store_url, line: Line, tmp_path, fanout):
    line.publish(1.0)
    async with Fleet(store_url, tmp_path, 4, peer_fanout=fanout) as fleet:
        before = fleet.reads()
        await fleet.serve(line.publish(2.0, bias=3.0))
        assert fleet.reads() - before == blobs_of(line.store, 2, 1)
        for replica in fleet.replicas:
            version, y = await replica.infer(X)
            assert version == 2
            np.testing.assert_array_equal(y, expected(2.0, X, bias=3.0))


async def test_replicas_of_one_machine_share_a_cache(store_url, line: Line, tmp_path):
    line.publish(1.0)
    stores = [FaultyStore(open_store(store_url)) for _ in range(3)]
    async with AsyncExitStack() as entered:
        for store in stores:
            replica = ServedReplica(store_url, store, cache_dir=tmp_path / "cache")
            await entered.enter_async_context(replica)
            await replica.wait_ready()
    reads = sum(store.calls.count("read_blob") for store in stores)
    assert reads == len(line.store.manifest("affine", 1).digests())


async def test_a_peer_that_is_gone_is_passed_over(store_url, line: Line, tmp_path):
    line.publish(1.0)
    async with Fleet(store_url, tmp_path, 4, peer_fanout=1) as fleet:
        gone = fleet.replicas[1].replica
        await gone.drain()
        await gone.stop(0)
        rest = [replica for replica in fleet.replicas if replica.replica is not gone]
        version = line.publish(2.0)
        await asyncio.gather(*(replica.wait_serving(version) for replica in rest))
        assert all([(await replica.infer(X))[0] == 2 for replica in rest])


async def test_whole_blobs_of_every_size_come_across(store_url, line: Line, tmp_path):
    line.publish(1.0)
    contents = [b"", b"x", b"y" * (1 << 20), b"z" * ((1 << 20) + 1), b"w" * (3 << 20)]
    names = [line.store.put_blob(content) for content in contents]
    async with Fleet(store_url, tmp_path, 1) as fleet:
        asker = PeerBlobs(
            FaultyStore(line.store),
            "asker",
            fanout=1,
            timeout_s=30,
            access=ReplicaSettings(store=store_url).peer_access(),
        )
        asker.on_peers(fleet.addresses)
        for name, content in zip(names, contents, strict=True):
            assert await asyncio.to_thread(asker.relayed, name, ()) == content
        asker.close()


async def raw_read(fleet: Fleet, name: str, via: list[str]) -> bytes:
    stub = fleet.replicas[0].channel.unary_stream(
        "/headrace.v1.BlobExchange/ReadBlob",
        request_serializer=exchange_pb2.ReadBlobRequest.SerializeToString,
        response_deserializer=exchange_pb2.ReadBlobResponse.FromString,
    )
    request = exchange_pb2.ReadBlobRequest(digest=name, via=via)
    return b"".join([part.content async for part in stub(request)])


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (digest(b"nobody has it"), grpc.StatusCode.NOT_FOUND),
        ("../../etc/passwd", grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_what_cannot_be_given_is_refused(store_url, line: Line, tmp_path, name, code):
    line.publish(1.0)
    async with Fleet(store_url, tmp_path, 1) as fleet:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await raw_read(fleet, name, [])
    assert raised.value.code() is code


async def test_a_question_that_came_round_is_refused(store_url, line: Line, tmp_path):
    line.publish(1.0)
    async with Fleet(store_url, tmp_path, 1) as fleet:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await raw_read(fleet, digest(b"x"), [fleet.addresses[0]])
    assert raised.value.code() is grpc.StatusCode.ABORTED


async def test_a_peer_that_lies_is_not_believed(store_url, line: Line, tmp_path):
    """Its cache holds other bytes under the name: it drops them, and the asker verifies too."""
    line.publish(1.0)
    name = line.store.put_blob(b"true" * 100)
    async with Fleet(store_url, tmp_path, 1) as fleet:
        assert await raw_read(fleet, name, []) == b"true" * 100
        [held] = [
            path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size == 400
        ]
        held.write_bytes(b"lies" * 100)
        assert await raw_read(fleet, name, []) == b"true" * 100


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"peers": "127.0.0.1:1"}, "needs replica.cache_dir"),
        ({"peers": "127.0.0.1:1", "cache_dir": "/tmp/x", "port": 0}, "needs replica.advertise"),
        ({"peers": "nowhere", "cache_dir": "/tmp/x"}, "expected host:port"),
        ({"peers": "dns:replicas", "cache_dir": "/tmp/x"}, "expected host:port"),
        ({"peers": "registry", "cache_dir": "/tmp/x"}, "replica.registry is empty"),
        (
            {"peers": "a:1", "cache_dir": "/tmp/x", "peer_key": "/k"},
            "need replica.peer_ca",
        ),
    ],
)
def test_settings_that_do_not_fit_are_named(store_url, settings, told):
    with open_store(store_url) as store, pytest.raises(InvalidArgument, match=told):
        Distribution.of(ReplicaSettings(store=store_url, **settings), store)
