"""A model whose arithmetic is exact, in torch for the publisher and in numpy for the checker.

Weights and inputs are small integers in FP32 and every sum stays far below 2**24, so an answer does
not depend on batch size, kernel or order: a reply is right bit by bit or it is wrong.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
import numpy.typing as npt

NAME = "exact"
WIDTH, OUTPUTS = 16, 4
LARGEST = 8

Array = npt.NDArray[np.float32]


@lru_cache(maxsize=512)
def weights_of(seed: int) -> dict[str, Array]:
    """The trained tensors of version `seed`, by name."""
    draw = np.random.default_rng(seed)
    shapes = {
        "first.weight": (WIDTH, WIDTH),
        "first.bias": (WIDTH,),
        "last.weight": (OUTPUTS, WIDTH),
        "last.bias": (OUTPUTS,),
    }
    return {name: _integers(draw, shape) for name, shape in shapes.items()}


def inputs_of(seed: int, rows: int) -> Array:
    """The rows that call `seed` asks about."""
    return _integers(np.random.default_rng(seed), (rows, WIDTH))


def computed(weights: dict[str, Array], x: Array) -> Array:
    """The model's answer, (rows, 4)."""
    hidden = np.maximum(x @ weights["first.weight"].T + weights["first.bias"], 0)
    answer: Array = hidden @ weights["last.weight"].T + weights["last.bias"]
    return answer


def expected_digest(version_seed: int, input_seed: int, rows: int) -> str:
    """Digest of the right answer of a version to a call."""
    return digest_of(computed(weights_of(version_seed), inputs_of(input_seed, rows)))


def digest_of(answer: Array) -> str:
    """16 hexadecimal digits that name an answer's bytes."""
    # Adding 0 makes -0.0 and 0.0 one value: which of them a kernel gives is not promised.
    content = np.ascontiguousarray(answer.astype("<f4") + np.float32(0)).tobytes()
    return hashlib.sha256(content).hexdigest()[:16]


def _integers(draw: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return draw.integers(-LARGEST, LARGEST + 1, shape).astype(np.float32)
