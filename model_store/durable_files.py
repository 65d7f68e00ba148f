"""Files that appear whole, survive a crash, and never change in place.

Decides the order that makes it so: write beside, fsync, rename or link, fsync the directory; and
translates what the operating system says into our errors. What the files mean is left to
`model_store.file_line` and `model_store.file_store`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar
from uuid import uuid4

from chassis.errors import FailedPrecondition, HeadraceError, ResourceExhausted, Unavailable
from chassis.failpoints import failpoint
from model_store.blobs import PART_BYTES

# A temporary file is unlocked for the instant between its creation and its lock; nothing this old
# is in that instant, whatever the clocks of two hosts on one volume say.
ABANDONED_AFTER_S = 600.0

LOCK_TIMEOUT_S = 10.0

_LOCK_POLL_S = 0.002
_COMPARE_BYTES = 4 * 1024 * 1024

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _translated(error: OSError) -> HeadraceError:
    # No path in the sentence: it may travel to a caller. The cause keeps it for the log.
    words = os.strerror(error.errno) if error.errno else "input/output error"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ResourceExhausted("STORE_FULL", f"the model store cannot take more: {words}")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTSUP):
        return FailedPrecondition("STORE_ACCESS", f"the model store refuses access: {words}")
    return Unavailable("STORE_UNAVAILABLE", f"the model store's files failed: {words}")


def _reporting(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Turns the OSErrors of a function into Headrace errors."""

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(*args, **kwargs)
        except OSError as error:
            raise _translated(error) from error

    return call


@_reporting
def read_file(path: Path) -> bytes | None:
    """The whole content; None if there is no such file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


@_reporting
def read_file_into(path: Path, target: memoryview, before: Callable[[int], None]) -> bool:
    """Fills `target` with the whole content; False if that is of another size, or there is none.

    `before` is told the size of each part. A False may leave something in `target`.
    """
    try:
        with path.open("rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != len(target):
                return False
            at = 0
            while at < len(target):
                part = target[at : at + PART_BYTES]
                before(len(part))
                read = os.preadv(file.fileno(), [part], at)
                if not read:
                    return False
                at += read
            return True
    except FileNotFoundError:
        return False


@_reporting
def names_in(directory: Path) -> list[str]:
    """Names in no order; empty if there is no such directory."""
    try:
        return [path.name for path in directory.iterdir()]
    except FileNotFoundError:
        return []


@_reporting
def is_file(path: Path) -> bool:
    """Whether a file is there, whole or damaged."""
    return path.is_file()


@_reporting
def names_of(path: Path) -> int:
    """How many names the file has; 0 if there is none."""
    try:
        return path.stat().st_nlink
    except FileNotFoundError:
        return 0


@_reporting
def touch(path: Path) -> bool:
    """Makes now the time of the file; whether there is one."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


@_reporting
def sized_and_timed(path: Path) -> tuple[int, int] | None:
    """The file's size in bytes and its time in milliseconds; None if there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns // 1_000_000


@_reporting
def holds(path: Path, content: memoryview) -> bool:
    """Whether the file is there and holds exactly these bytes."""
    try:
        with path.open("rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != len(content):
                return False
            for at in range(0, len(content), _COMPARE_BYTES):
                part = bytes(content[at : at + _COMPARE_BYTES])
                # pread, because one read may give less than what was asked for.
                if os.pread(file.fileno(), len(part), at) != part:
                    return False
            return True
    except FileNotFoundError:
        return False


@_reporting
def ensure_directory(path: Path) -> None:
    """Makes the directory and its parents, for this user only, and makes their names durable."""
    if path.is_dir():
        return
    ensure_directory(path.parent)
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    sync_directory(path.parent)


@_reporting
def sync_directory(path: Path) -> None:
    """Makes the names in the directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@_reporting
def replace_file(final: Path, content: bytes | memoryview, staging: Path, *, point: str) -> None:
    """Makes `final` hold `content`, durably; a reader sees the old content or the new.

    Passes failpoints `<point>.before_fsync`, `.before_rename` and `.after_rename`.
    """
    with _staged(content, staging, point) as temporary:
        failpoint(f"{point}.before_rename")
        temporary.replace(final)
        failpoint(f"{point}.after_rename")
        sync_directory(final.parent)


@_reporting
def hint_file(final: Path, content: bytes, staging: Path) -> None:
    """Replaces `final` at once but not durably: for what can be derived again."""
    temporary = staging / _temporary_name()
    descriptor = _created(temporary)
    try:
        _write_all(descriptor, memoryview(content))
    finally:
        os.close(descriptor)
    temporary.replace(final)


@_reporting
def create_files(
    finals: Sequence[Path], content: bytes | memoryview, staging: Path, *, point: str
) -> bool:
    """Makes every one of `finals`, in order, a new file with `content`, durably.

    False, and no further one made, where one of them exists already. Passes failpoints
    `<point>.before_fsync`, `.before_link` and `.after_link`.
    """
    with _staged(content, staging, point) as temporary:
        failpoint(f"{point}.before_link")
        try:
            for final in finals:
                # link, unlike rename, never overwrites: of two writers one fails.
                os.link(temporary, final)
        except FileExistsError:
            return False
        failpoint(f"{point}.after_link")
        for final in finals:
            sync_directory(final.parent)
        return True


@_reporting
def remove_file(path: Path) -> None:
    """Unlinks the file if it is there."""
    path.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Holds the advisory lock of a lock file, which the kernel frees when its holder dies.

    `shared` holders have it together. Raises Unavailable (STORE_BUSY) after LOCK_TIMEOUT_S: a
    stopped process may hold it for ever.
    """
    descriptor = _opened_lock(path)
    try:
        _take_lock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@_reporting
def _opened_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


@_reporting
def _take_lock(descriptor: int, kind: int) -> None:
    give_up_at = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        with suppress(BlockingIOError):
            return fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        if time.monotonic() > give_up_at:
            raise Unavailable(
                "STORE_BUSY",
                f"another process has held a lock of the store for {LOCK_TIMEOUT_S:.0f} s",
            )
        time.sleep(_LOCK_POLL_S)


@contextmanager
def _staged(content: bytes | memoryview, staging: Path, point: str) -> Iterator[Path]:
    """A temporary file with `content`, fsynced; gone afterwards under its temporary name.

    Locked while it lives: `sweep` takes no file whose writer lives. After a failed fsync the
    content is written anew by whoever tries again, because the kernel may have dropped the pages.
    """
    path = staging / _temporary_name()
    descriptor = _created(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _write_all(descriptor, memoryview(content))
        failpoint(f"{point}.before_fsync")
        os.fsync(descriptor)
        yield path
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _created(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)


def _temporary_name() -> str:
    return f"{os.getpid()}-{uuid4().hex}"


def _write_all(descriptor: int, content: memoryview) -> None:
    at = 0
    while at < len(content):
        # One write moves at most 2 GiB.
        at += os.write(descriptor, content[at:])


@_reporting
def sweep(staging: Path, *, now_s: float) -> int:
    """Removes what killed writers left behind; returns how many files.

    `now_s` is the file system's clock (seconds since the epoch).
    """
    removed = 0
    for path in list(staging.iterdir()):
        with suppress(FileNotFoundError):
            old = now_s - path.stat().st_mtime > ABANDONED_AFTER_S
            if old and _is_unlocked(path):
                path.unlink()
                removed += 1
    return removed


def _is_unlocked(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
