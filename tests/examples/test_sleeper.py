"""The model that sleeps: its times are weights, and the command puts it under load end to end."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from examples.sleeper import Sleep, Sleeper, main
from headrace import Client, Publisher
from headrace.load.arrivals import Arrivals, Spacing
from headrace.load.plan import LoadPlan
from headrace.load.run import run
from model_store import open_store
from model_store.records import ProgramKind
from tests.system.stack import Stack, wait_until


def test_a_batch_takes_alpha_and_beta_a_row():
    module = Sleep(20.0, 5.0)
    x = torch.arange(4.0).reshape(4, 1)
    began = time.perf_counter()
    assert torch.equal(module(x), x)
    assert time.perf_counter() - began >= 0.040


def test_replicas_import_the_class_and_get_the_times_as_weights(tmp_path):
    assert main(["--store", f"file://{tmp_path}/s", "--alpha-ms", "1", "--beta-ms", "0.5"]) == 0
    with open_store(f"file://{tmp_path}/s") as store:
        manifest = store.manifest("sleeper", 1)
        assert manifest.program.kind is ProgramKind.IMPORT_PATH
        assert store.read_blob(manifest.program.digest) == b"examples.sleeper:Sleeper"
        assert sorted(entry.name for entry in manifest.tensors) == ["alpha_ms", "beta_ms"]


@pytest.mark.system
def test_a_new_version_changes_the_speed_of_a_stack_under_load(tmp_path):
    url = f"file://{tmp_path}/store"
    stack = Stack(tmp_path, url, "sleeper")
    with Publisher(url, model=Sleeper()) as publisher:
        publisher.publish(Sleep(1.0, 0.0))
        try:
            stack.start(replicas=2)
            with Client(stack.gateway.address) as client:
                wait_until(lambda: client.ready("sleeper"), within_s=60, what="the model is ready")
                first = loaded(stack)
                publisher.publish(Sleep(100.0, 0.0))
                x = {"x": np.ones((1, 1), np.float32)}
                wait_until(
                    lambda: client.predict("sleeper", x, version=2).version == 2,
                    within_s=60,
                    what="the second version is served",
                )
            second = loaded(stack)
        finally:
            codes = stack.stop()
    assert codes == [0, 0, 0]
    assert first.versions == {"1": 50} and first.failures == second.failures == 0
    # One replica may still have answered by the first version for a moment.
    slow = [us for item in second.intervals.values() for us in item.latencies_us if us >= 100_000]
    assert len(slow) >= second.versions["2"] > 0


def loaded(stack):
    arrivals = Arrivals.at_rate(50, 1, Spacing.CONSTANT)
    plan = LoadPlan(address=stack.gateway.address, model="sleeper", arrivals=arrivals)
    return run(plan).total
