"""One Redis server: how long it may take, what its errors mean, and whether it may be trusted.

Decides time-outs and retries, refuses a server that may evict, notices one that lost its data, has
replicas confirm what is committed, and translates the client's errors; no other file of the store
knows the Redis client. A command may be repeated after an error whose outcome is unknown, so
callers send only what may run twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from time import monotonic, sleep
from typing import Any, TypeVar
from uuid import uuid4

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from chassis.errors import (
    DataLoss,
    FailedPrecondition,
    HeadraceError,
    ResourceExhausted,
    Unavailable,
)
from model_store import redis_bulk
from model_store.redis_location import RedisLocation, bad
from model_store.redis_scripts import CONFIRMED, IDENTITY

# The client's own defaults wait 58 s for a stopped server.
SOCKET_TIMEOUT_S = 2.0

# Two retries; longer outages are for whoever asked, who knows how long it can wait.
_PAUSES_S = (0.02, 0.2)

# A blocking read must end before the socket gives up on it.
MAX_BLOCK_S = 1.0

# The policy can be set on a running server; asking costs a tenth of a millisecond.
POLICY_FOR_S = 1.0

_R = TypeVar("_R")
_Command = tuple[str | bytes | int | memoryview, ...]

_REFUSALS = (
    redis.exceptions.AuthenticationError,
    redis.exceptions.AuthorizationError,
    redis.exceptions.NoPermissionError,
)
# Words of scripts that say: it is there, since now or since an earlier try.
_COMMITTED = ("OK", "DONE")

# Untyped in the client.
_sentinel: Any = Sentinel
_parsed: Any = redis.connection.parse_url

_OUTAGES = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError)


class RedisConnection:
    """A pool of connections to `url`; connects at the first command. Thread-safe."""

    def __init__(self, url: str) -> None:
        self._location = RedisLocation.of(url)
        self._client: Any = _client(self._location)
        self.address = self._location.address
        self._scripts: dict[str, Any] = {}
        self._identity = b""
        # When the policy was seen to be right.
        self._admitted_at = float("-inf")
        self._admission = Lock()

    def ask(self, *command: str | bytes | int) -> Any:
        """The server's answer to one command. Raises as `ask_all` does."""
        return self.ask_all([command])[0]

    def ask_all(self, commands: Sequence[_Command]) -> list[Any]:
        """The answers to several commands sent together, not as one step.

        Raises Unavailable (STORE_UNAVAILABLE), ResourceExhausted (STORE_FULL), FailedPrecondition
        (STORE_ACCESS, STORE_EVICTS), DataLoss (STORE_LOST_DATA).
        """
        self._admit()
        identity, *answers = self._attempt(lambda: self._pipelined([("GET", IDENTITY), *commands]))
        self._check_identity(identity)
        return answers

    def fill(self, keys: Sequence[str], parts: Sequence[memoryview]) -> bool:
        """Fills each of `parts` with the value of its key; False where one is not of that length.

        Raises as `ask_all` does.
        """
        self._admit()
        try:
            self._attempt(lambda: redis_bulk.fill(self._client, keys, parts))
        except redis_bulk.Unexpected:
            return self._filled_as_asked(keys, parts)
        return True

    def _filled_as_asked(self, keys: Sequence[str], parts: Sequence[memoryview]) -> bool:
        # An error, such as that of a server that loads its data, looks like a value lost; the
        # client tells them apart.
        for part, value in zip(parts, self.ask_all([("GET", key) for key in keys]), strict=True):
            if value is None or len(value) != len(part):
                return False
            part[:] = value
        return True

    def run(self, script: str, keys: Sequence[str], arguments: _Command) -> list[Any]:
        """The answer of a script, its words as str; the identity is added as the first of both."""
        return self._answered(script, keys, arguments)

    def commit(
        self, script: str, keys: Sequence[str], arguments: _Command, *, done: str, again: str
    ) -> list[Any]:
        """As `run`; an answer of OK or DONE comes once as many replicas as the URL says hold it.

        Raises Unavailable (STORE_NOT_REPLICATED) where they do not say so in time: then it is done
        at the server all the same, as `done` says in words; `again` is what a caller should do.
        """

        def confirm(word: str, one: Any) -> None:
            if word in _COMMITTED:
                self._confirm(one, done, again)

        if not self._location.wait_replicas:
            return self._answered(script, keys, arguments)
        return self._answered(script, keys, arguments, confirm)

    def _answered(
        self,
        script: str,
        keys: Sequence[str],
        arguments: _Command,
        confirm: Callable[[str, Any], None] | None = None,
    ) -> list[Any]:
        self._admit()
        if script not in self._scripts:
            self._scripts[script] = self._client.register_script(script)
        registered = self._scripts[script]
        asked = {"keys": [IDENTITY, *keys], "args": [self._identity, *arguments]}

        def answer() -> tuple[str, list[Any]]:
            if confirm is None:
                word, *details = registered(**asked)
                return word.decode(), details
            # On one connection: the commit and what confirms it are of one server, however the
            # address moves between them.
            with self._client.client() as one:
                word, *details = registered(**asked, client=one)
                confirm(word.decode(), one)
                return word.decode(), details

        word, details = self._attempt(answer)
        if word == "LOST":
            self._check_identity(None)
        return [word, *details]

    def _confirm(self, one: Any, done: str, again: str) -> None:
        wanted, wait_ms = self._location.wait_replicas, self._location.wait_ms
        # WAIT waits for what this connection wrote, and a repeated commit writes nothing: of a new
        # connection it would count replicas that have none of it. Who has this has all before it.
        one.execute_command("SET", CONFIRMED, "")
        count = int(one.execute_command("WAIT", wanted, wait_ms))
        if count < wanted:
            raise Unavailable(
                "STORE_NOT_REPLICATED",
                f"{done} at the Redis server, but only {count} of {wanted} replicas confirmed it "
                f"within {wait_ms} ms: readers see it, and a failover now may lose it; {again}",
            )

    def wait_for_entry(self, stream: str, after: str, timeout_s: float) -> bool:
        """Blocks until the stream has an entry after that id, for at most MAX_BLOCK_S.

        Says whether there is one.
        """
        block_ms = max(1, int(min(timeout_s, MAX_BLOCK_S) * 1000))
        command = ("XREAD", "COUNT", 1, "BLOCK", block_ms, "STREAMS", stream, after)
        return bool(self._attempt(lambda: self._client.execute_command(*command)))

    def close(self) -> None:
        """Closes what is idle: a connection in use belongs to its thread, which ends first."""
        self._client.connection_pool.disconnect(inuse_connections=False)

    def _pipelined(self, commands: Sequence[_Command]) -> list[Any]:
        with self._client.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            return list(pipeline.execute())

    def _attempt(self, command: Callable[[], _R]) -> _R:
        for pause_s in _PAUSES_S:
            try:
                return command()
            except _REFUSALS as error:
                raise _translated(error) from error
            except _OUTAGES:
                sleep(pause_s)
            except redis.exceptions.RedisError as error:
                raise _translated(error) from error
        try:
            return command()
        except redis.exceptions.RedisError as error:
            raise _translated(error) from error

    def _admit(self) -> None:
        """Is this a server to keep versions in, and, the first time, which one is it?"""
        if monotonic() - self._admitted_at < POLICY_FOR_S:
            return
        with self._admission:
            memory, identity = self._asked_bare(("INFO", "memory"), ("GET", IDENTITY))
            _check_policy(str(memory.get("maxmemory_policy", "unknown")))
            if not self._identity:
                self._identity = identity or self._begun()
            self._admitted_at = monotonic()

    def _begun(self) -> bytes:
        """The identity of a store that is empty so far."""
        # Only here is anything written: a full or read-only server still has its readers.
        _, identity = self._asked_bare(("SET", IDENTITY, uuid4().hex, "NX"), ("GET", IDENTITY))
        found: bytes = identity
        return found

    def _asked_bare(self, *commands: _Command) -> list[Any]:
        return self._attempt(lambda: self._pipelined(commands))

    def _check_identity(self, identity: bytes | None) -> None:
        if identity != self._identity:
            raise DataLoss(
                "STORE_LOST_DATA",
                "the Redis server no longer holds the store that this process began with: its "
                "data were lost, or the address now leads to another server",
            )


