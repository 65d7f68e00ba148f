"""Our servers and Triton's clients in one process, imported in either order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
OURS = "import headrace, gateway.assembly, inference_service.replica"
THEIRS = "import tritonclient.grpc, tritonclient.http, tritonclient.grpc.aio"
SERVES = """
import asyncio, sys
from headrace import Publisher
from gateway.assembly import Gateway
from gateway.settings import GatewaySettings
from inference_service.replica import Replica
from inference_service.settings import ReplicaSettings
from model_store import open_store
from tests.conformance.models import Flat
import numpy as np

async def ready(client):
    while not await client.is_model_ready("flat"):
        await asyncio.sleep(0.05)

async def main(url):
    with Publisher(url, model=Flat()) as publisher:
        publisher.publish(Flat().build())
    replica = Replica(ReplicaSettings(store=url, port=0, models="flat"), open_store(url))
    port = await replica.start()
    async with tritonclient.grpc.aio.InferenceServerClient(f"127.0.0.1:{port}") as client:
        await ready(client)
        inputs = [tritonclient.grpc.InferInput("x", [3], "FP32"),
                  tritonclient.grpc.InferInput("factor", [], "FP32")]
        inputs[0].set_data_from_numpy(np.array([1, 2, 3], np.float32))
        inputs[1].set_data_from_numpy(np.array(2, np.float32))
        print((await client.infer("flat", inputs)).as_numpy("y").tolist())
    await replica.server.stop(0)
    await replica.release()

asyncio.run(asyncio.wait_for(main(sys.argv[1]), 60))
"""


@pytest.mark.parametrize("lines", [(OURS, THEIRS), (THEIRS, OURS)], ids=["ours", "theirs"])
def test_a_server_answers_tritons_client_in_its_own_process(lines, tmp_path):
    program = "\n".join((*lines, SERVES))
    done = subprocess.run(
        [sys.executable, "-c", program, f"file://{tmp_path}/store"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stdout) == (0, "[2.0, 4.0, 6.0]\n"), done.stderr[-3000:]
