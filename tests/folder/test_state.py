"""What a folder of weights is refused for, by name, and how tied tensors are filled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from chassis.errors import InvalidArgument
from headrace.folder import layout, state
from headrace.folder.state import fill, load_folder
from tests.publisher.modules import Featured

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
A, B, C = torch.ones(2, 3), torch.arange(4.0), torch.tensor(5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards and their index."""
    save_file({"a": A, "b": B}, tmp_path / FIRST)
    save_file({"c": C}, tmp_path / SECOND)
    write_index(tmp_path, {"a": FIRST, "b": FIRST, "c": SECOND})
    return tmp_path


def write_index(folder: Path, mapped: object, **metadata: object) -> None:
    metadata = metadata or {"total_size": A.nbytes + B.nbytes + C.nbytes}
    (folder / layout.INDEX).write_text(json.dumps({"metadata": metadata, "weight_map": mapped}))


def refusal(path: Path, reason: str = "BAD_WEIGHTS") -> str:
    with pytest.raises(InvalidArgument) as caught:
        load_folder(path)
    assert caught.value.reason == reason
    return caught.value.message


def test_an_index_with_shards(folder):
    loaded = load_folder(folder)
    assert set(loaded) == {"a", "b", "c"}
    assert loaded["a"].equal(A) and loaded["b"].equal(B) and loaded["c"].equal(C)


def test_an_index_without_a_total(folder):
    write_index(folder, {"a": FIRST, "b": FIRST, "c": SECOND}, by="hand")
    assert set(load_folder(folder)) == {"a", "b", "c"}


def test_a_missing_shard(folder):
    (folder / SECOND).unlink()
    assert f"names {SECOND}, which is not there" in refusal(folder)


def test_a_tensor_in_the_wrong_shard(folder):
    write_index(folder, {"a": FIRST, "b": SECOND, "c": SECOND})
    assert "holds tensor 'b', which the index does not put there" in refusal(folder)


def test_a_tensor_in_no_shard(folder):
    write_index(folder, {"a": FIRST, "b": FIRST, "c": SECOND, "d": SECOND})
    assert "lacks tensor 'd'" in refusal(folder)


def test_a_name_in_two_shards(folder):
    save_file({"c": C, "a": A}, folder / SECOND)
    assert "holds tensor 'a', which the index does not put there" in refusal(folder)


def test_a_name_twice_in_the_index(folder):
    (folder / layout.INDEX).write_text(
        f'{{"weight_map": {{"a": "{FIRST}", "b": "{FIRST}", "c": "{SECOND}", "a": "{SECOND}"}}}}'
    )
    assert "'a' stands twice" in refusal(folder)


def test_a_name_twice_in_a_header(tmp_path):
    entry = '{"dtype":"F32","shape":[1],"data_offsets":[%d,%d]}'
    header = ('{"a":' + entry % (0, 4) + ',"a":' + entry % (4, 8) + "}").encode()
    content = len(header).to_bytes(8, "little") + header + bytes(8)
    (tmp_path / layout.SINGLE).write_bytes(content)
    assert "cannot be read" in refusal(tmp_path)


@pytest.mark.parametrize("total", [0, 1, "many", 41.5])
def test_a_wrong_total(folder, total):
    write_index(folder, {"a": FIRST, "b": FIRST, "c": SECOND}, total_size=total)
    assert f"says total_size {total}; the tensors have 48 bytes" in refusal(folder)


@pytest.mark.parametrize(
    "file", ["../model.safetensors", "/etc/passwd", "sub/x.safetensors", "pytorch_model.bin", 3]
)
def test_an_index_that_points_elsewhere(folder, file):
    write_index(folder, {"a": file})
    assert "expected a .safetensors file of the same folder" in refusal(folder)


@pytest.mark.parametrize("mapped", [None, {}, [], "x"])
def test_an_index_without_a_map(folder, mapped):
    write_index(folder, mapped)
    assert 'has no "weight_map"' in refusal(folder)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\xff"])
def test_an_index_that_is_no_json(folder, text):
    (folder / layout.INDEX).write_bytes(text.encode("latin-1"))
    assert "cannot be read" in refusal(folder)


def test_an_index_beyond_the_bound(folder, monkeypatch):
    monkeypatch.setattr(state, "MAX_INDEX_BYTES", 10)
    assert "is larger than 10 bytes" in refusal(folder)


def test_more_files_than_the_bound(folder, monkeypatch):
    monkeypatch.setattr(state, "MAX_SHARDS", 1)
    assert "names 2 files" in refusal(folder)


def test_a_header_beyond_the_bound(tmp_path):
    (tmp_path / layout.SINGLE).write_bytes((2**40).to_bytes(8, "little") + bytes(64))
    assert "cannot be read" in refusal(tmp_path)


@pytest.mark.parametrize("length", [0, 4, 9, 60])
def test_a_shard_that_is_cut_short(folder, length):
    (folder / FIRST).write_bytes((folder / FIRST).read_bytes()[:length])
    assert "cannot be read" in refusal(folder)


def test_both_kinds_at_once(folder):
    save_file({"a": A}, folder / layout.SINGLE)
    assert "holds both" in refusal(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "last.ckpt"])
def test_a_pickle_is_refused_with_the_way_out(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x04cos\nsystem\n")
    assert "safe_serialization=True" in refusal(tmp_path, "PICKLED_WEIGHTS")
    assert "safe_serialization=True" in refusal(tmp_path / name, "PICKLED_WEIGHTS")


def test_a_pickle_beside_safetensors_is_not_read(tmp_path):
    save_file({"a": A}, tmp_path / layout.SINGLE)
    (tmp_path / "pytorch_model.bin").write_bytes(b"junk")
    assert load_folder(tmp_path)["a"].equal(A)


def test_an_empty_folder_and_none(tmp_path):
    assert "holds neither" in refusal(tmp_path)
    assert "cannot be read" in refusal(tmp_path / "absent.safetensors")


def test_a_datatype_that_cannot_be_served(tmp_path):
    save_file({"a": A.to(torch.float8_e4m3fn)}, tmp_path / layout.SINGLE)
    assert "tensor 'a' has datatype F8_E4M3" in refusal(tmp_path)


def test_writing_to_what_was_loaded_changes_no_file(folder):
    load_folder(folder)["a"].add_(1)
    assert load_folder(folder)["a"].equal(A)


def test_tied_tensors_may_stand_once(tmp_path):
    source, target = Featured(), Featured()
    saved = source.state_dict()
    del saved["second.weight"]
    save_file(saved, tmp_path / layout.SINGLE)
    fill(target, tmp_path, "m")
    assert target.second.weight is target.first.weight
    assert all(target.state_dict()[name].equal(value) for name, value in saved.items())


def test_an_untied_tensor_may_not_be_missing(tmp_path):
    saved = Featured().state_dict()
    for name in ("second.weight", "second.bias"):
        del saved[name]
    save_file(saved, tmp_path / layout.SINGLE)
    with pytest.raises(InvalidArgument, match=r"does not fit m: .* for second\.bias$"):
        fill(Featured(), tmp_path, "m")


def test_empty_tensors_are_not_taken_for_tied(tmp_path):
    module = nn.ParameterDict({"a": torch.zeros(0, 3), "b": torch.zeros(0, 3)})
    save_file({"a": torch.zeros(0, 3)}, tmp_path / layout.SINGLE)
    with pytest.raises(InvalidArgument, match="for b$"):
        fill(module, tmp_path, "m")
