"""Writes the descriptor set, the `*_pb2.py` loaders and their `*_pb2.pyi` types.

`python -m protos.generate` rewrites them; with `--check` it only compares and exits 1 on drift.
"""

from __future__ import annotations

import re
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parent
PACKAGE_IMPORT = re.compile(r"^from (inference|headrace)([.\w]*) import", re.MULTILINE)
LOADER = '''"""Messages of {file}; written by `make protos`."""

from protos.pool import module_members

globals().update(module_members("{file}"))
'''


def render(into: Path) -> list[Path]:
    """Writes every generated file under `into`; returns their paths relative to it."""
    files = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.proto"))
    well_known = str(resources.files("grpc_tools") / "_proto")
    arguments = [
        "protoc",
        f"-I{ROOT}",
        f"-I{well_known}",
        "--include_imports",
        f"--descriptor_set_out={into / 'descriptors.binpb'}",
        f"--pyi_out={into}",
        *files,
    ]
    if protoc.main(arguments) != 0:
        raise SystemExit("protoc failed; its message is above")
    written = [Path("descriptors.binpb")]
    for file in files:
        types = Path(file.removesuffix(".proto") + "_pb2.pyi")
        target = into / types
        target.write_text(PACKAGE_IMPORT.sub(r"from protos.\1\2 import", target.read_text()))
        loader = types.with_suffix(".py")
        (into / loader).write_text(LOADER.format(file=file))
        written += [types, loader]
    return written


def main() -> int:
    """Regenerates, or with `--check` reports the files that differ; returns the exit code."""
    with tempfile.TemporaryDirectory() as scratch:
        into = Path(scratch)
        written = render(into)
        stale = [
            path
            for path in written
            if not (ROOT / path).exists()
            or (ROOT / path).read_bytes() != (into / path).read_bytes()
        ]
        if "--check" in sys.argv:
            for path in stale:
                sys.stderr.write(
                    f"protos/{path} is not what the .proto files give: run `make protos`\n"
                )
            return 1 if stale else 0
        for path in stale:
            (ROOT / path).write_bytes((into / path).read_bytes())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
