"""The command line against a real file store."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from headrace import Publisher
from headrace.cli.main import app
from headrace.model import load_model
from model_store import open_store
from model_store.signing import load_trusted_keys, verify
from tests.publisher.drifting import BATCH, drift, fresh
from tests.publisher.drifting import MODEL as DRIFTING

DIGITS = "examples.digits:Digits"


def headrace(*arguments, check=True, **environment):
    """Runs the command in its own process, as a user does."""
    done = subprocess.run(
        [sys.executable, "-m", "headrace.cli.main", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done


def output_of(*arguments):
    """Runs the command in this process and reads its JSON."""
    result = CliRunner().invoke(app, [*arguments, "-o", "json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def store(tmp_path):
    return f"file://{tmp_path}/store"


@pytest.fixture
def published(store):
    for step in (10, 20, 30):
        flags = ("--step", str(step), "--metric", f"accuracy=0.{step}")
        output_of("publish", DIGITS, "--store", store, *flags)
    return store


def test_help_starts_neither_torch_nor_grpc():
    code = (
        "import sys; sys.argv = ['headrace', '--help']\n"
        "from headrace.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "sys.exit(sorted({'torch', 'grpc', 'numpy', 'redis'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in (
        "up",
        "replica",
        "versions",
        "channel",
        "rollback",
        "rollout",
        "predict",
        "status",
        "train",
    ):
        assert f"  {command} " in done.stdout


def test_versions_are_listed_newest_first(published):
    rows = output_of("versions", "list", "digits", "--store", published)
    assert [row["version"] for row in rows] == [3, 2, 1]
    assert rows[0]["step"] == 30
    assert rows[0]["metrics"] == {"accuracy": 0.30}
    assert rows[0]["channels"] == ["stable"]


def test_a_version_shows_its_tensors(published):
    record = output_of("versions", "show", "digits", "2", "--store", published)
    module = load_model(DIGITS).build()
    assert {entry["tensor"] for entry in record["tensors"]} == set(module.state_dict())
    assert record["probe"] is True
    assert record["program"].startswith("blake3:")
    assert (record["full_bytes"], record["delta_bytes"]) == (record["bytes"], 0)


def test_a_version_of_deltas_shows_what_is_stored(store):
    module = fresh()
    with Publisher(store, DRIFTING, example_inputs=BATCH) as publisher:
        for _ in range(3):
            publisher.publish(module)
            drift(module)
    record = output_of("versions", "show", DRIFTING, "3", "--store", store)
    assert {entry["stored"] for entry in record["tensors"]} == {"delta"}
    steps = publisher.store.manifest(DRIFTING, 3).deltas
    assert record["deltas"] == {str(step.base_version): step.size_bytes for step in steps}
    assert list(record["deltas"]) == ["1", "2"]
    assert record["delta_bytes"] == sum(step.size_bytes for step in steps)
    assert record["full_bytes"] == record["bytes"] > 10 * record["delta_bytes"]


def test_rollback_moves_back_and_holds_until_the_channel_is_set(published):
    moved = output_of("rollback", "digits", "--store", published)
    assert (moved["version"], moved["held"]) == (2, True)
    output_of("publish", DIGITS, "--store", published)
    assert open_store(published).channel("digits", "stable").version == 2
    output_of("channel", "set", "digits", "stable", "4", "--store", published)
    listed = output_of("channel", "list", "digits", "--store", published)
    assert [(row["channel"], row["version"], row["held"]) for row in listed] == [
        ("stable", 4, False)
    ]


def test_weights_come_from_a_safetensors_file(store, tmp_path):
    module = load_model(DIGITS).build()
    save_file(module.state_dict(), tmp_path / "weights.safetensors")
    weights = ("--weights", str(tmp_path / "weights.safetensors"))
    output_of("publish", DIGITS, "--store", store, *weights)
    stored = open_store(store)
    for entry in stored.manifest("digits", 1).tensors:
        expected = module.state_dict()[entry.name].numpy().tobytes()
        assert stored.read_blob(entry.digest) == expected


def test_weights_that_do_not_fit_are_refused_by_name(store, tmp_path):
    save_file({"other": torch.zeros(1)}, tmp_path / "weights.safetensors")
    weights = ("--weights", str(tmp_path / "weights.safetensors"))
    done = headrace("publish", DIGITS, "--store", store, *weights, check=False)
    assert done.returncode == 2
    assert "does not fit digits" in done.stderr
    assert "other" in done.stderr
    assert open_store(store).versions("digits") == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["versions", "list", "digits"], "pass --store URL or set HEADRACE_STORE"),
        (["versions", "list", "digits", "--store", "ftp://x"], "ftp"),
        (["versions", "show", "digits", "9", "--store", "{store}"], "9"),
        (["rollback", "digits", "--store", "{store}"], "digits"),
        (["publish", DIGITS, "--store", "{store}", "--metric", "a"], "expected name=value"),
        (["status", "--gateway-admin", "127.0.0.1:1"], "no GatewayAdmin answers at 127.0.0.1:1"),
        (["train", "list", "--trainer", "127.0.0.1:1"], "no Trainer answers at 127.0.0.1:1"),
        (["gateway", "--set", "prot=1"], "did you mean gateway.port?"),
        (["keys", "new", "/dev/null/key"], "cannot be written"),
        (["publish", DIGITS, "--store", "{store}", "--signing-key", "/nokey"], "cannot be read"),
        (["versoins"], "No such command 'versoins'"),
    ],
)
def test_a_wrong_command_is_one_sentence_and_code_2(arguments, sentence, store):
    arguments = [argument.format(store=store) for argument in arguments]
    done = headrace(*arguments, check=False)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_the_store_may_come_from_the_environment(published):
    done = headrace("versions", "list", "digits", "-o", "json", HEADRACE_STORE=published)
    assert len(json.loads(done.stdout)) == 3


def test_keys_sign_what_is_published(store, tmp_path):
    made = output_of("keys", "new", str(tmp_path / "key"))
    assert made["public"] == str(tmp_path / "key.pub")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    output_of("publish", DIGITS, "--store", store, "--signing-key", made["private"])
    output_of("publish", DIGITS, "--store", store)
    keys = [
        output_of("versions", "show", "digits", version, "--store", store)["key"]
        for version in ("1", "2")
    ]
    assert keys == [made["key"], ""]
    verify(open_store(store).manifest("digits", 1), load_trusted_keys([made["public"]]))


def test_a_version_is_exported_and_published_again(published, tmp_path):
    done = output_of(
        "versions", "export", "digits", "2", str(tmp_path / "two"), "--store", published
    )
    assert (done["version"], [file["file"] for file in done["files"]]) == (
        2,
        ["config.json", "model.safetensors"],
    )
    shards = ("--channel", "stable", "--shard-size", "1KB", "--store", published)
    done = output_of("versions", "export", "digits", str(tmp_path / "stable"), *shards)
    assert done["version"] == 3
    assert len(done["files"]) > 3
    output_of("publish", DIGITS, "--store", published, "--weights", str(tmp_path / "stable"))
    stored = open_store(published)
    assert stored.manifest("digits", 4).tensors == stored.manifest("digits", 3).tensors


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["{folder}"], "exists; name a new folder"),
        (["9", "{folder}/x"], "has no version 9"),
        (["{folder}/x", "--channel", "beta"], "has no channel 'beta'"),
        (["1", "{folder}/x", "--channel", "stable"], "not both"),
        (["{folder}/x", "--shard-size", "big"], "such as 5GB"),
        (["one", "{folder}/x"], "expected [N] DIRECTORY"),
    ],
)
def test_an_export_that_cannot_be(published, tmp_path, words, sentence):
    words = [word.format(folder=tmp_path) for word in words]
    done = headrace("versions", "export", "digits", *words, "--store", published, check=False)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert not (tmp_path / "x").exists()
