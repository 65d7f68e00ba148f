"""`headrace store check | gc` and `headrace versions remove` against a real file store."""

import json
import os
import pty
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner

from headrace.cli.main import app
from model_store import open_store
from model_store.digests import hex_part
from model_store.publication import publish
from tests.model_store.samples import MODEL, stored

HOURS_S = 3 * 3600


def run(*arguments):
    """What the command prints and its exit code."""
    return CliRunner().invoke(app, [*arguments], catch_exceptions=False)


def record(*arguments):
    """The command's JSON and its exit code."""
    result = run(*arguments, "-o", "json")
    return json.loads(result.stdout), result.exit_code


@pytest.fixture
def url(tmp_path):
    """A store with five versions, made and put hours ago."""
    url = f"file://{tmp_path}/store"
    with open_store(url) as store:
        for step in range(5):
            manifest = stored(store, step)
            old = int((time.time() - HOURS_S) * 1000)
            publish(store, replace(manifest, create_time_ms=old))
    make_old(url)
    return url


def make_old(url):
    past = time.time() - HOURS_S
    for path in Path(urlsplit(url).path).glob("blobs/*/*"):
        os.utime(path, (past, past))


def blob_path(url, version):
    with open_store(url) as store:
        digits = hex_part(store.manifest(MODEL, version).tensors[0].digest)
    return Path(urlsplit(url).path) / "blobs" / digits[:2] / digits[2:]


def test_gc_removes_what_is_old_and_says_so(url):
    dry, code = record("store", "gc", "--keep", "1", "--dry-run", "--store", url)
    assert (dry["models"][0]["removed"], dry["deleted_blobs"], code) == ([1, 2, 3], 3, 0)
    done, code = record("store", "gc", "--keep", "1", "--store", url)
    assert (done | {"dry_run": True}, code) == (dry, 0)
    assert done["models"][0]["kept"]["5"] == "channel stable points to it"
    assert open_store(url).versions(MODEL) == [4, 5]


def test_gc_in_words(url):
    dry = run("store", "gc", "--keep", "1", "--dry-run", "--store", url)
    assert "3 blobs of 48 B would be deleted; 4 in use" in dry.stdout
    done = run("store", "gc", "--keep", "1", "--store", url)
    assert done.exit_code == 0
    assert "1-3" in done.stdout
    assert "3 blobs of 48 B deleted" in done.stdout


def test_the_grace_keeps_what_is_younger(url):
    done, _ = record("store", "gc", "--keep", "1", "--grace", "4h", "--store", url)
    assert (done["models"][0]["removed"], done["deleted_blobs"]) == ([], 0)
    done, _ = record("store", "gc", "--keep", "1", "--grace", "170m", "--store", url)
    assert done["models"][0]["removed"] == [1, 2, 3]


def test_gc_leaves_blobs_alone_while_a_manifest_is_damaged_and_says_what_to_do(url):
    manifest = Path(urlsplit(url).path) / "models" / MODEL / "versions" / f"{2:012d}"
    manifest.write_bytes(b"damaged")
    done = run("store", "gc", "--keep", "1", "--store", url)
    assert done.exit_code == 1
    assert "no blob was deleted" in done.stdout
    assert "headrace versions remove" in done.stdout
    removed, code = record("versions", "remove", MODEL, "2", "--store", url)
    assert (removed, code) == ([{"version": 2, "removed": True, "why": ""}], 0)
    done, code = record("store", "gc", "--keep", "1", "--store", url)
    assert (done["deleted_blobs"], code) == (3, 0)


def test_a_version_that_is_needed_is_not_removed(url):
    rows, code = record("versions", "remove", MODEL, "1", "5", "--store", url)
    assert code == 1
    assert rows == [
        {"version": 1, "removed": True, "why": ""},
        {"version": 5, "removed": False, "why": "channel stable points to it"},
    ]


def test_check_of_a_whole_store(url):
    report, code = record("store", "check", "--store", url)
    assert (report["versions"], report["blobs"], report["findings"], code) == (5, 7, [], 0)
    assert "all whole" in run("store", "check", "--store", url).stdout


def test_check_finds_damage_and_names_the_version(url):
    path = blob_path(url, 3)
    path.write_bytes(b"\0" * 16)
    assert run("store", "check", "--sizes-only", "--store", url).exit_code == 0
    report, code = record("store", "check", "--store", url)
    assert code == 1
    (finding,) = report["findings"]
    assert (finding["kind"], finding["versions"]) == ("damaged blob", ["clicks/3"])
    path.unlink()
    done = run("store", "check", "--sizes-only", "--model", MODEL, "--store", url)
    assert done.exit_code == 1
    assert "missing blob" in done.stdout
    assert "clicks/3" in done.stdout


def test_check_shows_how_far_it_is_on_a_terminal(url):
    own, terminal = pty.openpty()
    command = [sys.executable, "-m", "headrace.cli.main", "store", "check", "--store", url]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=terminal, check=True)
    os.close(terminal)
    shown = os.read(own, 65536)
    os.close(own)
    assert b"all whole" in done.stdout
    assert b"reading the store" in shown or b"blobs" in shown


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["store", "gc", "--grace", "soon"], "'soon' is not a span"),
        (["store", "gc", "--grace", "1.5h"], "expected a whole number and s, m, h or d"),
        (["store", "gc", "--grace", "5m"], "a grace of 300 s is too short"),
        (["store", "gc", "--keep", "-1"], "keep must be 0 or more"),
        (["store", "check", "--model", "nobody"], "model 'nobody' has no version in this store"),
        (["store", "check", "--model", "../x"], "'../x'"),
        (["versions", "remove", MODEL, "9"], "has no version 9"),
    ],
)
def test_wrong_input_is_one_sentence_and_code_2(url, arguments, sentence):
    command = [sys.executable, "-m", "headrace.cli.main", *arguments, "--store", url]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert open_store(url).versions(MODEL) == [1, 2, 3, 4, 5]


def test_a_removed_version_says_so(url):
    record("versions", "remove", MODEL, "1", "--store", url)
    command = [sys.executable, "-m", "headrace.cli.main", "versions", "show", MODEL, "1"]
    done = subprocess.run([*command, "--store", url], capture_output=True, text=True)
    assert done.returncode == 2
    assert "version 1 of model 'clicks' was removed or lost" in done.stderr
