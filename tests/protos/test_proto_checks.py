"""The checks on the .proto files are clean, and each one fails on the mistake it is there for."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
MANIFEST = Path("protos/headrace/v1/manifest.proto")
GENERATED = "protos/headrace/v1/manifest_pb2.pyi"


def run(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, cwd=cwd, capture_output=True, text=True, timeout=90)


def buf(*arguments: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    beside_python = Path(sys.executable).with_name("buf")
    return run([str(beside_python), *arguments], cwd)


def drift(cwd: Path) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, "-m", "protos.generate", "--check"], cwd)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A tree with nothing but protos/, to make mistakes in."""
    shutil.copytree(
        REPOSITORY / "protos", tmp_path / "protos", ignore=shutil.ignore_patterns("__pycache__")
    )
    return tmp_path


def edit(tree: Path, old: str, new: str) -> None:
    file = tree / MANIFEST
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


def test_generated_files_are_what_the_definitions_give():
    done = drift(REPOSITORY)
    assert (done.returncode, done.stderr) == (0, "")


def test_drift_is_named(copy):
    edit(copy, "string commit_id = 13;", "string commit_id = 13;\n  // More.\n  string more = 99;")
    done = drift(copy)
    assert done.returncode == 1
    assert GENERATED in done.stderr
    assert "make protos" in done.stderr


def test_regeneration_mends_drift(copy):
    (copy / GENERATED).write_text("# edited by hand\n")
    assert drift(copy).returncode == 1
    assert run([sys.executable, "-m", "protos.generate"], copy).returncode == 0
    assert drift(copy).returncode == 0


def test_every_component_has_a_sentence():
    done = buf("lint", "protos")
    assert (done.returncode, done.stdout) == (0, "")


def test_layout_is_bufs():
    done = buf("format", "--diff", "--exit-code", "protos")
    assert (done.returncode, done.stdout) == (0, "")


def test_a_field_without_a_sentence_fails(copy):
    edit(copy, "string commit_id = 13;", "string commit_id = 13;\n  string bare = 99;")
    done = buf("lint", "protos", cwd=copy)
    assert done.returncode != 0
    assert '"bare" should have a non-empty comment' in done.stdout


def breaking(cwd: Path) -> subprocess.CompletedProcess[str]:
    return buf("breaking", "protos", "--against", "protos/baseline.binpb", cwd=cwd)


def test_definitions_keep_what_was_released():
    done = breaking(REPOSITORY)
    assert (done.returncode, done.stdout) == (0, "")


def test_an_added_field_breaks_nothing(copy):
    edit(copy, "string commit_id = 13;", "string commit_id = 13;\n  // More.\n  string more = 99;")
    assert breaking(copy).returncode == 0


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        pytest.param(
            "  string commit_id = 13;",
            "",
            'Previously present field "13" with name "commit_id"',
            id="removed",
        ),
        pytest.param(
            "string commit_id = 13;",
            "bytes commit_id = 13;",
            'changed type from "string" to "bytes"',
            id="retyped",
        ),
        pytest.param(
            "string commit_id = 13;",
            "string commit = 13;",
            'changed name from "commit_id" to "commit"',
            id="renamed",
        ),
    ],
)
def test_a_breaking_change_fails(copy, old, new, sentence):
    edit(copy, old, new)
    done = breaking(copy)
    assert done.returncode != 0
    assert sentence in done.stdout
