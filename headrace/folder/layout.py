"""What a folder of weights holds: names of files, datatypes, which tensor lies in which file.

Decides how tensors are split into files and how a file begins. Reading and writing files is left
to `headrace.folder.export` and `headrace.folder.state`; no torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from chassis.errors import InvalidArgument
from chassis.tensors import ELEMENT_BYTES
from model_store.records import TensorEntry

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
# As Hugging Face's own: transformers splits above 5 GB too, or above 50 in newer releases.
DEFAULT_SHARD_BYTES = 5 * 10**9

# OIP datatypes by the names that safetensors gives them.
SAFETENSORS_TYPES = {
    "BOOL": "BOOL",
    "UINT8": "U8",
    "UINT16": "U16",
    "UINT32": "U32",
    "UINT64": "U64",
    "INT8": "I8",
    "INT16": "I16",
    "INT32": "I32",
    "INT64": "I64",
    "FP16": "F16",
    "FP32": "F32",
    "FP64": "F64",
    "BF16": "BF16",
}
TORCH_NAMES = {"FP16": "float16", "FP32": "float32", "FP64": "float64", "BF16": "bfloat16"}

_SHARD = re.compile(r"model-\d{5,}-of-\d{5,}\.safetensors", re.ASCII)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(|B|[KMGT]B|[KMGT]iB)", re.ASCII)
_UNITS = {"": 1, "B": 1} | {
    f"{letter}{tail}": base**power
    for power, letter in enumerate("KMGT", 1)
    for tail, base in (("B", 1000), ("iB", 1024))
}


def size_in_bytes(text: str) -> int:
    """Bytes from a text such as "5GB", "500 MB" or "2GiB". Raises InvalidArgument (BAD_SIZE)."""
    found = _SIZE.fullmatch(text.strip())
    size = int(float(found[1]) * _UNITS[found[2]]) if found else 0
    if size < 1:
        raise InvalidArgument(
            "BAD_SIZE", f"size {text!r}: expected a number and a unit, such as 5GB, 500MB or 2GiB"
        )
    return size


def is_exported(name: str) -> bool:
    """Whether an export may have written a file of this name."""
    return name in (SINGLE, INDEX, CONFIG) or _SHARD.fullmatch(name) is not None


def shards(entries: Iterable[TensorEntry], shard_bytes: int) -> dict[str, list[TensorEntry]]:
    """Tensors by the file they go to, in order of name; one larger than a shard has its own."""
    groups: list[list[TensorEntry]] = [[]]
    used = 0
    for entry in entries:
        if groups[-1] and used + entry.size_bytes > shard_bytes:
            groups.append([])
            used = 0
        groups[-1].append(entry)
        used += entry.size_bytes
    if len(groups) == 1:
        return {SINGLE: groups[0]}
    return {
        f"model-{number:05d}-of-{len(groups):05d}.safetensors": group
        for number, group in enumerate(groups, 1)
    }


def in_file_order(entries: Iterable[TensorEntry]) -> list[TensorEntry]:
    """Larger elements first, so that every tensor lies on a multiple of its element's size."""
    return sorted(entries, key=lambda entry: (-ELEMENT_BYTES[entry.datatype], entry.name))


def header(entries: Sequence[TensorEntry]) -> bytes:
    """The beginning of a safetensors file whose tensors follow in the order of `entries`."""
    fields: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for entry in entries:
        fields[entry.name] = {
            "dtype": SAFETENSORS_TYPES[entry.datatype],
            "shape": list(entry.shape),
            "data_offsets": [at, at + entry.size_bytes],
        }
        at += entry.size_bytes
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    padded = text + b" " * (-len(text) % 8)
    return len(padded).to_bytes(8, "little") + padded


def index(files: Mapping[str, Sequence[TensorEntry]]) -> dict[str, Any]:
    """What the index of a folder of shards says."""
    return {
        "metadata": {
            "total_size": sum(entry.size_bytes for group in files.values() for entry in group)
        },
        "weight_map": {entry.name: file for file, group in files.items() for entry in group},
    }
