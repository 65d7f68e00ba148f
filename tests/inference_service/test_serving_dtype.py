"""Weights published in the datatype that they are served in: what is stored, sent and answered."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import numpy as np
import pytest
import torch
from torch import nn

from chassis.errors import InvalidArgument
from examples.digits import Digits
from headrace import Model, Publisher, TensorSpec
from inference_service.architecture import Choice
from inference_service.precision import Precision
from model_store import Store
from model_store.digests import digest
from model_store.memory_store import MemoryStore
from model_store.records import Manifest
from tests.inference_service.follower import Follower
from tests.publisher.stores import CountingStore

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SPEC = TensorSpec("x", "FP32", (-1, 8))


class Several(nn.Module):
    """Tied weights, running statistics, integers, an int64 input and outputs of several kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 8)
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.words.weight
        self.norm = nn.BatchNorm1d(8)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("ramp", torch.linspace(0, 1, 8), persistent=False)

    def forward(self, x: torch.Tensor, word: torch.Tensor) -> dict[str, torch.Tensor]:
        scores = self.head(self.norm(x) + self.words(word).squeeze(1) + self.ramp)
        return {"scores": scores, "best": scores.argmax(dim=1, keepdim=True)}


class SeveralModel(Model):
    name = "several"
    inputs = (SPEC, TensorSpec("word", "INT64", (-1, 1)))
    outputs = (TensorSpec("scores", "FP32", (-1, 10)), TensorSpec("best", "INT64", (-1, 1)))
    max_batch_size = 8

    def build(self) -> nn.Module:
        return Several()


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with MemoryStore(store_url.removeprefix("memory://")) as opened:
        yield opened


def trained() -> Iterator[nn.Module]:
    """The digits' network after each of some small steps, behind a few hundred large ones."""
    torch.manual_seed(0)
    model = Digits()
    module, data = model.build(), model.dataset()
    pixels, digits = data.tensors

    def step(optimizer: torch.optim.Optimizer) -> None:
        rows = torch.randint(0, len(pixels), (model.batch_size,))
        optimizer.zero_grad()
        model.loss(module, (pixels[rows], digits[rows])).backward()
        optimizer.step()

    coarse = model.optimizer(module)
    for _ in range(250):
        step(coarse)
    fine = torch.optim.AdamW(module.parameters(), lr=1e-5)
    for _ in range(5):
        yield module
        step(fine)


def sizes(store: CountingStore, manifest: Manifest) -> int:
    """Bytes of weights that were put for the version: of its tensors or of its delta."""
    return sum(store.put_sizes) - (manifest.probe.size_bytes if manifest.probe else 0)


def test_a_trained_network_in_bf16_is_small_deltas_and_a_replica_serves_it():
    sent: dict[str, list[int]] = {"fp32": [], "bf16": []}
    names = {name: f"dtype-{uuid4().hex}" for name in sent}
    stores = {name: CountingStore(names[name]) for name in sent}
    publishers = {n: Publisher(stores[n], Digits(), dtype=n) for n in ("fp32", "bf16")}
    for publisher in publishers.values():
        publisher.publish(Digits().build())
    pixels = Digits().samples()[0]["pixels"]
    with Follower("", store=MemoryStore(names["bf16"]), model="digits") as follower:
        for module in trained():
            before = {name: value.clone() for name, value in module.state_dict().items()}
            for name, publisher in publishers.items():
                stores[name].put_sizes.clear()
                version = publisher.publish(module)
                manifest = stores[name].manifest("digits", version)
                sent[name].append(sizes(stores[name], manifest))
            assert all(value.equal(before[name]) for name, value in module.state_dict().items())
            assert module.training and all(p.requires_grad for p in module.parameters())
            follower.wait_serving(version)
            answer = follower.answer(pixels[:32])[1]
            with torch.inference_mode():
                wanted = module.eval()(torch.from_numpy(pixels[:32])).numpy()
            module.train()
            assert answer.dtype == np.float32
            np.testing.assert_allclose(answer, wanted, atol=0.1, rtol=0.05)
        instance = follower.served.slots.serving.instance
        assert {tensor.dtype for tensor in instance.tensors.values()} == {torch.bfloat16}
    # The first are whole, in bf16 half as large; of the others hardly a word changed.
    assert sent["bf16"][0] < 0.75 * sent["fp32"][0]
    assert max(sent["bf16"][1:]) * 10 < min(sent["fp32"][1:])


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_cast_and_what_stays(store, store_url, dtype):
    torch.manual_seed(0)
    module = Several().double() if dtype == "fp32" else Several()
    module.train()(torch.randn(4, 8).to(module.words.weight.dtype), torch.ones(4, 1).long())
    with Publisher(store, SeveralModel(), dtype=dtype) as publisher:
        version = publisher.publish(module)
        manifest = store.manifest("several", version)
        named = {entry.name: entry.datatype for entry in manifest.tensors}
        assert named == {
            name: dtype.upper() if value.is_floating_point() else "INT64"
            for name, value in module.state_dict().items()
        }
        digests = {entry.name: entry.digest for entry in manifest.tensors}
        assert digests["head.weight"] == digests["words.weight"]
        assert [(s.name, s.datatype) for s in manifest.signature.outputs] == [
            ("scores", "FP32"),
            ("best", "INT64"),
        ]
        choices = (Choice(), Choice(precision=Precision("fp32")))
        for choice in choices:
            with Follower(store_url, model="several", choice=choice) as follower:
                follower.wait_serving(version)
        with torch.no_grad():
            module.words.weight.mul_(2)
        second = store.manifest("several", publisher.publish(module))
        assert second.program == manifest.program


