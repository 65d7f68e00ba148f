"""A version of the store as a folder that Hugging Face's libraries read.

Decides that a folder appears whole or not at all, and what its config.json says. Tensors pass
through memory one at a time, each verified against its digest. A folder that stands is left alone
unless it is to be replaced and holds nothing but an export.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import uuid4

from chassis.errors import AlreadyExists, FailedPrecondition, ResourceExhausted
from chassis.failpoints import failpoint
from headrace.folder import layout
from model_store import Store, open_store
from model_store.chain import Chain
from model_store.digests import verified
from model_store.records import Manifest, TensorEntry

# Deltas beyond are read again for each tensor.
_DELTAS_KEPT_BYTES = 256 * 1024 * 1024


def export_folder(
    store: Store | str,
    model: str,
    version: int,
    path: str | Path,
    *,
    shard_bytes: int = layout.DEFAULT_SHARD_BYTES,
    force: bool = False,
) -> list[Path]:
    """Writes a version's weights and config.json to the new folder `path`; returns its files.

    `store` is a Store or its URL. Above `shard_bytes` the tensors are split into files with an
    index. The folder is durable when this returns; before, it is not there under its name. `force`
    replaces a folder that an earlier export wrote.

    Raises NotFound (VERSION_NOT_FOUND), AlreadyExists (FOLDER_EXISTS), FailedPrecondition
    (FOLDER_ACCESS), ResourceExhausted (FOLDER_FULL) and what the store raises.
    """
    if isinstance(store, str):
        with open_store(store) as opened:
            return export_folder(opened, model, version, path, shard_bytes=shard_bytes, force=force)
    final = Path(path).resolve()
    _check_free(final, force)
    manifest = store.manifest(model, version)
    files = layout.shards(manifest.tensors, shard_bytes)
    chain = Chain(manifest, store.read_blob)
    chain.keep(_DELTAS_KEPT_BYTES)
    with _reporting(final), _appearing(final) as folder:
        for name, entries in files.items():
            _write_tensors(folder / name, chain, layout.in_file_order(entries))
        if len(files) > 1:
            _write_json(folder / layout.INDEX, layout.index(files))
        _write_json(folder / layout.CONFIG, _config(store, manifest))
        failpoint("export.before_rename")
    return sorted(final.iterdir())


def _check_free(final: Path, force: bool) -> None:
    if not final.exists():
        return
    if not force:
        raise AlreadyExists(
            "FOLDER_EXISTS", f"{final} exists; name a new folder, or replace it by force"
        )
    if not final.is_dir():
        raise AlreadyExists("FOLDER_EXISTS", f"{final} is no folder; only an export is replaced")
    strange = sorted(item.name for item in final.iterdir() if not layout.is_exported(item.name))
    if strange:
        raise AlreadyExists(
            "FOLDER_EXISTS",
            f"{final} holds more than an export writes, such as {strange[0]!r}; only an export is "
            "replaced",
        )


@contextmanager
def _appearing(final: Path) -> Iterator[Path]:
    """A folder beside `final` that takes its name when the block ends; gone where it fails."""
    final.parent.mkdir(parents=True, exist_ok=True)
    folder = final.with_name(f".{final.name}.{uuid4().hex[:12]}.partial")
    folder.mkdir()
    try:
        yield folder
        _sync_folder(folder)
        _take_name(folder, final)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    _sync_folder(final.parent)


def _take_name(folder: Path, final: Path) -> None:
    if not final.exists():
        folder.rename(final)
        return
    # No system call of Python's exchanges two folders: between these two renames there is none.
    old = folder.with_suffix(".replaced")
    final.rename(old)
    try:
        folder.rename(final)
    except OSError:
        old.rename(final)
        raise
    shutil.rmtree(old)


def _write_tensors(path: Path, chain: Chain, entries: Sequence[TensorEntry]) -> None:
    with path.open("xb") as file:
        file.write(layout.header(entries))
        for entry in entries:
            file.write(verified(chain.content(entry), entry.digest))
        file.flush()
        os.fsync(file.fileno())


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with path.open("x", encoding="utf-8") as file:
        json.dump(content, file, indent=2, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _reporting(final: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        words = f"{final} cannot be written: {error.strerror or error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise ResourceExhausted("FOLDER_FULL", words) from error
        if error.errno == errno.ENOTEMPTY:
            raise AlreadyExists("FOLDER_EXISTS", words) from error
        raise FailedPrecondition("FOLDER_ACCESS", words) from error


def _config(store: Store, manifest: Manifest) -> dict[str, Any]:
    """The module's own configuration where its publisher knew one, and where it comes from."""
    known: dict[str, Any] = {}
    if manifest.config is not None:
        known = json.loads(store.read_blob(manifest.config.digest))
    dtype = _dtype(manifest.tensors)
    if dtype:
        known["torch_dtype"] = dtype
    known["headrace"] = {
        "model": manifest.model,
        "version": manifest.version,
        "step": manifest.step,
        "metrics": dict(manifest.metrics),
        "parent": manifest.parent,
        "commit_id": manifest.commit_id,
        "create_time_ms": manifest.create_time_ms,
        "signature": asdict(manifest.signature),
    }
    return known


def _dtype(tensors: Sequence[TensorEntry]) -> str:
    """torch's name of the floating point datatype that most bytes have; empty without one."""
    counted: Counter[str] = Counter()
    for entry in tensors:
        if entry.datatype in layout.TORCH_NAMES:
            counted[layout.TORCH_NAMES[entry.datatype]] += entry.size_bytes
    return counted.most_common(1)[0][0] if counted else ""
