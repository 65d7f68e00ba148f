"""One suite for every engine: what an instance promises, whatever computes it."""

from __future__ import annotations

import shutil
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from chassis.errors import FailedPrecondition, InvalidArgument
from chassis.tensors import Signature, TensorSpec
from headrace import Model, Publisher
from inference_service.architecture import Architecture, Choice
from inference_service.engines.compiler import Compiler
from inference_service.engines.engine import COMPILED, EAGER, EXPORTED
from inference_service.fill import Fill
from inference_service.instance import Instance
from inference_service.precision import PUBLISHED, Precision
from inference_service.rehearsal import Rehearsal
from model_store import Store, open_store
from model_store.records import Manifest, ProgramKind
from tests.inference_service.follower import Follower
from tests.inference_service.line import Line, expected
from tests.inference_service.sequence_models import RunningSumModel

CPU = torch.device("cpu")
COMPILING_S = 600
SWAPS = 60
ENGINES = [
    EAGER,
    EXPORTED,
    pytest.param(
        COMPILED,
        marks=[
            pytest.mark.timeout(COMPILING_S),
            pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
        ],
    ),
]
PRECISIONS = ["published", "bf16"]


class Mixed(nn.Module):
    """A table, a small bias, a constant, a buffer in the program and one in the versions."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.table = nn.Parameter(torch.randn(16, 8, generator=generator) * scale)
        self.bias = nn.Parameter(torch.arange(4.0) * scale)
        self.register_buffer("shift", torch.full((8,), scale))
        self.register_buffer("factor", torch.full((8,), 0.5), persistent=False)

    def forward(self, ids: torch.Tensor, x: torch.Tensor) -> dict[str, torch.Tensor]:
        rows = nn.functional.embedding(ids, self.table).mean(dim=1) * self.factor + self.shift
        y = (
            (rows + torch.tensor([1.0, 2.0] * 4, dtype=x.dtype)) @ self.table[:4].t()
            + self.bias
            + x
        )
        return {"rows": rows, "y": y}


class MixedModel(Model):
    name = "mixed"
    inputs = [TensorSpec("ids", "INT64", (-1, -1)), TensorSpec("x", "FP32", (-1, 4))]
    outputs = [TensorSpec("y", "FP32", (-1, 4)), TensorSpec("rows", "FP32", (-1, 8))]
    max_batch_size = 8

    def build(self) -> nn.Module:
        return Mixed()

    def samples(self):
        ids = np.arange(12, dtype=np.int64).reshape(4, 3)
        return {"ids": ids, "x": np.ones((4, 4), np.float32)}, None


@dataclass
class Bench:
    """A store with versions of `MixedModel` and what builds instances of them."""

    store: Store
    architecture: Architecture
    engine: str
    precision: Precision

    def publish(self, module: nn.Module) -> Manifest:
        with Publisher(self.store, MixedModel()) as publisher:
            version = publisher.publish(module)
        manifest = self.store.manifest("mixed", version)
        if self.engine != EAGER:
            return manifest
        path = f"{__name__}:MixedModel".encode()
        program = replace(
            manifest.program,
            kind=ProgramKind.IMPORT_PATH,
            digest=self.store.put_blob(path),
            size_bytes=len(path),
        )
        return replace(manifest, program=program)

    def build(self, manifest: Manifest) -> Instance:
        choice = Choice(self.engine, self.precision)
        instance = self.architecture.build(manifest, choice)
        assert (instance.engine.name, instance.why_not) == (self.engine, "")
        instance.materialize()
        return instance

    def fill(self, instance: Instance, manifest: Manifest, *holders: Instance) -> None:
        fill = Fill(self.store, manifest, holders, lambda: None)
        fill.install(instance)
        fill.verify(instance)

    def loaded(self, manifest: Manifest) -> Instance:
        instance = self.build(manifest)
        self.fill(instance, manifest)
        return instance

    def prove(self, instance: Instance, manifest: Manifest) -> None:
        golden = self.store.read_blob(manifest.probe.digest)
        rehearsal = Rehearsal(manifest.signature, manifest.probe, golden)
        rehearsal.warm_up(instance)
        rehearsal.prove(instance)


@pytest.fixture(scope="session")
def compiled_folder(tmp_path_factory) -> Path:
    """Compiling takes half a minute; every test of this process uses what one of them compiled."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(params=ENGINES)
