"""What a batch runs on: shapes seen and unseen, outputs believed, weights under any dtype."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from chassis.errors import FailedPrecondition, InvalidArgument
from chassis.tensors import Signature, TensorSpec
from headrace.program import DATATYPES, export_program, load_program
from inference_service.buffers import raw_of, tensor_of, view_of
from inference_service.engines.eager import Eager
from inference_service.engines.exported import Exported
from inference_service.engines.graph import move_literals
from inference_service.faults import BadOutput
from inference_service.fill import check_finite
from inference_service.instance import Instance
from inference_service.rehearsal import Rehearsal
from model_store.blobs import PART_BYTES
from model_store.records import Probe, Program, ProgramKind

CPU = torch.device("cpu")
PROGRAM = Program(ProgramKind.EXPORTED, "blake3:" + "0" * 64, 1)
TOKENS = Signature((TensorSpec("t", "INT64", (-1, -1)),), (TensorSpec("y", "FP32", (-1, -1)),), 4)


class Positions(nn.Module):
    """At most 16 positions, which the exporter finds out."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 1)
        self.places = nn.Embedding(16, 1)
        self.register_buffer("mask", torch.full((16,), -torch.inf))

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        places = self.places(torch.arange(t.shape[1], device=t.device))
        return (self.words(t) + places).squeeze(-1) + self.mask[: t.shape[1]].clamp(min=0)


def positions() -> Instance:
    module = Positions()
    content = export_program(module, TOKENS, [torch.zeros(2, 4, dtype=torch.int64)])
    loaded = load_program(content)
    instance = Instance(
        loaded, program=PROGRAM, signature=TOKENS, device=CPU, engine=Exported(loaded)
    )
    instance.materialize()
    for name, value in module.state_dict().items():
        instance.tensors[name].copy_(value)
    return instance


def run(instance: Instance, *inputs: torch.Tensor) -> list[torch.Tensor]:
    with torch.inference_mode():
        return instance.run(inputs)


def test_a_shape_passes_the_exporters_checks_once_and_is_fast_after():
    instance = positions()
    tokens = torch.zeros(2, 8, dtype=torch.int64)
    first = run(instance, tokens)[0]
    assert torch.equal(run(instance, tokens)[0], first)
    assert instance.engine.checked == {(tokens.shape,)}


def test_a_shape_that_the_program_cannot_do_is_the_callers_fault():
    instance = positions()
    for _ in range(2):
        with pytest.raises(InvalidArgument, match=r"inputs of shapes \[1, 17\]") as caught:
            run(instance, torch.zeros(1, 17, dtype=torch.int64))
        assert caught.value.reason == "UNSUPPORTED_SHAPE"
    with pytest.raises(InvalidArgument, match="index outside"):
        run(instance, torch.full((1, 3), 10))


def test_a_mask_of_infinities_is_no_damage_but_nan_is():
    instance = positions()
    check_finite(instance)
    instance.tensors["mask"][3] = torch.nan
    with pytest.raises(FailedPrecondition, match="'mask' holds NaN"):
        check_finite(instance)


def test_who_stops_does_not_wait_for_a_whole_tensor_to_be_looked_at():
    instance, asked = positions(), []
    instance.tensors["words.weight"] = torch.zeros(2 * PART_BYTES // 4 + 1)

    def go_on():
        asked.append(None)
        if len(asked) == 3:
            raise KeyError("stopped")

    with pytest.raises(KeyError):
        check_finite(instance, go_on=go_on)
    instance.tensors["words.weight"][-1] = torch.inf
    with pytest.raises(FailedPrecondition, match=r"'words.weight' holds an infinity"):
        check_finite(instance)


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda x: x.double(), "is FP64"),
        (lambda x: x[:1], "for 2 rows"),
        (lambda x: x.sum(), "of shape \\[\\]"),
        (lambda x: (x, x), "2 outputs"),
        (lambda x: "text", "a str as output 'y'; expected a tensor"),
        (lambda x: None, "a NoneType as output"),
        (lambda x: x.to_sparse(), "the signature promises"),
    ],
)
def test_an_output_other_than_promised_is_not_believed(returned, words):
    class Liar(nn.Module):
        def forward(self, x):
            return returned(x)

    spec = TensorSpec("x", "FP32", (-1, 3))
    signature = Signature((spec,), (replace(spec, name="y"),), 4)
    module = Liar()
    engine = Eager(module)
    instance = Instance(module, program=PROGRAM, signature=signature, device=CPU, engine=engine)
    with pytest.raises(BadOutput, match=words):
        run(instance, torch.zeros(2, 3))