def _check_policy(policy: str) -> None:
    # Whatever maxmemory says today: it can be set on a running server, and then parts of versions
    # vanish.
    if policy != "noeviction":
        raise FailedPrecondition(
            "STORE_EVICTS",
            f"the Redis server's maxmemory-policy is {policy}: it may drop parts of a version; "
            "set it to noeviction",
        )


def _client(location: RedisLocation) -> redis.Redis:
    # Retries are counted in _attempt; the client would retry connecting within each.
    ours: dict[str, Any] = {
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": SOCKET_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
    }
    try:
        if not location.sentinels:
            return redis.Redis.from_url(location.client_url, **ours)
        client: redis.Redis = _sentinel(location.sentinels, sentinel_kwargs=ours).master_for(
            location.primary, **_parsed(location.client_url), **ours
        )
    except ValueError:
        # Neither the URL nor the error that quotes it: both may hold a password.
        raise bad("it cannot be read") from None
    return client


def _translated(error: redis.exceptions.RedisError) -> HeadraceError:
    # Only the first word of what the server said, its error code: the rest may name hosts or keys.
    code = type(error).__name__
    if isinstance(error, _REFUSALS):
        return FailedPrecondition(
            "STORE_ACCESS", f"the Redis model store refuses access ({code}): check user and rights"
        )
    if isinstance(error, redis.exceptions.OutOfMemoryError):
        return ResourceExhausted("STORE_FULL", "the Redis model store is out of memory")
    if isinstance(error, redis.exceptions.TimeoutError):
        return Unavailable(
            "STORE_UNAVAILABLE",
            f"the Redis model store did not answer within {SOCKET_TIMEOUT_S:.0f} s",
        )
    if isinstance(error, redis.exceptions.ReadOnlyError):
        return Unavailable("STORE_UNAVAILABLE", "the Redis model store is read-only at present")
    return Unavailable("STORE_UNAVAILABLE", f"the Redis model store cannot be used now ({code})")