def test_the_program_is_the_same_from_process_to_process(store, store_url):
    torch.manual_seed(0)
    module = nn.Linear(8, 3)
    versions = []
    for _ in range(2):
        with Publisher(
            store, "linear", example_inputs={"x": torch.randn(2, 8)}, dtype="bf16"
        ) as publisher:
            versions.append(store.manifest("linear", publisher.publish(module)))
    # And from what is stored alone.
    with Publisher(store, "linear", dtype="bf16") as publisher:
        versions.append(store.manifest("linear", publisher.publish(module)))
    assert len({manifest.program for manifest in versions}) == 1
    assert versions[0].signature.outputs[0].datatype == "FP32"
    with Follower(store_url, model="linear") as follower:
        follower.wait_serving(3)
    with Publisher(store, "linear") as publisher, pytest.raises(InvalidArgument, match="as BF16"):
        publisher.publish(module)


def test_another_module_of_the_same_tensors_or_of_others(store):
    spec = TensorSpec("y", "FP32", (-1, 8))
    with Publisher(store, "wide", inputs=[SPEC], outputs=[spec], dtype="fp16") as publisher:
        for module in (nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8, bias=False)):
            manifest = store.manifest("wide", publisher.publish(module))
            entry = next(e for e in manifest.tensors if e.name == "weight")
            assert entry.digest == digest(module.weight.detach().half().numpy())


class Names(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x.float(), self.weight)


class Generating(SeveralModel):
    name = "generating"
    decoupled = True

    def generate(self, module, inputs):
        yield {}


def test_a_forward_of_the_module_itself_is_refused_by_name(store):
    module = nn.Linear(8, 8)
    module.forward = lambda x: nn.functional.linear(x, module.weight, module.bias)
    with Publisher(store, "own", inputs=[SPEC], outputs=[SPEC], dtype="bf16") as publisher:
        with pytest.raises(InvalidArgument, match="forward is set on the Linear itself") as caught:
            publisher.publish(module)
        assert caught.value.reason == "NOT_CASTABLE"
        assert store.versions("own") == []


def test_what_cannot_be_cast_is_refused_by_name(store):
    with pytest.raises(InvalidArgument, match="dtype is 'fp8': expected one of 'fp32', "):
        Publisher(store, "x", dtype="fp8")
    with Publisher(store, "names", inputs=[SPEC], outputs=[SPEC], dtype="bf16") as publisher:
        with pytest.raises(InvalidArgument, match="does not compute in bf16") as caught:
            publisher.publish(Names(8, 8))
        assert caught.value.reason == "NOT_CASTABLE"
        assert store.versions("names") == []
    with Publisher(store, Generating(), dtype="bf16") as publisher:
        with pytest.raises(InvalidArgument, match="runs as Python code") as caught:
            publisher.publish(Several())
        assert caught.value.reason == "NOT_CASTABLE"
    with Publisher(store, "large", inputs=[SPEC], dtype="fp16") as publisher:
        module = nn.Linear(8, 8)
        module.weight.data[0, 0] = 1e6
        with pytest.raises(InvalidArgument, match="'weight' holds NaN or infinity"):
            publisher.publish(module)
