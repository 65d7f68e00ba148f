"""What a redis:// URL says: the server, or sentinels that know it, and what confirms a commit."""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from chassis.errors import InvalidArgument

SENTINEL = "redis+sentinel"
_TLS = "rediss"
_SENTINEL_PORT = 26379
_OURS = ("wait_replicas", "wait_ms")
# Of the client's own settings those that say how to reach a server; its time-outs are ours.
_CLIENTS = (
    "db",
    "ssl_ca_certs",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_cert_reqs",
    "ssl_check_hostname",
)
_WAIT_MS = 1000
_MOST_REPLICAS = 64


@dataclass(frozen=True, slots=True)
class RedisLocation:
    """`redis://[USER:PASSWORD@]HOST:PORT/DB?wait_replicas=N&wait_ms=MS`, rediss:// with TLS, or
    `redis+sentinel://[USER:PASSWORD@]HOST:PORT,HOST:PORT/NAME/DB`, the primary that these sentinels
    call NAME.

    A commit returns once `wait_replicas` replicas hold it (0: once the server does), or fails after
    `wait_ms` milliseconds. `address` is for people, without password and settings; `client_url` is
    what the Redis client takes; with `sentinels`, (host, port) each, it has no host.
    """

    address: str
    client_url: str = field(repr=False)
    wait_replicas: int = 0
    wait_ms: int = _WAIT_MS
    sentinels: tuple[tuple[str, int], ...] = ()
    primary: str = ""

    @classmethod
    def of(cls, url: str) -> RedisLocation:
        """What `url` names. Raises InvalidArgument (BAD_STORE_URL)."""
        parts = _split(url)
        pairs = _pairs(parts.query)
        for key in pairs:
            if key not in _OURS + _CLIENTS:
                near = get_close_matches(key, _OURS + _CLIENTS, 1) or list(_OURS)
                raise bad(f"it has no setting {key[:40]!r}; did you mean {' or '.join(near)}?")
            if key.startswith("ssl_") and parts.scheme != _TLS:
                raise bad(f"its setting {key} needs TLS, which is {_TLS}://")
        theirs = urlencode({key: value for key, value in pairs.items() if key not in _OURS})
        credentials, at, hosts = parts.netloc.rpartition("@")
        sentinels = tuple(map(_sentinel, hosts.split(","))) if parts.scheme == SENTINEL else ()
        primary, path = _primary(parts.path) if sentinels else ("", parts.path)
        scheme, host = ("redis", "") if sentinels else (parts.scheme, hosts)
        return cls(
            address=f"{parts.scheme}://{hosts}{parts.path}",
            client_url=f"{scheme}://{credentials}{at}{host}{path}?{theirs}".rstrip("?"),
            wait_replicas=_whole(pairs, "wait_replicas", 0, _MOST_REPLICAS, 0),
            # WAIT takes 0 for no limit, and must end before the socket gives up on it.
            wait_ms=_whole(pairs, "wait_ms", 1, _WAIT_MS, _WAIT_MS),
            sentinels=sentinels,
            primary=primary,
        )


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        raise bad("it cannot be read") from None


def _pairs(query: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError:
        raise bad("what follows its ? is not key=value&key=value") from None


def _sentinel(text: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host:
        raise bad("each sentinel must be host:port, with commas between them")
    return host, port or _SENTINEL_PORT


def _primary(path: str) -> tuple[str, str]:
    """The primary's name and the path that is left, which names the database."""
    name, _, database = path.strip("/").partition("/")
    if not name:
        raise bad(f"{SENTINEL}:// needs the primary's name after the sentinels")
    return unquote(name), f"/{database}"


def _whole(pairs: dict[str, str], key: str, least: int, most: int, default: int) -> int:
    text = pairs.get(key)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and least <= int(text[:12]) <= most):
        raise bad(f"{key} is {text[:40]!r}; expected {least} to {most}")
    return int(text)


def bad(what: str) -> InvalidArgument:
    """BAD_STORE_URL. Never the URL itself in it: it may hold a password."""
    return InvalidArgument(
        "BAD_STORE_URL",
        f"the Redis URL cannot be used: {what}; expected "
        "redis://[user:password@]host:port/database, with ?wait_replicas=N to have commits "
        "confirmed by replicas",
        field="store",
    )
