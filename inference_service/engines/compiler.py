"""Compiles programs in a process beside the replica, once for each program, device and precision.

Decides where compiled programs are kept: in `folder`, or in one of this process's own that goes
with it. One that another process of this replica's user made for the same torch is taken as it is:
whoever may write to the folder runs code in the replica. Compiling needs g++; without it, or where
it fails, CompilationFailed says why, and a program that failed once is not tried again.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import torch

from inference_service.engines.compiled import CompilationFailed, CompiledProgram, Extent
from inference_service.precision import Precision
from model_store.digests import digest
from model_store.record_bytes import encode_manifest
from model_store.records import Manifest

# Between two looks at a running job, at which a stopping replica gives up.
LOOK_S = 0.2
_LEAST_SECONDS = 1.0


class Compiler:
    """Compiles for one device. Thread-safe: jobs take turns."""

    def __init__(self, device: torch.device, *, folder: str = "", timeout_s: float = 600.0) -> None:
        self._device = device
        self._folder = folder
        self._timeout_s = timeout_s
        # A directory of this process alone, and what removes it.
        self._own: tuple[Path, weakref.finalize[..., Compiler]] | None = None
        self._turn = threading.Lock()
        self._failed: dict[str, str] = {}
        # Jobs run so far; a swap adds none.
        self.jobs = 0

    def compiled(
        self,
        manifest: Manifest,
        program: bytes,
        golden: bytes,
        precision: Precision,
        go_on: Callable[[], None],
        timeout_s: float | None = None,
    ) -> CompiledProgram:
        """The manifest's program, compiled now or before; `go_on` raises to stop.

        Raises CompilationFailed.
        """
        key = self._key(manifest, precision)
        with self._turn:
            home = self._home() / key
            if not (home / "extents.json").exists():
                if key in self._failed:
                    raise CompilationFailed(self._failed[key])
                try:
                    self._compile(home, manifest, program, golden, precision, go_on, timeout_s)
                except CompilationFailed as failure:
                    self._failed[key] = str(failure)
                    raise
        extents = json.loads((home / "extents.json").read_text())
        return CompiledProgram(
            home / "compiled.pt2",
            tuple(tuple(Extent(*extent) for extent in dimensions) for dimensions in extents),
        )

    def close(self) -> None:
        """Removes what only this process used."""
        if self._own is not None:
            self._own[1]()
            self._own = None

    def _key(self, manifest: Manifest, precision: Precision) -> str:
        # What else decides on the code: torch, its instruction set, the signature.
        about = (
            torch.__version__,
            torch.backends.cpu.get_cpu_capability(),
            str(self._device),
            torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "",
            manifest.program.digest,
            precision.name,
            repr(manifest.signature),
        )
        return digest(repr(about).encode()).rpartition(":")[2][:32]

    def _home(self) -> Path:
        if self._folder:
            return Path(self._folder)
        if self._own is None:
            made = Path(tempfile.mkdtemp(prefix="headrace-compiled-"))
            # At the latest when nobody compiles with it any more, or at exit.
            removal = weakref.finalize(self, shutil.rmtree, made, ignore_errors=True)
            self._own = made, removal
        return self._own[0]

    def _compile(
        self,
        home: Path,
        manifest: Manifest,
        program: bytes,
        golden: bytes,
        precision: Precision,
        go_on: Callable[[], None],
        timeout_s: float | None,
    ) -> None:
        if shutil.which("g++") is None:
            raise CompilationFailed("there is no g++ on this machine")
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home.parent, prefix="job-") as work:
            folder = Path(work) / "program"
            folder.mkdir()
            (folder / "manifest").write_bytes(encode_manifest(manifest))
            (folder / "program").write_bytes(program)
            (folder / "golden").write_bytes(golden)
            self._run(folder, manifest.model, precision, go_on, timeout_s)
            shutil.rmtree(home, ignore_errors=True)
            folder.rename(home)

    def _run(
        self,
        folder: Path,
        model: str,
        precision: Precision,
        go_on: Callable[[], None],
        timeout_s: float | None,
    ) -> None:
        self.jobs += 1
        command = [sys.executable, "-m", "inference_service.engines.compile_job", str(folder)]
        command += [f"--model={model}", f"--device={self._device}", f"--precision={precision.name}"]
        errors = folder / "errors"
        limit_s = max(_LEAST_SECONDS, min(self._timeout_s, timeout_s or self._timeout_s))
        give_up_at = time.monotonic() + limit_s
        with errors.open("wb") as stream:
            job = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        try:
            while _running(job):
                go_on()
                if time.monotonic() > give_up_at:
                    raise CompilationFailed(f"it took longer than {limit_s:g} s")
        finally:
            if job.poll() is None:
                # Its g++ too.
                os.killpg(job.pid, signal.SIGKILL)
            job.wait()
        if job.returncode:
            raise CompilationFailed(_last_line(errors) or f"exit code {job.returncode}")


def _running(job: subprocess.Popen[bytes]) -> bool:
    try:
        job.wait(LOOK_S)
    except subprocess.TimeoutExpired:
        return True
    return False


def _last_line(errors: Path) -> str:
    lines = errors.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
