"""One bucket: how long a request may take, what its errors mean, and whether it keeps conditions.

Decides time-outs and retries, splits large objects into requests that end in time, and translates
the client's errors; no other file of the store knows the client. Credentials are found by the
client: environment, web identity, container or instance role.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import obstore
from obstore import exceptions as client_errors
from obstore.store import S3Store as Bucket

from chassis.errors import FailedPrecondition, HeadraceError, ResourceExhausted, Unavailable
from model_store.s3_location import S3Location
from model_store.side_by_side import side_by_side

CONNECT_TIMEOUT_S = 3
# For the answer to one request, which moves at most CHUNK_BYTES.
REQUEST_TIMEOUT_S = 30
CHUNK_BYTES = 16 * 1024 * 1024
# Requests at the same time, of one call.
CONCURRENCY = 8
_RETRIES = 2
_CONDITIONS = "conditions"
# As many as a server lists in one answer.
_PAGE = 1000

_R = TypeVar("_R")

_REFUSALS = (client_errors.PermissionDeniedError, client_errors.UnauthenticatedError)
_LOST_RACES = (client_errors.AlreadyExistsError, client_errors.PreconditionError)
# Signs in the text of errors to which the client gives no class of their own.
_NO_BUCKET = "NoSuchBucket"
_REFUSED = "403 Forbidden"
# Where the client asks last, once nothing else named credentials.
_METADATA_ADDRESS = "169.254.169.254"
# How MinIO, SeaweedFS and others say so; AWS never does.
_FULL = ("XMinioStorageFull", "QuotaExceeded", "507 Insufficient Storage")
# The client raises Python's own, and has one of its own as well.
_ABSENT = (FileNotFoundError, client_errors.NotFoundError)


@dataclass(frozen=True, slots=True)
class S3Object:
    """An object's bytes, and the tag that a replacement names."""

    content: bytes
    tag: str


@dataclass(frozen=True, slots=True)
class S3Entry:
    """An object seen from outside: path, size in bytes, when it was put, in milliseconds."""

    path: str
    size_bytes: int
    put_time_ms: int


