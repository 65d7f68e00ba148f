"""The examples do what their first lines say."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
import torch

from examples import plain_loop
from headrace import Publisher
from headrace.model import load_model
from model_store import open_store

MODELS = ["examples.digits:Digits", "examples.mlp:Mlp", "examples.encoder:Encoder"]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("path", MODELS)
def test_each_model_publishes_as_an_exported_program(path):
    model = load_model(path)
    with Publisher(f"memory://examples-{model.name}", model) as publisher:
        assert publisher.publish(model.build()) == 1
        assert publisher.store.manifest(model.name, 1).program.kind.value == "exported"


def test_digits_learns_from_a_guess_to_nine_in_ten():
    torch.manual_seed(0)
    model = load_model("examples.digits:Digits")
    module = model.build()
    optimizer = model.optimizer(module)
    rows = model.dataset()
    with torch.no_grad():
        first = model.evaluate(module)
    for _ in range(300):
        batch = rows[torch.randint(len(rows), (model.batch_size,))]
        optimizer.zero_grad()
        model.loss(module, batch).backward()
        optimizer.step()
    with torch.no_grad():
        last = model.evaluate(module)
        inputs, labels = model.samples()
        scores = module(torch.from_numpy(inputs["pixels"])).numpy()
    assert first["accuracy"] < 0.4
    assert last["accuracy"] > 0.85
    assert last["loss"] < first["loss"]
    assert model.score({"scores": scores}, labels).mean() == pytest.approx(last["accuracy"])


def test_digits_holds_out_rows_that_it_does_not_train_on():
    model = load_model("examples.digits:Digits")
    training = {pixels.numpy().tobytes() for pixels, _ in model.dataset()}
    inputs, labels = model.samples()
    assert len(labels) == 360
    assert len(training) + len(labels) >= 1790
    assert inputs["pixels"].dtype == np.float32
    assert 0 <= inputs["pixels"].min() < inputs["pixels"].max() <= 1
    held_out = {row.tobytes() for row in inputs["pixels"]}
    assert not held_out & training


def test_the_plain_loop_publishes(tmp_path, capsys):
    url = f"file://{tmp_path}/store"
    assert plain_loop.main(["--store", url, "--steps", "120", "--publish-every", "50"]) == 0
    with open_store(url) as store:
        manifests = [store.manifest("squares", at) for at in store.versions("squares")]
    assert [manifest.step for manifest in manifests] == [50, 100, 120]
    assert manifests[-1].metrics["loss"] < manifests[0].metrics["loss"]
    assert "published version 3" in capsys.readouterr().out


def test_the_plain_loop_needs_three_lines_of_headrace():
    source = import_module("inspect").getsource(plain_loop.main)
    assert sum("publisher" in line for line in source.splitlines()) == 3
