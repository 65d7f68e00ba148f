"""From a version's program to an `Instance` without weights, and whether weights belong into it.

Decides how each kind of program is read: an exported program needs no user code; an import path
runs the code of a headrace.Model class that is installed here, if settings allow it.
"""

from __future__ import annotations

import torch

from chassis.errors import FailedPrecondition, HeadraceError
from headrace.model import load_model
from headrace.program import load_program
from inference_service.instance import Instance, check_supported
from model_store.blobs import Blobs
from model_store.records import Manifest, ProgramKind


class Architecture:
    """Builds instances on one device."""

    def __init__(self, blobs: Blobs, device: torch.device, *, allow_import_path: bool) -> None:
        self._blobs = blobs
        self._device = device
        self._allow_import_path = allow_import_path

    def build(self, manifest: Manifest) -> Instance:
        """An instance of the manifest's program; an exported one takes no memory for weights yet.

        Raises FailedPrecondition (UNSUPPORTED_DATATYPE, DECOUPLED_PROGRAM, IMPORT_PATH_REFUSED,
        BUILD_FAILED), InvalidArgument (BAD_PROGRAM, BAD_IMPORT_PATH), and what the store raises.
        """
        if manifest.program.kind is ProgramKind.EXPORTED:
            return self._exported(manifest)
        return self._imported(manifest)

    def _exported(self, manifest: Manifest) -> Instance:
        check_supported(manifest.signature)
        module = load_program(self._blobs.read_blob(manifest.program.digest))
        if self._device.type != "cpu" and isinstance(module, torch.fx.GraphModule):
            move_literals(module, self._device)
        return Instance(
            module,
            program=manifest.program,
            signature=manifest.signature,
            device=self._device,
            exported=True,
        )

    def _imported(self, manifest: Manifest) -> Instance:
        path = self._blobs.read_blob(manifest.program.digest).decode(errors="replace")
        if not self._allow_import_path:
            raise FailedPrecondition(
                "IMPORT_PATH_REFUSED",
                f"the version needs the class {path}; setting replica.allow_import_path is off",
            )
        try:
            model = load_model(path)
            return Instance(
                model.build().eval(),
                program=manifest.program,
                signature=manifest.signature,
                device=self._device,
                exported=False,
                generate=model.generate,
            )
        except HeadraceError:
            raise
        except Exception as error:
            raise FailedPrecondition(
                "BUILD_FAILED", f"{path} failed to build: {type(error).__name__}: {error}"
            ) from error


def move_literals(module: torch.fx.GraphModule, device: torch.device) -> None:
    """Points tensors that the graph itself creates at `device`; export baked in the trainer's."""
    for node in module.graph.nodes:
        if isinstance(node.kwargs.get("device"), torch.device):
            node.kwargs = {**node.kwargs, "device": device}
        if any(isinstance(argument, torch.device) for argument in node.args):
            node.args = tuple(
                device if isinstance(argument, torch.device) else argument for argument in node.args
            )
    module.recompile()


def check_table(manifest: Manifest, instance: Instance) -> None:
    """Refuses weights that are not exactly those the module has, by name, datatype and shape.

    Raises FailedPrecondition (UNKNOWN_TENSOR, MISSING_TENSOR, DTYPE_MISMATCH, SHAPE_MISMATCH).
    """
    table = instance.table()
    for entry in manifest.tensors:
        if entry.name not in table:
            raise FailedPrecondition(
                "UNKNOWN_TENSOR", f"the version has tensor {entry.name!r}; the program has not"
            )
        datatype, shape = table[entry.name]
        if entry.datatype != datatype:
            raise FailedPrecondition(
                "DTYPE_MISMATCH",
                f"tensor {entry.name!r} is {entry.datatype}; the program expects {datatype}",
            )
        if entry.shape != shape:
            raise FailedPrecondition(
                "SHAPE_MISMATCH",
                f"tensor {entry.name!r} has shape {list(entry.shape)}; the program expects "
                f"{list(shape)}",
            )
    missing = sorted(table.keys() - {entry.name for entry in manifest.tensors})
    if missing:
        raise FailedPrecondition(
            "MISSING_TENSOR",
            f"the version lacks {len(missing)} tensors of the program, such as {missing[0]!r}",
        )