@pytest.mark.parametrize("dtype", sorted(DATATYPES, key=str))
@pytest.mark.parametrize("shape", [(), (3,), (0, 2), (2, 3)])
def test_tensors_and_raw_bytes(dtype, shape):
    tensor = torch.randint(0, 2, shape).to(dtype)
    raw = raw_of(tensor)
    assert len(raw) == tensor.numel() * tensor.element_size()
    assert bytes(view_of(tensor)) == raw
    back = tensor_of(raw, DATATYPES[dtype], shape, CPU)
    assert back.dtype is dtype
    assert torch.equal(back, tensor)


def test_raw_bytes_are_row_major_whatever_the_strides():
    tensor = torch.arange(6.0).reshape(2, 3).t()
    assert raw_of(tensor) == np.ascontiguousarray(tensor.numpy()).tobytes()
    assert bytes(view_of(tensor)) == raw_of(tensor)


def test_a_module_that_writes_to_its_input_reaches_no_shared_bytes():
    one = b"\x01"
    tensor_of(one, "BOOL", (1,), CPU).zero_()
    assert bytes([1]) == b"\x01"
    assert one == b"\x01"


def test_devices_in_the_graph_are_moved():
    module = load_program(
        export_program(Positions(), TOKENS, [torch.zeros(2, 4, dtype=torch.int64)])
    )
    assert "device(type='cpu')" in module.code
    move_literals(module, torch.device("meta"))
    assert "device(type='cpu')" not in module.code
    assert "device(type='meta')" in module.code


def rehearsal(rows: int, wrong_by: float, tolerance: float, *, odd: float | None = None) -> None:
    import safetensors.torch

    spec = TensorSpec("x", "FP32", (-1, 2))
    signature = Signature((spec,), (replace(spec, name="y"),), 4)
    x = torch.arange(2.0 * rows).reshape(rows, 2)
    y = x.clone()
    y[-1, -1] += wrong_by
    if odd is not None:
        x[0, 0] = y[0, 0] = odd
    content = safetensors.torch.save({"input.x": x, "output.y": y})
    probe = Probe("blake3:" + "0" * 64, len(content), tolerance, 0.0)
    module = nn.Identity()
    engine = Eager(module)
    instance = Instance(module, program=PROGRAM, signature=signature, device=CPU, engine=engine)
    found = Rehearsal(signature, probe, content)
    found.warm_up(instance)
    found.prove(instance)


def test_a_probe_of_more_rows_than_a_batch_is_run_in_parts():
    rehearsal(9, 0.0, 0.0)
    with pytest.raises(FailedPrecondition, match="by up to 0.25 in 1 of 2 values"):
        rehearsal(9, 0.25, 0.2)


def test_tolerances_are_the_probes():
    rehearsal(2, 0.25, 0.3)
    rehearsal(2, 0.0, 0.0, odd=torch.inf)
    with pytest.raises(FailedPrecondition, match="by up to inf"):
        rehearsal(2, 0.0, 0.0, odd=torch.nan)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_exported_program_serves_on_cuda():
    cuda = torch.device("cuda:0")
    module = Positions()
    content = export_program(module, TOKENS, [torch.zeros(2, 4, dtype=torch.int64)])
    loaded = load_program(content)
    move_literals(loaded, cuda)
    engine = Exported(loaded)
    instance = Instance(loaded, program=PROGRAM, signature=TOKENS, device=cuda, engine=engine)
    instance.materialize()
    for name, value in module.state_dict().items():
        instance.tensors[name].copy_(value)
    tokens = torch.randint(0, 10, (3, 5))
    raw = tensor_of(raw_of(tokens), "INT64", (3, 5), cuda)
    y = run(instance, raw)[0]
    assert y.device == cuda
    torch.testing.assert_close(y.cpu(), module(tokens).detach())
    assert bytes(view_of(instance.tensors["mask"])) == raw_of(module.mask)
