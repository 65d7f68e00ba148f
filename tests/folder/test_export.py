"""What an export writes, and that a folder is there whole or not at all."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

import headrace
from chassis.errors import AlreadyExists, DataLoss, FailedPrecondition, InvalidArgument, NotFound
from headrace import Publisher
from headrace.folder import layout
from headrace.folder.state import load_folder
from tests.folder.conftest import Mixed, published
from tests.publisher.drifting import BATCH, MODEL, module_of
from tests.publisher.modules import Featured


def equal(state, expected) -> bool:
    return state.keys() == expected.keys() and all(
        state[name].dtype == expected[name].dtype
        and state[name].shape == expected[name].shape
        and state[name]
        .reshape(-1)
        .view(torch.uint8)
        .equal(expected[name].reshape(-1).view(torch.uint8))
        for name in expected
    )


def test_every_datatype_in_one_file(store, tmp_path):
    module = Mixed()
    published(store, module)
    written = headrace.export_folder(store, "m", 1, tmp_path / "out")
    assert [path.name for path in written] == ["config.json", "model.safetensors"]
    assert equal(load_file(tmp_path / "out/model.safetensors"), module.state_dict())
    assert equal(load_folder(tmp_path / "out"), module.state_dict())
    with safe_open(tmp_path / "out/model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_version_stored_as_deltas_is_written_in_full(store, tmp_path):
    with Publisher(store, MODEL, example_inputs=BATCH) as publisher:
        for step in range(1, 5):
            publisher.publish(module_of(step), step=step)
    assert store.manifest(MODEL, 4).deltas
    headrace.export_folder(store, MODEL, 4, tmp_path / "out")
    expected = module_of(4).state_dict()
    assert equal(load_file(tmp_path / "out/model.safetensors"), expected)


def test_tied_tensors_are_written_under_each_name(store, tmp_path):
    module = Featured()
    published(store, module)
    headrace.export_folder(store.url, "m", 1, tmp_path / "out")
    assert equal(load_file(tmp_path / "out/model.safetensors"), module.state_dict())


def test_shards_and_their_index(store, tmp_path):
    module = Mixed()
    published(store, module)
    written = headrace.export_folder(store, "m", 1, tmp_path / "out", shard_bytes=40)
    names = [path.name for path in written if path.name not in (layout.CONFIG, layout.INDEX)]
    assert names == [
        f"model-{n:05d}-of-{len(names):05d}.safetensors" for n in range(1, len(names) + 1)
    ]
    index = json.loads((tmp_path / "out" / layout.INDEX).read_text())
    expected = module.state_dict()
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in expected.values())
    assert set(index["weight_map"]) == set(expected)
    assert set(index["weight_map"].values()) == set(names)
    for name in names:
        held = load_file(tmp_path / "out" / name)
        assert {key for key, file in index["weight_map"].items() if file == name} == set(held)
        assert sum(t.nbytes for t in held.values()) <= 40 or len(held) == 1
    assert equal(load_folder(tmp_path / "out"), expected)


def test_config_tells_where_the_weights_come_from(store, tmp_path):
    module = nn.Linear(8, 8).bfloat16()
    with headrace.Publisher(store, "m", example_inputs=torch.ones(2, 8).bfloat16()) as publisher:
        publisher.publish(module)
        publisher.publish(module, step=30, metrics={"loss": 0.5})
    headrace.export_folder(store, "m", 2, tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["torch_dtype"] == "bfloat16"
    told = config["headrace"]
    assert (told["model"], told["version"], told["step"], told["parent"]) == ("m", 2, 30, 1)
    assert told["metrics"] == {"loss": 0.5}
    assert told["signature"]["inputs"][0]["datatype"] == "BF16"
    assert told["commit_id"] == store.manifest("m", 2).commit_id


def test_what_exists_is_left_alone(store, tmp_path):
    published(store, nn.Linear(8, 8))
    target = tmp_path / "out"
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    for force in (False, True):
        with pytest.raises(AlreadyExists):
            headrace.export_folder(store, "m", 1, target, force=force)
    assert [path.name for path in target.iterdir()] == ["notes.txt"]
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(AlreadyExists):
        headrace.export_folder(store, "m", 1, file, force=True)
    assert file.read_text() == "mine"


def test_force_replaces_an_earlier_export(store, tmp_path):
    first, second = Mixed(), nn.Linear(8, 8)
    published(store, first)
    headrace.export_folder(store, "m", 1, tmp_path / "out", shard_bytes=40)
    published(store, second)
    with pytest.raises(AlreadyExists):
        headrace.export_folder(store, "m", 2, tmp_path / "out")
    assert equal(load_folder(tmp_path / "out"), first.state_dict())
    headrace.export_folder(store, "m", 2, tmp_path / "out", force=True)
    assert equal(load_folder(tmp_path / "out"), second.state_dict())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "store"]


def test_a_damaged_blob_leaves_nothing(store, tmp_path):
    published(store, nn.Linear(8, 8))
    digest = store.manifest("m", 1).tensors[0].digest.partition(":")[2]
    (blob,) = (tmp_path / "store").rglob(f"*{digest[4:]}*")
    content = bytearray(blob.read_bytes())
    content[0] ^= 1
    blob.chmod(0o600)
    blob.write_bytes(content)
    with pytest.raises(DataLoss):
        headrace.export_folder(store, "m", 1, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_killed_before_the_rename_there_is_no_folder(store, tmp_path):
    published(store, nn.Linear(8, 8))
    code = (
        "import sys; from chassis import failpoints; failpoints.arm('export.before_rename=kill')\n"
        "import headrace; headrace.export_folder(sys.argv[1], 'm', 1, sys.argv[2])"
    )
    done = subprocess.run([sys.executable, "-c", code, store.url, tmp_path / "out"])
    assert done.returncode == -9
    assert not (tmp_path / "out").exists()
    headrace.export_folder(store, "m", 1, tmp_path / "out")
    assert (tmp_path / "out" / layout.SINGLE).is_file()


def test_a_place_that_cannot_be_written(store, tmp_path):
    published(store, nn.Linear(8, 8))
    (tmp_path / "file").write_text("")
    with pytest.raises(FailedPrecondition, match="cannot be written"):
        headrace.export_folder(store, "m", 1, tmp_path / "file" / "out")


def test_a_version_that_is_not_there(store, tmp_path):
    with pytest.raises(NotFound):
        headrace.export_folder(store, "m", 1, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "size"),
    [("5GB", 5 * 10**9), ("500 MB", 5 * 10**8), ("2GiB", 2**31), ("1.5KiB", 1536), ("7", 7)],
)
def test_sizes(text, size):
    assert layout.size_in_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "5 apples", "-1GB", "0", "nan"])
def test_bad_sizes(text):
    with pytest.raises(InvalidArgument, match="expected a number and a unit"):
        layout.size_in_bytes(text)


def test_exports_without_torch(store, tmp_path):
    published(store, nn.Linear(8, 8))
    code = (
        "import sys, headrace; headrace.export_folder(sys.argv[1], 'm', 1, sys.argv[2])\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, store.url, tmp_path / "out"], check=True)
    assert (tmp_path / "out" / layout.SINGLE).is_file()
