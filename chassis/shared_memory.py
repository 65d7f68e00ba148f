"""Memory shared with clients of this machine: regions by name, and tensors in them.

A region is registered by its caller and belongs to the identity that registered it; another one
does not see it. System regions are files under /dev/shm. They are read with pread and written
with pwrite, never mapped: a client that truncates its file gets an error then, where a mapping
would kill this process with SIGBUS. Regions on a CUDA device are `chassis.shared_memory_cuda`'s.
Sentences name regions as the caller did, never a path.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from chassis.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)

REGION_PARAMETER = "shared_memory_region"
SIZE_PARAMETER = "shared_memory_byte_size"
OFFSET_PARAMETER = "shared_memory_offset"

DIRECTORY = "/dev/shm"
# Behind the optional slash: one component of a path, nothing that a log would have to escape.
_KEY = re.compile(r"[A-Za-z0-9._-]{1,250}", re.ASCII)
MOST_NAME_CHARS = 256


class Region(Protocol):
    """Registered memory; offsets count from its start."""

    @property
    def byte_size(self) -> int:
        """Bytes registered."""

    def read(self, offset: int, byte_size: int) -> bytes:
        """A copy. Raises FailedPrecondition (REGION_GONE)."""

    def write(self, offset: int, content: bytes) -> None:
        """Copies `content` there. Raises FailedPrecondition (REGION_GONE), ResourceExhausted."""

    def close(self) -> None:
        """Lets go of the memory."""


@dataclass(frozen=True, slots=True)
class SystemRegion:
    """`byte_size` bytes from `offset` of a file under /dev/shm; `key` as the caller gave it."""

    key: str
    offset: int
    byte_size: int
    descriptor: int

    def read(self, offset: int, byte_size: int) -> bytes:
        """As `Region.read`."""
        parts: list[bytes] = []
        at, end = self.offset + offset, self.offset + offset + byte_size
        while at < end:
            part = os.pread(self.descriptor, end - at, at)
            if not part:
                raise _gone()
            parts.append(part)
            at += len(part)
        return b"".join(parts)

    def write(self, offset: int, content: bytes) -> None:
        """As `Region.write`."""
        at = self.offset + offset
        if os.fstat(self.descriptor).st_size < at + len(content):
            # Written to, a file that was truncated would grow again.
            raise _gone()
        view = memoryview(content)
        while view:
            try:
                written = os.pwrite(self.descriptor, view, at)
            except OSError as error:
                raise ResourceExhausted(
                    "SHARED_MEMORY_FULL", "the system has no shared memory left for the output"
                ) from error
            view, at = view[written:], at + written

    def close(self) -> None:
        """As `Region.close`."""
        os.close(self.descriptor)


def _gone() -> FailedPrecondition:
    return FailedPrecondition(
        "REGION_GONE", "the shared memory is smaller now than the region that was registered"
    )


class Regions:
    """The regions of one identity, by name; system and CUDA regions share the names."""

    def __init__(self, memory: SharedMemory) -> None:
        self._memory = memory
        self._regions: dict[str, Region] = {}

    def region(self, name: str, field: str) -> Region:
        """Raises NotFound (REGION_NOT_FOUND)."""
        found = self._regions.get(name)
        if found is None:
            raise NotFound(
                "REGION_NOT_FOUND",
                f"shared memory region {name[:64]!r} is not registered here",
                field=field,
            )
        return found

    def add(self, name: str, byte_size: int, opened: Callable[[], Region]) -> None:
        """Registers what `opened` opens.

        Raises InvalidArgument (BAD_REGION), AlreadyExists (REGION_EXISTS), ResourceExhausted
        (TOO_MANY_REGIONS, TOO_MANY_REGION_BYTES) and what `opened` raises.
        """
        if not name or len(name) > MOST_NAME_CHARS:
            raise InvalidArgument(
                "BAD_REGION",
                f"a shared memory region needs a name of 1 to {MOST_NAME_CHARS} characters, got "
                f"{len(name)}",
                field="name",
            )
        if name in self._regions:
            raise AlreadyExists(
                "REGION_EXISTS",
                f"shared memory region {name[:64]!r} is registered already; unregister it first",
                field="name",
            )
        self._memory.check_room(byte_size)
        self._regions[name] = opened()

    def named(self, kind: type[Any], name: str) -> dict[str, Any]:
        """The region of that kind and name, or all of them for "".

        Raises NotFound (REGION_NOT_FOUND).
        """
        if name:
            found = self.region(name, "name")
            return {name: found} if isinstance(found, kind) else {}
        return {name: region for name, region in self._regions.items() if isinstance(region, kind)}

    def remove(self, kind: type[Any], name: str) -> None:
        """Unregisters the region of that kind and name, if there is one; all of them for ""."""
        names = [name] if name else list(self._regions)
        for each in names:
            if isinstance(self._regions.get(each), kind):
                self._regions.pop(each).close()

    def sizes(self) -> list[int]:
        """Bytes of each."""
        return [region.byte_size for region in self._regions.values()]


class SharedMemory:
    """What a server shares with the clients of its machine; nothing unless `enabled`.

    Keys must start with `prefix`. `max_regions` and `max_bytes` bound all that is registered.
    """

    def __init__(
        self,
        *,
        enabled: bool = False,
        prefix: str = "headrace_",
        max_regions: int = 64,
        max_bytes: int = 2**30,
    ) -> None:
        self.enabled = enabled
        self._prefix = prefix
        self._max_regions = max_regions
        self._max_bytes = max_bytes
        self._by_identity: dict[str, Regions] = {}
        self._none = Regions(self)

    def of(self, identity: str) -> Regions:
        """What this identity registered."""
        return self._by_identity.get(identity, self._none)

    def register(self, identity: str, name: str, byte_size: int, opened: Callable[[], Any]) -> None:
        """As `Regions.add`."""
        regions = self._by_identity.get(identity) or Regions(self)
        regions.add(name, byte_size, opened)
        self._by_identity[identity] = regions

    def unregister(self, identity: str, kind: type[Any], name: str) -> None:
        """As `Regions.remove`."""
        regions = self.of(identity)
        regions.remove(kind, name)
        if not regions.sizes():
            self._by_identity.pop(identity, None)

    def open_system(self, key: str, offset: int, byte_size: int) -> SystemRegion:
        """The region of that key, for `register`.

        Raises InvalidArgument (BAD_KEY, BAD_REGION) and NotFound (KEY_NOT_FOUND).
        """
        file = key.removeprefix("/")
        if not _KEY.fullmatch(file) or not file.startswith(self._prefix):
            raise InvalidArgument(
                "BAD_KEY",
                f"shared memory key {key[:64]!r} is not allowed: expected {self._prefix!r}, then "
                "letters, digits and . _ - only",
                field="key",
            )
        descriptor = _open(file)
        try:
            held = os.fstat(descriptor)
            if not stat.S_ISREG(held.st_mode):
                raise _not_shared(key)
            if byte_size < 1 or offset + byte_size > held.st_size:
                raise InvalidArgument(
                    "BAD_REGION",
                    f"shared memory {key[:64]!r} has {held.st_size} bytes; expected a region of at "
                    f"least 1 byte within them, got {byte_size} from {offset}",
                    field="byte_size",
                )
        except BaseException:
            os.close(descriptor)
            raise
        return SystemRegion(key, offset, byte_size, descriptor)

    def check_room(self, byte_size: int) -> None:
        """Raises ResourceExhausted (TOO_MANY_REGIONS, TOO_MANY_REGION_BYTES)."""
        sizes = [size for regions in self._by_identity.values() for size in regions.sizes()]
        if len(sizes) >= self._max_regions:
            raise ResourceExhausted(
                "TOO_MANY_REGIONS",
                f"{len(sizes)} shared memory regions are registered, as many as may be",
            )
        if sum(sizes) + byte_size > self._max_bytes:
            raise ResourceExhausted(
                "TOO_MANY_REGION_BYTES",
                f"with {byte_size} bytes more than {self._max_bytes} bytes of shared memory would "
                "be registered",
                field="byte_size",
            )

    def close(self) -> None:
        """Unregisters everything."""
        for identity, regions in list(self._by_identity.items()):
            regions.remove(object, "")
            del self._by_identity[identity]


NO_REGIONS = SharedMemory().of("")


@dataclass(frozen=True, slots=True)
class Window:
    """Part of a region: where an input lies, or where an output is wanted.

    The region is looked up again for each use, as it may have been unregistered meanwhile. `path`
    is that of the tensor in the request.
    """

    regions: Regions
    name: str
    offset: int
    byte_size: int
    path: str

    @property
    def size_field(self) -> str:
        """Where the request says how large it is."""
        return f"{self.path}.parameters[{SIZE_PARAMETER}]"

    def read(self) -> bytes:
        """All of it. Raises NotFound (REGION_NOT_FOUND), FailedPrecondition (REGION_GONE)."""
        return self._region().read(self.offset, self.byte_size)

    def write(self, content: bytes, output: str) -> None:
        """Copies `content`, the output of that name, to its start.

        Raises InvalidArgument (REGION_TOO_SMALL), NotFound (REGION_NOT_FOUND), FailedPrecondition
        (REGION_GONE), ResourceExhausted.
        """
        if len(content) > self.byte_size:
            raise InvalidArgument(
                "REGION_TOO_SMALL",
                f"output {output!r} has {len(content)} bytes; the request gave {self.byte_size} "
                "bytes of shared memory for it",
                field=self.size_field,
            )
        self._region().write(self.offset, content)

    def tell(self, parameters: Any, byte_size: int) -> None:
        """Sets the parameters that tell where an output of `byte_size` bytes lies."""
        parameters[REGION_PARAMETER].string_param = self.name
        parameters[SIZE_PARAMETER].int64_param = byte_size
        if self.offset:
            parameters[OFFSET_PARAMETER].int64_param = self.offset

    def _region(self) -> Region:
        region = self.regions.region(self.name, f"{self.path}.parameters[{REGION_PARAMETER}]")
        if self.offset + self.byte_size > region.byte_size:
            raise InvalidArgument(
                "BAD_REGION",
                f"shared memory region {self.name[:64]!r} has {region.byte_size} bytes; the "
                f"request names {self.byte_size} from {self.offset}",
                field=self.size_field,
            )
        return region


def window_of(parameters: Any, regions: Regions, path: str) -> Window | None:
    """The window that a tensor's parameters name, None if they name none.

    Raises InvalidArgument (BAD_REGION) and NotFound (REGION_NOT_FOUND).
    """
    if REGION_PARAMETER not in parameters:
        return None
    choice = parameters[REGION_PARAMETER]
    if choice.WhichOneof("parameter_choice") != "string_param":
        raise _bad_parameter(REGION_PARAMETER, "the name of a region", path)
    if SIZE_PARAMETER not in parameters:
        raise _bad_parameter(SIZE_PARAMETER, "a number of bytes", path)
    byte_size = _bytes(parameters, SIZE_PARAMETER, path)
    offset = _bytes(parameters, OFFSET_PARAMETER, path) if OFFSET_PARAMETER in parameters else 0
    window = Window(regions, choice.string_param, offset, byte_size, path)
    # Refused now rather than when the answer is there.
    window._region()
    return window


def _bytes(parameters: Any, name: str, path: str) -> int:
    choice = parameters[name]
    kind = choice.WhichOneof("parameter_choice")
    if kind not in ("int64_param", "uint64_param") or getattr(choice, kind) < 0:
        raise _bad_parameter(name, "a number of bytes, 0 or more", path)
    return int(getattr(choice, kind))


def _bad_parameter(name: str, expected: str, path: str) -> InvalidArgument:
    return InvalidArgument(
        "BAD_REGION",
        f"{path}: parameter {name!r} must be {expected}",
        field=f"{path}.parameters[{name}]",
    )


def _open(file: str) -> int:
    # Without waiting for the other end of a pipe, and never through a link.
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        directory = os.open(DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        raise _not_found(file) from None
    try:
        return os.open(file, flags, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise ResourceExhausted(
                "TOO_MANY_REGIONS", "the server has no file descriptor left for the region"
            ) from None
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENODEV):
            raise _not_shared(file) from None
        raise _not_found(file) from None
    finally:
        with suppress(OSError):
            os.close(directory)


def _not_found(key: str) -> NotFound:
    return NotFound(
        "KEY_NOT_FOUND",
        f"shared memory {key[:64]!r} does not exist here, or is not this server's to open",
        field="key",
    )


def _not_shared(key: str) -> InvalidArgument:
    return InvalidArgument(
        "BAD_KEY", f"{key[:64]!r} is not shared memory: expected a plain file", field="key"
    )
