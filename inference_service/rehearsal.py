"""Forward passes before a version may answer: warm-up and probe.

The warm-up pays for first calls (allocation, kernel choice) and shows that the module computes what
its signature promises at the smallest and the largest batch. The probe runs the publisher's golden
inputs and compares with its golden outputs: numbers within the probe's tolerance (widened where the
replica computes in another precision, see `precision`), BYTES exactly. Of a decoupled model a few
responses are computed, then the generation is closed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from types import EllipsisType
from typing import TypeVar

import numpy as np
import torch

from chassis.errors import FailedPrecondition, HeadraceError
from chassis.tensors import Signature, TensorSpec
from headrace.probe import Golden, decode_probe, first_responses
from headrace.program import TORCH_TYPES
from headrace.values import FREE_SIZE, Value, copied, moved
from inference_service.faults import BadOutput, ModelFailure
from inference_service.instance import Instance
from inference_service.precision import Precision, differing
from model_store.records import Probe

_Result = TypeVar("_Result")


class Rehearsal:
    """Rehearses one version; `golden` is the content of its probe blob, None without a probe.

    Raises DataLoss (BAD_PROBE).
    """

    def __init__(self, signature: Signature, probe: Probe | None, golden: bytes | None) -> None:
        self._signature = signature
        self._probe = probe
        self._golden = decode_probe(golden, signature) if golden is not None else Golden((), None)

    def warm_up(self, instance: Instance) -> None:
        """Runs a few batch sizes and lets the instance record what it will repeat.

        Raises FailedPrecondition (WARM_UP_FAILED, BAD_OUTPUT).
        """
        for rows in self.sizes():
            self._answers(instance, self.inputs(rows), f"a batch of {rows} rows")
        _explained(lambda: instance.record(partial(self._placed, instance)), "recording")

    def _placed(self, instance: Instance, rows: int) -> list[Value]:
        return [copied(value, instance.device) for value in self.inputs(rows)]

    def sizes(self) -> list[int]:
        """A small, a middle and the largest batch; 0 for a model without a batch dimension."""
        most = self._signature.max_batch_size
        return sorted({1, (most + 1) // 2, most}) if most else [0]

    def timed(self, instance: Instance, rows: int) -> float:
        """Seconds of one forward pass of `rows` rows. Raises what `warm_up` does."""
        placed = self._placed(instance, rows)

        def compute() -> float:
            instance.handover.wait()
            started = time.perf_counter()
            instance.run(placed)
            instance.handover.wait()
            return time.perf_counter() - started

        return _explained(compute, f"a batch of {rows} rows")

    def prove(self, instance: Instance) -> None:
        """Compares golden outputs. Raises FailedPrecondition (PROBE_FAILED, WARM_UP_FAILED)."""
        answers = self._golden.answers
        if answers is None:
            return
        for rows in self._parts():
            inputs = [value[rows] for value in self._golden.inputs]
            found = self._answers(instance, inputs, "the golden inputs")
            if len(found) != len(answers):
                raise FailedPrecondition(
                    "PROBE_FAILED",
                    f"the golden inputs give {len(found)} responses; the golden ones are "
                    f"{len(answers)}",
                )
            for answer, wanted in zip(found, answers, strict=True):
                for spec, one, other in zip(self._signature.results, answer, wanted, strict=True):
                    output = moved(one, torch.device("cpu"))
                    self._compare(spec.name, output, other[rows], instance.precision)

    def _parts(self) -> Iterator[slice | EllipsisType]:
        most = self._signature.max_batch_size
        if not most or self._signature.decoupled:
            # The whole of it; a slice of a scalar is refused.
            yield ...
        else:
            total = len(self._golden.inputs[0])
            yield from (slice(at, at + most) for at in range(0, total, most))

    def _answers(self, instance: Instance, inputs: list[Value], what: str) -> list[list[Value]]:
        """One answer, or the first responses of a decoupled model."""
        placed = [copied(value, instance.device) for value in inputs]

        def compute() -> list[list[Value]]:
            if self._signature.decoupled:
                return list(first_responses(instance.generate(placed)))
            return [instance.run(placed)]

        return _explained(compute, what)

    def inputs(self, rows: int) -> list[Value]:
        """Golden rows, repeated or cut to a batch of `rows`; zeros where there are none."""
        return [
            self._input(index, spec, rows) for index, spec in enumerate(self._signature.arguments)
        ]

    def _input(self, index: int, spec: TensorSpec, rows: int) -> Value:
        if not self._golden.inputs:
            sizes = (FREE_SIZE if size == -1 else size for size in spec.shape)
            shape = (rows, *list(sizes)[1:]) if rows else tuple(sizes)
            if spec.datatype == "BYTES":
                return np.full(shape, b"", dtype=np.object_)
            return torch.zeros(shape, dtype=TORCH_TYPES[spec.datatype])
        golden = self._golden.inputs[index]
        return golden[np.arange(rows) % golden.shape[0]] if rows else golden

    def _compare(self, name: str, output: Value, golden: Value, precision: Precision) -> None:
        if output.shape != golden.shape:
            raise FailedPrecondition(
                "PROBE_FAILED",
                f"output {name!r} has shape {list(output.shape)}; the golden one "
                f"{list(golden.shape)}",
            )
        if isinstance(output, torch.Tensor) and isinstance(golden, torch.Tensor):
            self._compare_numbers(name, output, golden, precision)
        elif not np.array_equal(np.asarray(output), np.asarray(golden)):
            raise FailedPrecondition(
                "PROBE_FAILED", f"output {name!r} holds other bytes than the golden one"
            )

    def _compare_numbers(
        self, name: str, output: torch.Tensor, golden: torch.Tensor, precision: Precision
    ) -> None:
        probe = self._probe
        assert probe is not None
        tolerance = precision.widened(probe.absolute_tolerance, probe.relative_tolerance)
        wrong = differing(output, golden, tolerance)
        if bool(wrong.any()):
            difference = (output.double() - golden.double()).abs()
            largest = float(difference[wrong].nan_to_num(nan=float("inf")).max())
            raise FailedPrecondition(
                "PROBE_FAILED",
                f"output {name!r} differs from the golden one by up to {largest:.4g} in "
                f"{int(wrong.sum())} of {wrong.numel()} values; allowed are {tolerance}",
            )


def _explained(compute: Callable[[], _Result], what: str) -> _Result:
    try:
        with torch.inference_mode():
            return compute()
    except BadOutput as error:
        raise FailedPrecondition("BAD_OUTPUT", str(error)) from error
    except HeadraceError as error:
        raise type(error)(error.reason, f"{what} failed: {error.message}") from error
    except ModelFailure as error:
        raise FailedPrecondition("WARM_UP_FAILED", f"{what} failed: {error}") from error.__cause__
    except Exception as error:
        raise FailedPrecondition(
            "WARM_UP_FAILED", f"{what} failed: {type(error).__name__}: {error}"
        ) from error
