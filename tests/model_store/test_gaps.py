"""Missing numbers as ranges say the same as a set."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from model_store.gaps import NO_GAPS

NUMBERS = st.sets(st.integers(1, 30))


@given(rounds=st.lists(NUMBERS, max_size=4), newest=st.integers(0, 30))
def test_gaps_are_a_set(rounds: list[set[int]], newest: int) -> None:
    gaps, missing = NO_GAPS, set[int]()
    for numbers in rounds:
        gaps, missing = gaps.widened(numbers), missing | numbers
    assert [number for number in range(32) if number in gaps] == sorted(missing)
    assert gaps.others(newest) == [n for n in range(1, newest + 1) if n not in missing]
    for (_, last), (first, _) in zip(gaps.ranges, gaps.ranges[1:], strict=False):
        assert first > last + 1


def test_a_long_run_is_one_gap() -> None:
    assert NO_GAPS.widened(range(1, 100_001)).ranges == ((1, 100_000),)
