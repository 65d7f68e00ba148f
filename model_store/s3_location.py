"""What an s3:// URL says: bucket, prefix, and the few things a bucket's name leaves open."""

from __future__ import annotations

import math
from dataclasses import dataclass
from difflib import get_close_matches
from urllib.parse import parse_qsl, urlsplit

from chassis.errors import InvalidArgument

_KEYS = ("endpoint", "region", "poll_s")
_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class S3Location:
    """`s3://BUCKET/PREFIX?endpoint=URL&region=NAME&poll_s=SECONDS`.

    `endpoint` is that of a server other than AWS, "" for AWS; `region` "" leaves it to the
    environment (AWS_REGION); `poll_s` is how often a waiting reader looks. Credentials are never
    part of the URL: they come from the environment or the machine's role.
    """

    bucket: str
    prefix: str = ""
    endpoint: str = ""
    region: str = ""
    poll_s: float = _POLL_S

    @classmethod
    def of(cls, url: str) -> S3Location:
        """What `url` names. Raises InvalidArgument (BAD_STORE_URL)."""
        parts = urlsplit(url)
        pairs = _pairs(parts.query)
        if "@" in parts.netloc:
            raise _bad("it must not hold credentials, which come from AWS_ACCESS_KEY_ID and others")
        if not parts.netloc or ":" in parts.netloc or parts.fragment:
            raise _bad("it needs the name of a bucket after s3://")
        for key in pairs:
            if key not in _KEYS:
                near = get_close_matches(key, _KEYS, 1) or [", ".join(_KEYS)]
                raise _bad(f"it has no setting {key[:40]!r}; did you mean {near[0]}?")
        return cls(
            bucket=parts.netloc,
            prefix=parts.path.strip("/"),
            endpoint=_endpoint(pairs.get("endpoint", "")),
            region=pairs.get("region", ""),
            poll_s=_poll_s(pairs.get("poll_s", str(_POLL_S))),
        )


def _pairs(query: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError:
        raise _bad("what follows its ? is not key=value&key=value") from None


def _endpoint(text: str) -> str:
    if text and urlsplit(text).scheme not in ("http", "https"):
        raise _bad(f"endpoint {text[:80]!r} must start with http:// or https://")
    if "@" in text:
        raise _bad("endpoint must not hold credentials")
    return text.rstrip("/")


def _poll_s(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.01 <= seconds <= 3600:
        raise _bad(f"poll_s is {text[:40]!r}; expected 0.01 to 3600 seconds")
    return seconds


def _bad(what: str) -> InvalidArgument:
    # Never the URL itself: somebody may have put a secret into it.
    return InvalidArgument(
        "BAD_STORE_URL",
        f"the S3 store URL cannot be used: {what}; expected s3://bucket/prefix, with "
        "?endpoint=https://host:port for a server other than AWS",
        field="store",
    )
