"""Which store a URL means."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from chassis.errors import FailedPrecondition, InvalidArgument
from model_store.file_store import FileStore
from model_store.memory_store import MemoryStore
from model_store.store import Store


def open_store(url: str) -> Store:
    """The store that `url` names: `memory://NAME`, `file:///absolute/path`, `redis://host:port/db`,
    `redis+sentinel://host:port,host:port/name/db`, `s3://bucket/prefix`.

    Touches neither disk nor network: a store that cannot be reached says so when it is used, and
    may be reachable by then. Raises InvalidArgument (BAD_STORE_URL, BAD_NAME), FailedPrecondition
    (NO_S3_CLIENT, STORE_ACCESS) where the package behind s3:// or half of its key is missing.
    """
    scheme, separator, _ = url.partition("://")
    opener = _OPENERS.get(scheme)
    if opener is None or not separator:
        # The rest of the URL stays out of the sentence: it may hold a password.
        raise InvalidArgument(
            "BAD_STORE_URL",
            f"a store URL cannot start with {scheme[:20]!r}: expected one of "
            + ", ".join(f"{known}://" for known in _OPENERS),
            field="store",
        )
    return opener(url)


def _open_memory(url: str) -> Store:
    return MemoryStore(url.removeprefix("memory://"))


def _open_file(url: str) -> Store:
    parts = urlsplit(url)
    path = Path(unquote(parts.path))
    if parts.netloc not in ("", "localhost") or not path.is_absolute():
        raise InvalidArgument(
            "BAD_STORE_URL",
            f"store URL {url!r} must hold an absolute path: file:///path",
            field="store",
        )
    return FileStore(path)


def _open_redis(url: str) -> Store:
    # Here, so that a process with a file store never loads the Redis client.
    from model_store.redis_store import RedisStore

    return RedisStore(url)


def _open_s3(url: str) -> Store:
    try:
        from model_store.s3_store import S3Store
    except ImportError as error:
        raise FailedPrecondition(
            "NO_S3_CLIENT",
            "a store in S3 needs the obstore package: pip install 'headrace[s3]'",
            field="store",
        ) from error
    return S3Store(url)


_OPENERS: dict[str, Callable[[str], Store]] = {
    "memory": _open_memory,
    "file": _open_file,
    "redis": _open_redis,
    "rediss": _open_redis,
    "redis+sentinel": _open_redis,
    "s3": _open_s3,
}
