"""A line of versions for tests: publishes tiny modules, remembers what each must answer, and can
publish manifests that no honest publisher would make.

The module is `x @ weight.T + bias` for x of (rows, 4), giving (rows, 3).
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import safetensors.torch
import torch
from torch import nn

from chassis.tensors import Signature, TensorSpec
from headrace.model import Model
from headrace.program import DATATYPES, export_program
from model_store import Store
from model_store.publication import publish, rollback
from model_store.records import Channel, Manifest, Probe, Program, ProgramKind, TensorEntry

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "FP32", (-1, 3)),), 8)
Change = Callable[[Manifest], Manifest]

# A forward pass of `Moody` sets the one and waits for the other.
WAITING = threading.Event()
GATE = threading.Event()


class Affine(nn.Module):
    def __init__(self, weight: float = 1.0, bias: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3, 4), float(weight)))
        self.bias = nn.Parameter(torch.full((3,), float(bias)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


class AffineModel(Model):
    name = "affine"
    inputs = SIGNATURE.inputs
    outputs = SIGNATURE.outputs
    max_batch_size = 8

    def build(self) -> nn.Module:
        return Affine()


class Moody(Affine):
    """Affine, but a first element of 7 waits for `GATE`, 8 takes long, 13 raises, 14 looks up an
    index that is not there."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mood = float(x.reshape(-1)[0])
        if mood == 7:
            WAITING.set()
            GATE.wait(20)
        if mood == 8:
            time.sleep(0.5)
        if mood == 13:
            raise RuntimeError("secret of the module")
        if mood == 14:
            return nn.functional.embedding(torch.tensor([99]), self.weight)
        return super().forward(x)


class MoodyModel(AffineModel):
    def build(self) -> nn.Module:
        return Moody()


class TwoHeads(Affine):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = super().forward(x)
        return {"z": y.sum(dim=1) > 10, "y": y}


class TwoHeadsModel(AffineModel):
    outputs = (*SIGNATURE.outputs, TensorSpec("z", "BOOL", (-1,)))

    def build(self) -> nn.Module:
        return TwoHeads()


class BrokenModel(AffineModel):
    def build(self) -> nn.Module:
        raise ValueError("no weights today")


@functools.cache
def exported() -> bytes:
    return export_program(Affine(), SIGNATURE, [torch.ones(2, 4)])


def expected(version_weight: float, x: np.ndarray, bias: float = 0.0) -> np.ndarray:
    with torch.inference_mode():
        return Affine(version_weight, bias)(torch.from_numpy(x)).numpy()


class Line:
    """Publishes versions of one model into `store`."""

    def __init__(self, store: Store, model: str = "affine") -> None:
        self.store = store
        self.model = model
        self.program = self.put_program(ProgramKind.EXPORTED, exported())

    def put_program(self, kind: ProgramKind, content: bytes) -> Program:
        return Program(kind, self.store.put_blob(content), len(content))

    def put(self, name: str, tensor: torch.Tensor) -> TensorEntry:
        content = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        named = self.store.put_blob(content)
        return TensorEntry(name, DATATYPES[tensor.dtype], tuple(tensor.shape), named, len(content))

    def put_probe(self, module: nn.Module, *, wrong_by: float = 0.0) -> Probe:
        x = torch.arange(8, dtype=torch.float32).reshape(2, 4)
        with torch.no_grad():
            y = module(x) + wrong_by
        content = safetensors.torch.save({"input.x": x, "output.y": y})
        return Probe(self.store.put_blob(content), len(content), 1e-5, 1e-5)

    def manifest(self, weight: float, *, bias: float = 0.0, step: int = 0) -> Manifest:
        module = Affine(weight, bias)
        return Manifest(
            model=self.model,
            program=self.program,
            signature=SIGNATURE,
            tensors=tuple(self.put(n, v.detach()) for n, v in module.named_parameters()),
            probe=self.put_probe(module),
            step=step,
        )

    def publish(
        self,
        weight: float,
        *,
        bias: float = 0.0,
        step: int = 0,
        change: Change | None = None,
        channel: str = "stable",
    ) -> int:
        """The version made of `weight` and `bias`; `change` alters the manifest first."""
        manifest = self.manifest(weight, bias=bias, step=step)
        if change is not None:
            manifest = change(manifest)
        return publish(self.store, manifest, channel=channel).manifest.version

    def publish_moody(self, weight: float) -> int:
        """A version whose forward pass does as its input says; see `Moody`."""
        path = b"tests.inference_service.line:MoodyModel"
        program = self.put_program(ProgramKind.IMPORT_PATH, path)
        return self.publish(weight, change=lambda m: replace(m, program=program))

    def publish_two_heads(self, weight: float) -> int:
        """A version with outputs "y" and "z": z tells whether y's row sums to more than 10."""
        path = b"tests.inference_service.line:TwoHeadsModel"
        program = self.put_program(ProgramKind.IMPORT_PATH, path)
        signature = TwoHeadsModel().signature
        return self.publish(
            weight, change=lambda m: replace(m, program=program, signature=signature, probe=None)
        )

    def rollback(self, to_version: int) -> Channel:
        return rollback(self.store, self.model, to_version=to_version, reason="test")

    def with_tensor(self, name: str, tensor: torch.Tensor) -> Change:
        """Replaces the entry `name`, or adds it."""
        entry = self.put(name, tensor)

        def change(manifest: Manifest) -> Manifest:
            others = tuple(t for t in manifest.tensors if t.name != name)
            return replace(manifest, tensors=(*others, entry))

        return change
