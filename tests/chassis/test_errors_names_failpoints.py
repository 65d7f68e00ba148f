"""Small foundations: the error table, the grammar of names, failpoints."""

import pickle
import subprocess
import sys

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis import failpoints
from chassis.errors import CATEGORIES, HeadraceError, Internal, InvalidArgument
from chassis.names import NAME, checked_name


def test_every_category_has_its_own_code_and_none_is_unknown():
    assert len(CATEGORIES) == len(HeadraceError.__subclasses__())
    assert grpc.StatusCode.UNKNOWN not in CATEGORIES


def test_errors_cross_processes():
    error = pickle.loads(pickle.dumps(InvalidArgument("BAD", "no", field="x")))
    assert (type(error), error.reason, error.message, error.field) == (
        InvalidArgument,
        "BAD",
        "no",
        "x",
    )


@pytest.mark.parametrize("name", ["a", "Digits-2", "a.b_c", "0" * 128])
def test_good_names(name):
    assert checked_name(name, what="model") == name


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0", "-a", "é", "a" * 129, "a b", "a\n"])
def test_bad_names_are_refused_by_role(name):
    with pytest.raises(InvalidArgument, match="model .* is not a valid name"):
        checked_name(name, what="model")


@given(st.from_regex(NAME, fullmatch=True))
def test_no_name_walks_out_of_a_directory(name):
    assert "/" not in name
    assert name not in (".", "..")


@pytest.fixture
def armed():
    yield failpoints.arm
    failpoints.arm("")


def test_failpoints_are_inert_until_armed(armed):
    failpoints.failpoint("a")
    armed("a=error@2")
    failpoints.failpoint("a")
    with pytest.raises(Internal, match="failpoint a failed on request"):
        failpoints.failpoint("a")
    failpoints.failpoint("a")
    armed("")
    failpoints.failpoint("a")


def test_an_unknown_action_is_refused(armed):
    with pytest.raises(InvalidArgument, match="expected name=kill"):
        armed("a=explode")


def test_kill_is_a_real_kill():
    code = "from chassis import failpoints as f; f.arm('a=kill'); f.failpoint('a')"
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