class S3Objects:
    """Objects under the prefix of a bucket; connects at the first call. Thread-safe.

    Every method raises Unavailable (STORE_UNAVAILABLE), FailedPrecondition (STORE_ACCESS) and
    ResourceExhausted (STORE_FULL); making it raises STORE_ACCESS where half of a key is given.
    """

    def __init__(self, location: S3Location) -> None:
        self._bucket_name = location.bucket
        try:
            self._bucket = _bucket(location)
        except client_errors.BaseError as error:
            raise FailedPrecondition(
                "STORE_ACCESS",
                f"the settings for bucket {location.bucket!r} cannot be used: AWS_ACCESS_KEY_ID "
                "and AWS_SECRET_ACCESS_KEY belong together, and other AWS_ variables must be valid",
            ) from error

    def read(self, path: str) -> S3Object | None:
        """The object; None where there is none."""
        result = self._absent_is_none(lambda: self._get(path, {}))
        return None if result is None else S3Object(*result)

    def read_if_changed(self, path: str, tag: str) -> S3Object | None:
        """The object, unless it still has that tag (then None) or is gone (then empty)."""
        unless = {"if_none_match": tag} if tag else {}
        try:
            result = self._absent_is_none(lambda: self._get(path, unless))
        except client_errors.NotModifiedError:
            return None
        return S3Object(b"", "") if result is None else S3Object(*result)

    def entry(self, path: str) -> S3Entry | None:
        """The object without its bytes; None where there is none."""
        meta = self._absent_is_none(lambda: obstore.head(self._bucket, path))
        return None if meta is None else _entry(meta)

    def absent(self, paths: Collection[str]) -> set[str]:
        """Those of `paths` where no object is."""
        entries = side_by_side(self.entry, paths, CONCURRENCY)
        return {path for path, entry in zip(paths, entries, strict=True) if entry is None}

    def entries(self, path: str) -> Iterator[S3Entry]:
        """Every object below `path`, in no order."""
        pages = iter(obstore.list(self._bucket, path, chunk_size=_PAGE))
        while page := self._asked(lambda: next(pages, None)):
            yield from map(_entry, page)

    def put(self, path: str, content: bytes | memoryview) -> None:
        """Puts or replaces the object; it appears whole, and is durable on return."""
        self._written(
            lambda: obstore.put(
                self._bucket,
                path,
                content,
                use_multipart=len(content) > CHUNK_BYTES,
                chunk_size=CHUNK_BYTES,
                max_concurrency=CONCURRENCY,
            )
        )

    def put_if(self, path: str, content: bytes, tag: str) -> bool:
        """Puts the object if it still has that tag ("": if there is none); whether it did.

        False may also mean that it did and the answer was lost: who asks reads the object again.
        """
        mode: Any = {"e_tag": tag} if tag else "create"
        try:
            self._written(lambda: obstore.put(self._bucket, path, content, mode=mode))
        except _LOST_RACES:
            return False
        return True

    def delete(self, path: str) -> None:
        """Deletes the object if there is one."""
        self._absent_is_none(lambda: obstore.delete(self._bucket, path))

    def names(self, path: str) -> list[str]:
        """Names of the objects right below `path`, sorted."""
        result = self._asked(lambda: obstore.list_with_delimiter(self._bucket, path))
        paths = [str(meta["path"]) for meta in result["objects"]]
        # Some servers list an emptied folder itself.
        return sorted(found.rpartition("/")[2] for found in paths if found.startswith(f"{path}/"))

    def folders(self, path: str) -> list[str]:
        """Names of what lies below `path`, sorted."""
        result = self._asked(lambda: obstore.list_with_delimiter(self._bucket, path))
        return sorted(prefix.rpartition("/")[2] for prefix in result["common_prefixes"])

    def check_conditions(self) -> None:
        """Whether this server keeps the conditions on which `put_if` rests.

        Raises FailedPrecondition (STORE_UNCONDITIONAL): some servers ignore them, and two writers
        would overwrite each other.
        """
        self.put_if(_CONDITIONS, b"", "")
        if self.put_if(_CONDITIONS, b"", "") or self.put_if(_CONDITIONS, b"", '"no-such-tag"'):
            raise FailedPrecondition(
                "STORE_UNCONDITIONAL",
                "the S3 server ignores If-None-Match or If-Match on PUT, without which two "
                "publishers overwrite each other: use a server that supports conditional writes",
            )

    def _get(self, path: str, options: Any) -> tuple[bytes, str]:
        result = obstore.get(self._bucket, path, options=options)
        tag, size = str(result.meta["e_tag"] or ""), int(result.meta["size"])
        if size <= CHUNK_BYTES:
            return result.bytes().to_bytes(), tag
        # By a request for each part: one for all of a large object would not end in time.
        starts = range(0, size, CHUNK_BYTES)
        parts = side_by_side(lambda start: self._part(path, start, size), starts, CONCURRENCY)
        return b"".join(parts), tag

    def _part(self, path: str, start: int, size: int) -> Any:
        return obstore.get_range(
            self._bucket, path, start=start, end=min(start + CHUNK_BYTES, size)
        )

    def _absent_is_none(self, call: Callable[[], _R]) -> _R | None:
        try:
            return self._asked(call)
        except _ABSENT as error:
            if _NO_BUCKET in str(error):
                raise self._translated(error) from error
            return None

    def _written(self, call: Callable[[], object]) -> None:
        try:
            self._asked(call)
        except _ABSENT as error:
            # Nothing but the bucket can be missing where an object is put.
            raise self._translated(error) from error

    def _asked(self, call: Callable[[], _R]) -> _R:
        try:
            return call()
        except (*_ABSENT, *_LOST_RACES, client_errors.NotModifiedError):
            raise
        except client_errors.BaseError as error:
            if _conflict(error):
                raise client_errors.PreconditionError(str(error)) from error
            raise self._translated(error) from error

    def _translated(self, error: Exception) -> HeadraceError:
        # None of what the client said goes on: it quotes addresses and what servers answer.
        bucket, said = repr(self._bucket_name), str(error)
        if _METADATA_ADDRESS in said:
            return FailedPrecondition(
                "STORE_ACCESS",
                f"no credentials for bucket {bucket}: set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or give this machine a role",
            )
        if isinstance(error, _REFUSALS) or _REFUSED in said:
            return FailedPrecondition(
                "STORE_ACCESS",
                f"S3 refuses access to bucket {bucket}: check credentials and rights",
            )
        if isinstance(error, _ABSENT) or _NO_BUCKET in said:
            return FailedPrecondition("STORE_ACCESS", f"S3 has no bucket {bucket} at this endpoint")
        if any(sign in said for sign in _FULL):
            return ResourceExhausted("STORE_FULL", f"bucket {bucket} is full")
        return Unavailable(
            "STORE_UNAVAILABLE",
            f"the S3 model store in bucket {bucket} does not answer as it should",
        )


def _entry(meta: Any) -> S3Entry:
    put_time_ms = round(meta["last_modified"].timestamp() * 1000)
    return S3Entry(str(meta["path"]), int(meta["size"]), put_time_ms)


def _bucket(location: S3Location) -> Bucket:
    named = {"endpoint": location.endpoint, "region": location.region}
    config: Any = {key: value for key, value in named.items() if value}
    return Bucket(
        location.bucket,
        prefix=location.prefix or None,
        config=config,
        client_options={
            "allow_http": location.endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
            "timeout": timedelta(seconds=REQUEST_TIMEOUT_S),
        },
        # The client's own defaults wait three minutes for a stopped server.
        retry_config={
            "max_retries": _RETRIES,
            "retry_timeout": timedelta(seconds=REQUEST_TIMEOUT_S),
            "backoff": {
                "init_backoff": timedelta(milliseconds=50),
                "max_backoff": timedelta(milliseconds=500),
                "base": 2,
            },
        },
    )


def _conflict(error: Exception) -> bool:
    # 409: another conditional write of the same object was under way.
    return "ConditionalRequestConflict" in str(error) or "409 Conflict" in str(error)
