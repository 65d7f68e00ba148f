"""Programs: the architecture without weights, exact after refilling."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from chassis.errors import InvalidArgument
from chassis.tensors import Signature, TensorSpec
from headrace.model import Model, load_model
from headrace.program import evaluating, export_program, load_program, state_of
from headrace.values import outputs_in_order

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 8)),), (TensorSpec("y", "FP32", (-1, 3)),), 16)


class Noisy(nn.Module):
    """What makes exports go wrong: dropout, batch norm, a tied weight, a non-persistent buffer."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(8, 3)
        self.tied = nn.Linear(8, 8)
        self.tied.weight = self.first.weight
        self.register_buffer("scale", torch.full((1,), 3.0), persistent=False)

    def forward(self, x):
        return self.last(self.tied(self.drop(self.norm(self.first(x))))) * self.scale


def refilled(program, module):
    loaded = load_program(program)
    result = loaded.load_state_dict(state_of(module), strict=False, assign=True)
    assert result.unexpected_keys == []
    return loaded


@pytest.mark.parametrize("rows", [1, 2, 7, 16])
def test_a_refilled_program_computes_what_the_module_does(rows):
    module = Noisy()
    module(torch.randn(32, 8))
    program = export_program(module, SIGNATURE, [torch.randn(1, 8)])
    loaded = refilled(program, module)
    x = torch.randn(rows, 8)
    with torch.inference_mode(), evaluating(module):
        torch.testing.assert_close(loaded(x), module(x))


def test_the_blob_is_the_same_for_all_weights_and_holds_none():
    module = nn.Sequential(nn.Linear(8, 512), nn.Linear(512, 3))
    first = export_program(module, SIGNATURE, [torch.randn(2, 8)])
    with torch.no_grad():
        module[0].weight.fill_(7.0)
    again = export_program(module, SIGNATURE, [torch.randn(3, 8)])
    assert first == again
    assert len(first) < 40_000


def test_the_module_is_left_as_it_was():
    module = Noisy()
    module.norm.eval()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    random = torch.get_rng_state()
    export_program(module, SIGNATURE, [torch.randn(2, 8)])
    torch.set_rng_state(random)
    assert module.training
    assert not module.norm.training
    assert module.first.weight.requires_grad
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_what_does_not_export_is_refused_with_torchs_reason():
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(InvalidArgument, match=r"torch.export refused the module: .+"):
        export_program(Branching(), SIGNATURE, [torch.randn(2, 8)])


def test_what_is_no_program_is_refused():
    with pytest.raises(InvalidArgument, match="does not load"):
        load_program(b"not a program")


def test_outputs_come_in_the_signatures_order():
    signature = Signature(
        SIGNATURE.inputs, (TensorSpec("a", "FP32", (-1,)), TensorSpec("b", "FP32", (-1,))), 16
    )
    a, b = torch.zeros(2), torch.ones(2)
    for result in ((a, b), [a, b], {"b": b, "a": a}):
        assert [
            item is one
            for item, one in zip(outputs_in_order(result, signature), (a, b), strict=True)
        ] == [True, True]
    for result in (a, {"a": a}, (a, None)):
        with pytest.raises(InvalidArgument, match=r"expected tensors \['a', 'b'\]"):
            outputs_in_order(result, signature)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("digits", 'expected "package.module:Class"'),
        ("no.such:Class", "No module named 'no'"),
        ("examples.digits:nope", "nope is no headrace.Model"),
        ("collections:OrderedDict", "OrderedDict is no headrace.Model"),
    ],
)
def test_a_wrong_import_path_is_explained(path, sentence):
    with pytest.raises(InvalidArgument, match=sentence):
        load_model(path)


def test_a_model_makes_samples_of_its_own_shapes():
    class Mixed(Model):
        name = "mixed"
        inputs = [TensorSpec("x", "FP16", (-1, 3)), TensorSpec("ids", "INT64", (-1, -1))]
        outputs = [TensorSpec("y", "FP32", (-1,))]

    arrays, labels = Mixed().samples()
    assert labels is None
    assert (arrays["x"].shape, str(arrays["x"].dtype)) == ((64, 3), "float16")
    assert (arrays["ids"].shape, str(arrays["ids"].dtype)) == ((64, 8), "int64")


def test_programs_load_side_by_side():
    program = export_program(nn.Linear(8, 3), SIGNATURE, [torch.randn(2, 8)])
    with ThreadPoolExecutor(8) as threads:
        loaded = list(threads.map(load_program, [program] * 16))
    assert all(set(module.state_dict()) == {"weight", "bias"} for module in loaded)
