"""The swap benchmark at a small scale: real processes, exact answers, every figure there."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from benchmarks.swap.ballast import Ballast, Weights, fill, layer_of, rows
from benchmarks.swap.callers import is_exact
from benchmarks.swap.floors import file_floor_s
from headrace.prediction import Prediction


def test_answers_are_exact_and_every_tensor_changes():
    module = Weights(9)
    before = {n: v.clone() for n, v in fill(module, 1).state_dict().items()}
    after = fill(module, 2).state_dict()
    assert all(not before[name].equal(value) for name, value in after.items())
    x = rows(3, 7)
    with torch.inference_mode():
        np.testing.assert_array_equal(module(torch.from_numpy(x)).numpy(), x @ layer_of(2).T)
    assert sum(v.numel() * 4 for n, v in after.items() if "ballast" in n) == 9 * 2**20
    assert Ballast(9).name == "ballast-9"


def test_the_floor_is_the_work_of_so_many_bytes(tmp_path):
    assert file_floor_s(tmp_path, 1) > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.system
@pytest.mark.timeout(280)
def test_a_small_run_finds_every_figure(tmp_path):
    file = tmp_path / "swap.json"
    small = (
        "--swaps 6 --mib 1 --count 3 --calm-mib 1 --phase-s 1 --rounds 1 --replicas 2 --no-encoder"
    )
    arguments = small.split()
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.swap", *arguments, "--json", str(file)],
        capture_output=True,
        text=True,
        timeout=270,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(file.read_text())
    assert found["swaps"]["swaps"] == 6
    assert found["swaps"]["answers"] > 0
    assert (found["swaps"]["wrong"], found["swaps"]["failed"]) == (0, 0)
    calm = found["calm"]
    assert all(calm[f"{phase}_ms"] > 0 for phase in ("without", "unfollowed", "publishing"))
    assert calm["publishing"]["ratio"] > 0
    assert calm["requests_per_s"] > 0
    assert all(sizes["delta_bytes"] > 0 for sizes in found["deltas"].values())
    assert len(found["deltas"]) == 5
    assert [(one["store"], one["mib"]) for one in found["arrivals"]] == [("file", 1), ("redis", 1)]
    assert all(one["first_reply_ms"] > 0 for one in found["arrivals"])
    # All replicas of a host read a version once.
    assert found["reads"]["times_read"] == pytest.approx(1.0, abs=0.1)
    assert found["rollbacks"]["p50_ms"] > 0
    assert found["flips"]["p50_us"] > 0
    assert "torn or mixed" in run.stdout


def test_an_answer_of_two_versions_is_no_versions():
    x = rows(2, 3)
    one, other = x @ layer_of(1).T, x @ layer_of(2).T

    def answer(y: np.ndarray, step: int | None = 1) -> Prediction:
        return Prediction("m", 1, {"y": y}, train_step=step)

    assert is_exact(answer(one), x)
    assert not is_exact(answer(other), x)
    assert not is_exact(answer(np.concatenate([one[:1], other[1:]])), x)
    assert not is_exact(answer(one[:1]), x)
    assert not is_exact(answer(one, step=None), x)