def engine(request) -> str:
    return request.param


@pytest.fixture(params=PRECISIONS)
def bench(request, engine, store_url, compiled_folder):
    with open_store(store_url) as store:
        compiler = Compiler(CPU, folder=str(compiled_folder))
        architecture = Architecture(store, CPU, allow_import_path=True, compiler=compiler)
        yield Bench(store, architecture, engine, Precision(request.param))


def inputs(rows: int, words: int = 3, seed: int = 5) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 16, (rows, words), generator=generator)
    return [ids, torch.randn(rows, 4, generator=generator)]


def check(instance: Instance, module: nn.Module, given: list[torch.Tensor]) -> None:
    """The instance answers as `module` does, in the datatypes that the signature promises."""
    with torch.inference_mode():
        wanted = module(*given)
        y, rows = instance.run([value.clone() for value in given])
    assert y.dtype is rows.dtype is torch.float32
    tolerance = instance.precision.widened(1e-5, 1e-5)
    for found, exact in ((y, wanted["y"]), (rows, wanted["rows"])):
        far = (found - exact).abs().double() - tolerance.allowed(exact.double())
        assert float(far.max()) <= 0, (found, exact)


def test_it_answers_as_the_published_module(bench):
    module = Mixed(1.5)
    instance = bench.loaded(bench.publish(module))
    for rows in (1, 2, 5, 8, 1, 5):
        check(instance, module, inputs(rows))
        check(instance, module, inputs(rows, words=1))
    if bench.engine == COMPILED:
        assert instance.engine.admitted == 8


def test_a_refill_is_all_that_a_swap_takes(bench):
    instance = bench.loaded(bench.publish(Mixed(1.0)))
    check(instance, Mixed(1.0), inputs(4))
    storage = {name: value.data_ptr() for name, value in instance.tensors.items()}
    jobs = bench.architecture.compiler.jobs
    for scale in (-2.0, 0.5, 7.0):
        bench.fill(instance, bench.publish(Mixed(scale)))
        check(instance, Mixed(scale), inputs(4))
        check(instance, Mixed(scale), inputs(3))
    assert {name: value.data_ptr() for name, value in instance.tensors.items()} == storage
    assert bench.architecture.compiler.jobs == jobs


def test_two_slots_hold_two_versions(bench):
    first, second = bench.publish(Mixed(1.0)), bench.publish(Mixed(3.0))
    one, other = bench.loaded(first), bench.loaded(second)
    check(one, Mixed(1.0), inputs(4))
    check(other, Mixed(3.0), inputs(4))
    bench.fill(one, bench.publish(Mixed(4.0)))
    check(one, Mixed(4.0), inputs(4))
    check(other, Mixed(3.0), inputs(4))


def test_the_probe_passes_and_refuses(bench):
    good = bench.publish(Mixed(1.0))
    instance = bench.loaded(good)
    bench.prove(instance, good)
    instance.tensors["bias"].add_(3.0)
    with pytest.raises(FailedPrecondition) as caught:
        bench.prove(instance, good)
    assert caught.value.reason == "PROBE_FAILED"


def test_what_lies_in_the_slot_is_verified(bench, monkeypatch):
    manifest = bench.publish(Mixed(2.0))
    instance = bench.loaded(manifest)
    assert all(instance.intact(entry) for entry in manifest.tensors)
    instance.tensors["table"][3, 3] += 1
    assert [e.name for e in manifest.tensors if not instance.intact(e)] == ["table"]
    # Read anew, as it was published.
    Fill(bench.store, manifest, (), lambda: None).verify(instance)
    check(instance, Mixed(2.0), inputs(4))
    # A second instance takes what the first holds without reading the store.
    other = bench.build(manifest)
    monkeypatch.setattr(bench.store, "read_blob", None)
    bench.fill(other, manifest, instance)
    check(other, Mixed(2.0), inputs(4))


