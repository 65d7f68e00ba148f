"""Two answers to the same rows, compared."""

from __future__ import annotations

import numpy as np
import pytest

from chassis.tensors import TensorSpec, encode_raw
from gateway.arms import Shadowed
from gateway.ingress.batch import Part
from gateway.shadow import compare

HALF = np.array([[0.0, 1.0], [1.0, 0.0]])


def part(array: np.ndarray, datatype: str = "FP32", name: str = "y") -> Part:
    return TensorSpec(name, datatype, (-1,)), array.shape, encode_raw(array, datatype)


def floats(array: np.ndarray) -> Part:
    return part(array.astype(np.float32))


def compared(got: list[Part], copy: list[Part], rows: int) -> Shadowed:
    shadowed = Shadowed()
    compare(shadowed, got, copy, rows)
    return shadowed


def test_equal_answers_differ_in_nothing() -> None:
    same = compared([floats(HALF)], [floats(HALF)], 2)
    assert (same.rows, same.changed_rows, same.max_difference) == (2, 0, 0.0)
    assert (same.difference.count, same.difference.sum) == (2, 0.0)


def test_a_row_whose_largest_value_moves_has_changed() -> None:
    after = np.array([[0.9, 0.1], [1.0, 0.25]])
    seen = compared([floats(HALF)], [floats(after)], 2)
    assert (seen.rows, seen.changed_rows) == (2, 1)
    assert seen.max_difference == pytest.approx(0.9)
    assert seen.difference.sum == pytest.approx(0.9 + 0.125)


def test_single_values_change_by_more_than_a_hundredth() -> None:
    before, after = np.array([[100.0], [100.0], [0.0]]), np.array([[100.5], [102.0], [0.0]])
    assert compared([floats(before)], [floats(after)], 3).changed_rows == 1


def test_a_number_that_is_none_any_more_has_changed_without_a_size() -> None:
    after = np.array([[np.nan, 1.0], [1.0, 0.0]])
    seen = compared([floats(HALF)], [floats(after)], 2)
    assert (seen.changed_rows, seen.max_difference) == (1, 0.0)


def test_every_datatype_is_compared_as_what_it_means() -> None:
    ones = np.array([0x3F80, 0x4000], np.uint16).reshape(2, 1)
    twos = np.array([0x4000, 0x4000], np.uint16).reshape(2, 1)
    bf16 = compared([part(ones, "BF16")], [part(twos, "BF16")], 2)
    assert (bf16.changed_rows, bf16.max_difference) == (1, 1.0)
    words = [np.array([[b"a"], [b"b"]], object), np.array([[b"a"], [b"c"]], object)]
    text = compared([part(words[0], "BYTES")], [part(words[1], "BYTES")], 2)
    assert (text.changed_rows, text.difference.count) == (1, 0)
    numbers = compared(
        [part(np.array([[1], [2]]), "INT64")], [part(np.array([[1], [3]]), "INT64")], 2
    )
    assert (numbers.changed_rows, numbers.max_difference) == (1, 1.0)


def test_another_shape_is_another_answer() -> None:
    wide = np.zeros((2, 3))
    seen = compared([floats(HALF)], [floats(wide)], 2)
    assert (seen.rows, seen.changed_rows) == (2, 2)


def test_a_model_without_rows_is_one_row() -> None:
    seen = compared([floats(np.array([1.0, 2.0, 3.0]))], [floats(np.array([3.0, 2.0, 1.0]))], 1)
    assert (seen.rows, seen.changed_rows) == (1, 1)
