"""A good client beside the bad ones, in a process of its own: each answer is checked exactly.

`python -m tests.fuzz.witness NAME=ADDRESS ...` asks the servers in turn until its standard input
ends, then prints one line of JSON: requests, failures and the slowest answer of each server.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

PAUSE_S = 0.005
TIMEOUT_S = 15.0
MOST_SHOWN = 5


@dataclass
class Record:
    """How one server answered."""

    requests: int = 0
    failures: int = 0
    slowest_s: float = 0.0
    shown: list[str] = field(default_factory=list)

    def fail(self, what: str) -> None:
        self.failures += 1
        if len(self.shown) < MOST_SHOWN:
            self.shown.append(what)


def ask(client: triton.InferenceServerClient, number: int, record: Record) -> None:
    """One request of the model `mix` with values of its own."""
    a = np.arange(number, number + 8, dtype=np.float32).reshape(2, 4)
    b = np.array([number, -number], np.int32)
    inputs = [triton.InferInput("a", [2, 4], "FP32"), triton.InferInput("b", [2], "INT32")]
    inputs[0].set_data_from_numpy(a)
    inputs[1].set_data_from_numpy(b)
    record.requests += 1
    started = time.perf_counter()
    try:
        answer = client.infer("mix", inputs, request_id=str(number), client_timeout=TIMEOUT_S)
    except InferenceServerException as error:
        record.fail(str(error)[:200])
    else:
        right = (
            np.array_equal(answer.as_numpy("sum"), a + b[:, None])
            and np.array_equal(answer.as_numpy("twice"), b * 2)
            and answer.get_response().id == str(number)
        )
        if not right:
            record.fail(f"wrong answer to {number}")
    record.slowest_s = max(record.slowest_s, time.perf_counter() - started)


def main(servers: list[str]) -> None:
    """Asks until standard input ends."""
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    clients = {}
    for server in servers:
        name, _, address = server.partition("=")
        clients[name] = triton.InferenceServerClient(address)
    records = {name: Record() for name in clients}
    number = 0
    while not ended.wait(PAUSE_S):
        for name, client in clients.items():
            number = (number + 1) % 100_000
            ask(client, number, records[name])
    sys.stdout.write(json.dumps({name: vars(record) for name, record in records.items()}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