def test_an_index_outside_a_table_is_the_inputs_fault(bench):
    instance = bench.loaded(bench.publish(Mixed(1.0)))
    if bench.engine == EAGER:
        pytest.skip("what Python code raises is a failure of the model")
    for rows in (2, 2, 8):
        check(instance, Mixed(1.0), inputs(rows))
        bad = inputs(rows)
        bad[0][rows - 1, 1] = 16
        with torch.inference_mode(), pytest.raises(InvalidArgument) as caught:
            instance.run(bad)
        assert caught.value.reason == "UNSUPPORTED_VALUE"
        check(instance, Mixed(1.0), inputs(rows))


def test_inputs_that_are_views_are_computed_as_they_read(bench):
    module = Mixed(1.0)
    instance = bench.loaded(bench.publish(module))
    check(instance, module, inputs(4))
    ids, x = inputs(4)
    check(instance, module, [ids.flip(1), torch.stack([x, x], dim=2)[:, :, 1]])


def test_states_are_carried(engine, store, compiled_folder):
    with Publisher(store, RunningSumModel()) as publisher:
        publisher.publish(RunningSumModel().build())
    manifest = store.manifest("running", 1)
    compiler = Compiler(CPU, folder=str(compiled_folder))
    architecture = Architecture(store, CPU, allow_import_path=True, compiler=compiler)
    instance = architecture.build(manifest, Choice(engine, PUBLISHED))
    instance.materialize()
    Fill(store, manifest, (), lambda: None).install(instance)
    x = torch.ones(3, 2)
    total, count = torch.zeros(3, 2), torch.zeros(3, 1, dtype=torch.int64)
    with torch.inference_mode():
        for n in range(1, 4):
            sums, means, total, count = instance.run([x * n, total, count])
            assert torch.equal(sums, torch.full((3, 2), n * (n + 1) / 2))
            assert int(count[0]) == n
    assert means.dtype is torch.float32


def test_loads_follow_each_other(engine, store_url, line: Line, compiled_folder):
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    line.publish(1.0)
    compiler = Compiler(CPU, folder=str(compiled_folder))
    with Follower(store_url, choice=Choice(engine), compiler=compiler) as follower:
        follower.wait(lambda s: s.serving_version == 1, within_s=COMPILING_S)
        jobs = compiler.jobs
        for weight in (2.0, 3.0, 4.0, 5.0):
            version = line.publish(weight, bias=weight)
            follower.wait_serving(version)
            np.testing.assert_allclose(follower.answer(x)[1], expected(weight, x, weight))
            assert follower.answer(x, version - 1)[0] == version - 1
        assert compiler.jobs == jobs


def test_no_batch_is_torn(engine, store_url, line: Line, compiled_folder):
    """A thread computes without a pause while versions are swapped below it."""
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    line.publish(1.0, bias=1.0)
    compiler = Compiler(CPU, folder=str(compiled_folder))
    with Follower(store_url, choice=Choice(engine), compiler=compiler) as follower:
        follower.wait(lambda s: s.serving_version == 1, within_s=COMPILING_S)
        wrong, seen, done = [], set(), threading.Event()

        def compute() -> None:
            while not done.is_set():
                version, y = follower.answer(x)
                seen.add(version)
                if not np.allclose(y, expected(float(version), x, float(version))):
                    wrong.append((version, y))

        computing = threading.Thread(target=compute, daemon=True)
        computing.start()
        for weight in range(2, SWAPS + 2):
            follower.wait_serving(line.publish(float(weight), bias=float(weight)))
        done.set()
        computing.join(20)
        assert wrong == []
        assert len(seen) > SWAPS / 4


