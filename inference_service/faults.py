"""What an exception from a model's own code means for the caller.

A version that passed warm-up and probe computes; where its code then raises, the input is what it
cannot handle: INVALID_ARGUMENT, with an opaque id that the log explains. Not the input's fault are
a device that fails and memory that runs out, nor an answer other than the signature promises.
"""

from __future__ import annotations

import uuid
from typing import NoReturn

import torch

from chassis.errors import HeadraceError, Internal, InvalidArgument, ResourceExhausted
from chassis.telemetry import logger

log = logger(__name__)

# How torch's plain RuntimeErrors tell what happened: there is no class for these two.
_NO_MEMORY = "can't allocate memory"
_DEVICE = ("CUDA error", "cuDNN error", "CUBLAS_STATUS", "CUDNN_STATUS", "NCCL error")


class BadOutput(Exception):
    """The model returned something other than its signature promises."""


class ModelFailure(Exception):
    """The model's own code raised; `__cause__` is what, and the text says it to an operator."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(f"{type(cause).__name__}: {cause}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device or the process has no room left."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and _NO_MEMORY in str(error)
    )


def reraise(error: BaseException) -> NoReturn:
    """Raises what `raised_by_model` makes of `error`, which is being handled."""
    found = raised_by_model(error)
    if found is error:
        raise error
    raise found from error


def raised_by_model(error: BaseException) -> BaseException:
    """What to raise for `error`, which came out of a model's code.

    ResourceExhausted (OUT_OF_MEMORY), a typed error that the model raised on purpose, the error
    itself where a device failed, and ModelFailure for everything else.
    """
    text = str(error)
    if is_out_of_memory(error):
        return ResourceExhausted(
            "OUT_OF_MEMORY", "the device has too little memory left for this batch"
        )
    if isinstance(error, HeadraceError) and not isinstance(error, Internal):
        return error
    if isinstance(error, torch.AcceleratorError) or (
        isinstance(error, RuntimeError) and any(sign in text for sign in _DEVICE)
    ):
        return error
    return ModelFailure(error)


def answer_to(error: BaseException, *, model: str, version: int, rows: int) -> HeadraceError:
    """The status for work that ended by `error`; whatever is not typed goes into the log."""
    if isinstance(error, HeadraceError):
        return error
    error_id = uuid.uuid4().hex[:12]
    about = {"model": model, "version": version, "rows": rows, "error_id": error_id}
    if isinstance(error, ModelFailure):
        log.warning("the model refused an input", **about, exc_info=error.__cause__)
        return InvalidArgument(
            "MODEL_REFUSED_INPUT",
            f"version {version} of model {model!r} cannot compute these inputs; the server's log "
            f"explains error {error_id}",
            field="inputs",
        )
    log.error("batch failed", **about, exc_info=error)
    if isinstance(error, BadOutput):
        return Internal(
            "BAD_OUTPUT",
            f"version {version} of model {model!r} answered with other outputs than it promises; "
            f"the server's log explains error {error_id}",
        )
    return Internal("INTERNAL", f"internal error {error_id}")
