"""When a client tries again: only what it may, and never against the server's word."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.load.retries import FIRST_BACKOFF_S, MOST_BACKOFF_S, RETRIED, retry_after_s


def asked(code="UNAVAILABLE", pushback=None, retry=0, retries=3, draw=0.5):
    return retry_after_s(code, pushback, retry=retry, retries=retries, draw=draw)


def test_a_server_decides_when():
    assert asked(pushback="250") == 0.25
    assert asked(pushback="0") == 0.0


@pytest.mark.parametrize("pushback", ["-1", "soon", "", "1.5"])
def test_a_server_decides_never(pushback):
    assert asked(pushback=pushback) is None


@pytest.mark.parametrize("code", ["DEADLINE_EXCEEDED", "INVALID_ARGUMENT", "INTERNAL", "CANCELLED"])
def test_what_may_have_been_done_is_not_done_again(code):
    assert asked(code) is None
    assert asked(code, pushback="1") is None


@given(st.sampled_from(sorted(RETRIED)), st.integers(0, 30), st.floats(0, 1, exclude_max=True))
def test_backoff_grows_and_is_bounded(code, retry, draw):
    wait_s = asked(code, retry=retry, retries=31, draw=draw)
    assert 0 <= wait_s <= min(FIRST_BACKOFF_S * 2**retry, MOST_BACKOFF_S)


def test_retries_come_to_an_end():
    assert asked(retry=2, retries=3) is not None
    assert asked(retry=3, retries=3) is None
    assert asked(retries=0) is None