def test_a_program_without_python_code_is_not_run_eagerly(line, store_url):
    line.publish(1.0)
    with Follower(store_url, choice=Choice(EAGER)) as follower:
        follower.wait_serving(1)
        instance = follower.served.slots.serving.instance
        assert instance.engine.name == EXPORTED
        assert "no Python code" in instance.why_not


def test_without_a_compiler_the_graph_is_run_and_says_why(line, store_url, monkeypatch):
    monkeypatch.setenv("PATH", "")
    line.publish(1.0)
    with Follower(store_url, choice=Choice(COMPILED)) as follower:
        for weight in (2.0, 3.0):
            follower.wait_serving(line.publish(weight))
            instance = follower.served.slots.serving.instance
            assert instance.engine.name == EXPORTED
            assert instance.why_not == "not compiled: there is no g++ on this machine"


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_a_job_that_takes_too_long_is_ended(line, store):
    line.publish(1.0)
    compiler = Compiler(CPU, timeout_s=0.1)
    architecture = Architecture(store, CPU, allow_import_path=True, compiler=compiler)
    instance = architecture.build(store.manifest("affine", 1), Choice(COMPILED))
    assert instance.why_not == "not compiled: it took longer than 1 s"
    compiler.close()


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_a_job_that_fails_is_not_repeated(line, store, monkeypatch):
    line.publish(1.0)
    manifest = replace(
        store.manifest("affine", 1),
        signature=Signature(
            (TensorSpec("x", "FP32", (-1, 5)),), (TensorSpec("y", "FP32", (-1, 3)),), 8
        ),
        probe=None,
    )
    architecture = Architecture(store, CPU, allow_import_path=True)
    for _ in range(2):
        instance = architecture.build(manifest, Choice(COMPILED))
        assert instance.engine.name == EXPORTED
        assert instance.why_not.startswith("not compiled: torch.export refused the module")
    assert architecture.compiler.jobs == 1
    architecture.compiler.close()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_weights_are_half_as_large(line, store_url, precision):
    line.publish(1.0)
    choice = Choice(precision=Precision(precision))
    with Follower(store_url, choice=choice) as follower:
        follower.wait_serving(1)
        for weight in (2.0, 3.0):
            follower.wait_serving(line.publish(weight, bias=0.5))
            instance = follower.served.slots.serving.instance
            assert {t.dtype for t in instance.tensors.values()} == {Precision(precision).dtype}
            x = np.ones((2, 4), np.float32)
            np.testing.assert_array_equal(follower.answer(x)[1], expected(weight, x, 0.5))


def test_a_version_that_the_precision_ruins_is_refused(line, store_url):
    line.publish(1.0)
    with Follower(store_url, choice=Choice(precision=Precision("fp16"))) as follower:
        follower.wait_serving(1)
        # Weights that fp16 holds and products that it does not.
        failure = follower.wait_failed(line.publish(60000.0)).failures[0]
        assert failure.reason == "PROBE_FAILED"
        # Weights that it does not hold.
        failure = follower.wait_failed(line.publish(1e6)).failures[0]
        assert failure.reason == "NON_FINITE"
        assert follower.answer(np.ones((1, 4), np.float32))[0] == 1
        follower.wait_serving(line.publish(2.0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.timeout(COMPILING_S)
@pytest.mark.parametrize(
    ("engine", "precision"),
    # Compiling takes a minute each.
    [
        *((EXPORTED, precision) for precision in PRECISIONS),
        (COMPILED, "published"),
        (COMPILED, "bf16"),
    ],
)
def test_engines_on_a_gpu(engine, precision, store):
    cuda = torch.device("cuda:0")
    architecture = Architecture(store, cuda, allow_import_path=True)
    bench = Bench(store, architecture, engine, Precision(precision))
    instance = bench.loaded(bench.publish(Mixed(1.0)))
    for scale in (2.0, 3.0):
        bench.fill(instance, bench.publish(Mixed(scale)))
        check(instance, Mixed(scale).to(cuda), [value.to(cuda) for value in inputs(4)])
    architecture.compiler.close()
