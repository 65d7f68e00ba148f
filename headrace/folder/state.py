"""Weights from a safetensors file, or from a folder of them, as a state for a module.

Decides what a folder must be before a byte of its tensors is used: every file that the index names
is there, every tensor lies where the index says and nowhere else, sizes add up. Pickle is never
read. Tensors are mapped, so that each is read once, when it is copied into its module.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from chassis.errors import InvalidArgument
from headrace.folder import layout
from headrace.weights import State

# As safetensors bounds the header of a file.
MAX_INDEX_BYTES = 100_000_000
MAX_SHARDS = 10_000

_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def load_folder(path: str | Path) -> State:
    """The tensors of a safetensors file, or of a folder with one or with an index of several.

    For `module.load_state_dict`. The tensors are on the CPU and mapped from the files: writing to
    one changes no file, and a file must not be cut short while they live.

    Raises InvalidArgument (BAD_WEIGHTS, PICKLED_WEIGHTS) naming the file, or the tensor at fault.
    """
    return _weights(Path(path))


def fill(module: nn.Module, path: Path, model: str) -> None:
    """Loads the weights at `path` into `module`; a tied tensor may stand under one name alone.

    Raises InvalidArgument (BAD_WEIGHTS, PICKLED_WEIGHTS) naming the file, or the tensors that
    differ.
    """
    tensors = _weights(path)
    own = module.state_dict()
    tied = _tied(own, tensors)
    wrong = sorted(
        name
        for name in own.keys() | tensors.keys()
        if name not in tied and _differs(name, own, tensors)
    )
    if wrong:
        raise InvalidArgument(
            "BAD_WEIGHTS",
            f"{path} does not fit {model}: name, shape or dtype differ for " + ", ".join(wrong[:8]),
        )
    module.load_state_dict(tensors, strict=not tied)


def _differs(name: str, own: State, tensors: State) -> bool:
    return (
        name not in own
        or name not in tensors
        or own[name].shape != tensors[name].shape
        or own[name].dtype != tensors[name].dtype
    )


def _tied(own: Mapping[str, torch.Tensor], tensors: State) -> set[str]:
    """Names that are absent because their tensor stands under another name, as Hugging Face saves
    them."""
    present = {_storage(own[name]) for name in own.keys() & tensors.keys()}
    return {name for name in own if name not in tensors and _storage(own[name]) in present}


def _storage(tensor: torch.Tensor) -> tuple[object, ...]:
    # Tensors without elements all begin at address 0.
    mark = tensor.data_ptr() or id(tensor)
    return (mark, tensor.shape, tensor.stride(), tensor.dtype)


def _weights(path: Path) -> State:
    if not path.is_dir():
        _refuse_pickle(path, [path.name])
        return _read(path, None)
    names = sorted(item.name for item in path.iterdir())
    if layout.INDEX in names and layout.SINGLE in names:
        raise _bad(path, f"holds both {layout.SINGLE} and {layout.INDEX}; expected one of them")
    if layout.SINGLE in names:
        return _read(path / layout.SINGLE, None)
    if layout.INDEX in names:
        return _sharded(path)
    _refuse_pickle(path, names)
    raise _bad(path, f"holds neither {layout.SINGLE} nor {layout.INDEX}")


def _refuse_pickle(path: Path, names: Iterable[str]) -> None:
    pickled = next((name for name in names if name.endswith(_PICKLED)), None)
    if pickled is not None:
        raise InvalidArgument(
            "PICKLED_WEIGHTS",
            f"{path}: {pickled} is a pickle, which runs code when it is read; write safetensors "
            "where you trust it, with model.save_pretrained(folder, safe_serialization=True) or "
            "safetensors.torch.save_file(state, file)",
        )


def _sharded(folder: Path) -> State:
    path = folder / layout.INDEX
    mapped, total = _index(path)
    by_file: dict[str, set[str]] = {}
    for name, file in mapped.items():
        by_file.setdefault(file, set()).add(name)
    if len(by_file) > MAX_SHARDS:
        raise _bad(path, f"names {len(by_file)} files; expected {MAX_SHARDS} at most")
    for file in sorted(by_file):
        if not (folder / file).is_file():
            raise _bad(path, f"names {file}, which is not there")
    state: State = {}
    for file, names in sorted(by_file.items()):
        state |= _read(folder / file, names)
    size = sum(tensor.nbytes for tensor in state.values())
    if total not in (None, size):
        raise _bad(path, f"says total_size {total}; the tensors have {size} bytes")
    return state


def _index(path: Path) -> tuple[dict[str, str], int | None]:
    """Files by tensor and, where it is told, the size of all of them."""
    if path.stat().st_size > MAX_INDEX_BYTES:
        raise _bad(path, f"is larger than {MAX_INDEX_BYTES} bytes")
    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=_without_repetition)
    except (OSError, ValueError, RecursionError) as error:
        raise _bad(path, f"cannot be read: {error}") from None
    mapped = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(mapped, dict) or not mapped:
        raise _bad(path, 'has no "weight_map" of tensor names to files')
    for name, file in mapped.items():
        if not _is_plain(file):
            raise _bad(
                path,
                f"puts tensor {name!r} into {file!r}; expected a .safetensors file "
                "of the same folder",
            )
    metadata = content.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    return mapped, total


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{twice!r} stands twice")
    return found


def _is_plain(file: object) -> bool:
    return isinstance(file, str) and file.endswith(".safetensors") and not set("/\\\0") & set(file)


def _read(path: Path, expected: set[str] | None) -> State:
    """The mapped tensors of one file, which holds those `expected` and no other."""
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            if expected is not None and names != expected:
                raise _misplaced(path, names, expected)
            return {name: _tensor(path, file, name) for name in sorted(names)}
    except (OSError, SafetensorError) as error:
        raise _bad(path, f"cannot be read: {error}") from None


def _tensor(path: Path, file: Any, name: str) -> torch.Tensor:
    datatype = file.get_slice(name).get_dtype()
    if datatype not in layout.SAFETENSORS_TYPES.values():
        raise _bad(path, f"tensor {name!r} has datatype {datatype}, which has no OIP datatype")
    tensor: torch.Tensor = file.get_tensor(name)
    return tensor


def _misplaced(path: Path, names: set[str], expected: set[str]) -> InvalidArgument:
    absent = sorted(expected - names)
    if absent:
        return _bad(path, f"lacks tensor {absent[0]!r}, which the index puts there")
    strange = sorted(names - expected)
    return _bad(path, f"holds tensor {strange[0]!r}, which the index does not put there")


def _bad(path: Path, what: str) -> InvalidArgument:
    return InvalidArgument("BAD_WEIGHTS", f"{path} {what}")
