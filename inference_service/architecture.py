"""From a version's program to an `Instance` without weights, and whether weights belong into it.

Decides how each kind of program is read (an exported one needs no user code; an import path runs
the code of a headrace.Model class that is installed here, if settings allow it), and which engine
it gets: the one asked for where the program can have it, else the one it brings, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import fx, nn

from chassis.errors import FailedPrecondition, HeadraceError
from chassis.telemetry import logger
from headrace.model import load_model
from headrace.program import load_program
from inference_service.device.device import Device
from inference_service.device.graph_pool import GraphPool
from inference_service.device.handover import Handover
from inference_service.device.kinds import device_of
from inference_service.device.pinned_staging import PinnedStaging
from inference_service.engines.compiled import CompilationFailed, Compiled
from inference_service.engines.compiler import Compiler
from inference_service.engines.eager import Eager
from inference_service.engines.engine import AS_PUBLISHED, COMPILED, EAGER, EXPORTED, Engine
from inference_service.engines.exported import Exported
from inference_service.engines.graph import cast_literals, move_literals, name_constants
from inference_service.engines.graphed import Graphed
from inference_service.instance import Instance, check_supported
from inference_service.precision import PUBLISHED, Precision
from inference_service.staging import AT_ONCE, Staging
from model_store.blobs import Blobs
from model_store.records import Manifest, ProgramKind

log = logger(__name__)

# How far compiled code and its graph may differ where nothing is cast: two ways to round.
_TWO_WAYS = (1e-4, 1e-3)


@dataclass(frozen=True, slots=True)
class Choice:
    """How a model is to be computed; `engine` as in the settings, save "auto"; whether passes are
    recorded as CUDA graphs."""

    engine: str = AS_PUBLISHED
    precision: Precision = PUBLISHED
    cuda_graphs: bool = False


# A version runs as it was published.
AS_IT_COMES = Choice()


def _never() -> None:
    return


class Architecture:
    """Builds the instances of one model on one device.

    `lanes` is that device opened, where several models share it. Everything that a load does there
    goes into `lane`, at the pace of `staging`.
    """

    def __init__(
        self,
        blobs: Blobs,
        device: torch.device,
        *,
        allow_import_path: bool,
        compiler: Compiler | None = None,
        staging: Staging = AT_ONCE,
        lanes: Device | None = None,
    ) -> None:
        self._blobs = blobs
        self._device = device
        self._allow_import_path = allow_import_path
        self._lanes = lanes or device_of(device)
        self.lane = self._lanes.lane()
        self._pace = staging
        self.staging = PinnedStaging(staging, self._lanes) if self._lanes.apart else staging
        self.compiler = compiler or Compiler(device)
        # Of all instances: a load's new one shares its memory with the one that serves.
        self._pool = GraphPool(self._lanes)

    def of_model(self, *, paced: bool) -> Architecture:
        """The same for another model, whose loads have a lane of their own, and the same pace or
        none."""
        return Architecture(
            self._blobs,
            self._device,
            allow_import_path=self._allow_import_path,
            compiler=self.compiler,
            staging=self._pace if paced else AT_ONCE,
            lanes=self._lanes,
        )

    def build(
        self,
        manifest: Manifest,
        choice: Choice = AS_IT_COMES,
        *,
        go_on: Callable[[], None] = _never,
        timeout_s: float | None = None,
    ) -> Instance:
        """An instance of the manifest's program; an exported one takes no memory for weights yet.

        A compiled one may take minutes, `timeout_s` at most; `go_on` is asked meanwhile.
        Raises FailedPrecondition (UNSUPPORTED_DATATYPE, DECOUPLED_PROGRAM, IMPORT_PATH_REFUSED,
        BUILD_FAILED), InvalidArgument (BAD_PROGRAM, BAD_IMPORT_PATH), and what the store raises.
        """
        if manifest.program.kind is ProgramKind.EXPORTED:
            return self._exported(manifest, choice, go_on, timeout_s)
        return self._imported(manifest, choice)

    def _exported(
        self,
        manifest: Manifest,
        choice: Choice,
        go_on: Callable[[], None],
        timeout_s: float | None,
    ) -> Instance:
        check_supported(manifest.signature)
        content = self._blobs.read_blob(manifest.program.digest)
        module = load_program(content)
        if isinstance(module, fx.GraphModule):
            self._prepare(module, choice)
        engine, why_not = self._engine(manifest, choice, module, content, go_on, timeout_s)
        return Instance(
            module,
            program=manifest.program,
            signature=manifest.signature,
            device=self._device,
            engine=self._graphed(engine, manifest, choice),
            precision=choice.precision,
            why_not=why_not,
            staging=self.staging,
            handover=Handover(self._lanes),
            no_graphs=self._no_graphs(choice),
        )

    def _graphed(self, engine: Engine, manifest: Manifest, choice: Choice) -> Engine:
        """The engine, its passes recorded where the device can and the settings say so."""
        if not choice.cuda_graphs or not self._lanes.records:
            return engine
        tolerance = choice.precision.widened(*_TWO_WAYS)
        return Graphed(engine, manifest.signature, self._pool, tolerance)

    def _prepare(self, module: fx.GraphModule, choice: Choice) -> None:
        if self._device.type != "cpu":
            move_literals(module, self._device)
        if choice.precision.dtype is not None:
            cast_literals(module, choice.precision)
        if choice.engine == COMPILED or self._device.type != "cpu":
            name_constants(module)

    def _engine(
        self,
        manifest: Manifest,
        choice: Choice,
        module: nn.Module,
        content: bytes,
        go_on: Callable[[], None],
        timeout_s: float | None,
    ) -> tuple[Engine, str]:
        """The engine for an exported program, and why it is not the one asked for."""
        if choice.engine == EAGER:
            return Exported(module), "an exported program has no Python code to run eagerly"
        if choice.engine != COMPILED:
            return Exported(module), ""
        if not isinstance(module, fx.GraphModule):
            return Exported(module), "not compiled: the program is not one graph"
        probe = manifest.probe
        golden = self._blobs.read_blob(probe.digest) if probe is not None else b""
        tolerance = choice.precision.widened(*_TWO_WAYS)
        try:
            program = self.compiler.compiled(
                manifest, content, golden, choice.precision, go_on, timeout_s
            )
            compiled = Compiled(module, program, manifest.signature, self._device, tolerance)
        except CompilationFailed as failure:
            log.warning(
                "not compiled; the exported graph is run instead",
                model=manifest.model,
                version=manifest.version,
                why=str(failure),
            )
            return Exported(module), f"not compiled: {failure}"
        return compiled, ""

    def _no_graphs(self, choice: Choice) -> str:
        if not choice.cuda_graphs or self._lanes.records:
            return ""
        return f"device {self._device} records none"

    def _imported(self, manifest: Manifest, choice: Choice) -> Instance:
        path = self._blobs.read_blob(manifest.program.digest).decode(errors="replace")
        if not self._allow_import_path:
            raise FailedPrecondition(
                "IMPORT_PATH_REFUSED",
                f"the version needs the class {path}; setting replica.allow_import_path is off",
            )
        try:
            model = load_model(path)
            module = model.build().eval()
        except HeadraceError:
            raise
        except Exception as error:
            raise FailedPrecondition(
                "BUILD_FAILED", f"{path} failed to build: {type(error).__name__}: {error}"
            ) from error
        return Instance(
            module,
            program=manifest.program,
            signature=manifest.signature,
            device=self._device,
            engine=self._graphed(Eager(module), manifest, choice),
            precision=choice.precision,
            generate=model.generate,
            staging=self.staging,
            handover=Handover(self._lanes),
            no_graphs=self._no_graphs(choice),
            why_not="the version is an import path, which is run as Python code"
            if choice.engine in (EXPORTED, COMPILED)
            else "",
        )


def check_table(manifest: Manifest, instance: Instance) -> None:
    """Refuses weights that are not exactly those the module has, by name, datatype and shape, or
    that give different contents to tensors that it ties.

    Raises FailedPrecondition (UNKNOWN_TENSOR, MISSING_TENSOR, DTYPE_MISMATCH, SHAPE_MISMATCH,
    TIED_TENSORS).
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
    _check_tied(manifest, instance)


def _check_tied(manifest: Manifest, instance: Instance) -> None:
    digests = {entry.name: entry.digest for entry in manifest.tensors}
    for first, *others in instance.tied:
        for other in others:
            if digests[other] != digests[first]:
                raise FailedPrecondition(
                    "TIED_TENSORS",
                    f"the program ties tensors {first!r} and {other!r}; the version has different "
                    "contents for them",
                )
