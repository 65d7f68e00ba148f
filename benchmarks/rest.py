"""What a request costs the gateway over HTTP, beside the same one over gRPC.

`python -m benchmarks.rest [--seconds S] [--outstanding N]`: CPU microseconds of the gateway's
process per answered request of one row, as binary data, as JSON and over gRPC, in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from benchmarks.cpu import cpu_seconds
from benchmarks.settings import MODELS
from benchmarks.stack import Stack
from chassis.connections import open_aio_channel
from chassis.infer import encoded_inputs, infer_request
from chassis.oip import SERVICE
from headrace.model import load_model

WARM_UP_S = 1.0
# Each transport is measured this often, in turn, so that a busy machine is busy for all.
ROUNDS = 3

Ask = Callable[[], Awaitable[None]]


class HttpConnection:
    """One kept connection that sends the same bytes again and again."""

    def __init__(self, request: bytes) -> None:
        self._request = request

    async def open(self, host: str, port: int) -> Ask:
        """Connects; returns what asks once."""
        self._reader, self._writer = await asyncio.open_connection(host, port)
        return self.ask

    async def ask(self) -> None:
        """Raises AssertionError unless the answer is a 200."""
        self._writer.write(self._request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = head.lower().split(b"content-length: ")[-1].split(b"\r\n")[0]
        await self._reader.readexactly(int(length))


def http_request(model: str, arrays: Mapping[str, Any], *, binary: bool) -> bytes:
    """A whole request; its answer travels as its tensors do."""
    inputs: list[dict[str, Any]] = []
    raw_parts = []
    for name, datatype, shape, raw in encoded_inputs(arrays):
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(shape)}
        if binary:
            tensor["parameters"] = {"binary_data_size": len(raw)}
            raw_parts.append(raw)
        else:
            tensor["data"] = arrays[name].reshape(-1).tolist()
        inputs.append(tensor)
    text = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": binary}}).encode()
    body = b"".join([text, *raw_parts])
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
    if binary:
        head += f"inference-header-content-length: {len(text)}\r\n"
    return head.encode() + b"\r\n" + body


async def cost_us(asks: list[Ask], pid: int, seconds: float) -> tuple[float, float]:
    """CPU microseconds of the process per request, and requests per second."""
    counts = [0] * len(asks)
    stopping = False

    async def work(index: int) -> None:
        while not stopping:
            await asks[index]()
            counts[index] += 1

    async with asyncio.TaskGroup() as workers:
        for index in range(len(asks)):
            workers.create_task(work(index))
        await asyncio.sleep(WARM_UP_S)
        before, used, began = sum(counts), cpu_seconds(pid), time.perf_counter()
        await asyncio.sleep(seconds)
        done, used = sum(counts) - before, cpu_seconds(pid) - used
        passed = time.perf_counter() - began
        stopping = True
    return used / max(done, 1) * 1e6, done / passed


async def compare(stack: Stack, model: str, outstanding: int, seconds: float) -> None:
    """Prints a line for each transport."""
    with np.load(stack.samples) as samples:
        arrays = {name: samples[name][:1] for name in samples}
    host, _, port = stack.gateway.address("http_port").partition(":")
    channel = open_aio_channel(stack.gateway.address())
    call: Any = channel.unary_unary(f"/{SERVICE}/ModelInfer")
    message = infer_request(model=model, inputs=encoded_inputs(arrays)).SerializeToString()

    async def ask_grpc() -> None:
        await call(message)

    asks: dict[str, list[Ask]] = {"gRPC": [ask_grpc] * outstanding}
    for name, binary in (("HTTP binary", True), ("HTTP JSON", False)):
        request = http_request(model, arrays, binary=binary)
        asks[name] = [
            await HttpConnection(request).open(host, int(port)) for _ in range(outstanding)
        ]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in asks}
    for _, (name, workers) in itertools.product(range(ROUNDS), asks.items()):
        found[name].append(await cost_us(workers, stack.gateway.pid, seconds))
    await channel.close()
    cheapest = {name: min(cost for cost, _ in costs) for name, costs in found.items()}
    for name, cost in cheapest.items():
        rate = max(rate for _, rate in found[name])
        ratio = cost / cheapest["gRPC"]
        print(f"{outstanding:3} outstanding  {name:12} {cost:6.0f} us  {ratio:4.2f}  {rate:6.0f}/s")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="benchmarks.rest", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--outstanding", type=int, nargs="+", default=[1, 16])
    options = parser.parse_args()
    model = load_model(MODELS["mlp"])
    with tempfile.TemporaryDirectory() as directory:
        changes = {"http_port": "0"}
        with Stack(model, Path(directory), 1, 1, gateway_settings=changes) as stack:
            for outstanding in options.outstanding:
                uvloop.run(compare(stack, model.name, outstanding, options.seconds))


if __name__ == "__main__":
    main()
