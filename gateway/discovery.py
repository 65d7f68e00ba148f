"""Where the gateway learns its endpoints' addresses; what they are worth is decided elsewhere."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from typing import Protocol

from chassis.errors import InvalidArgument

# host:port, or [v6]:port.
_ADDRESS = re.compile(
    r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):([1-9][0-9]{0,4})", re.ASCII
)


class Directory(Protocol):
    """Names endpoints."""

    def follow(self) -> AsyncIterator[frozenset[str]]:
        """Yields the addresses at once, and again whenever they change; never ends."""


class StaticDirectory:
    """The addresses of a setting."""

    def __init__(self, addresses: Iterable[str]) -> None:
        """Raises InvalidArgument (BAD_ADDRESS)."""
        self._addresses = frozenset(checked_address(address) for address in addresses)

    async def follow(self) -> AsyncIterator[frozenset[str]]:
        """As `Directory.follow`."""
        yield self._addresses
        await asyncio.get_running_loop().create_future()


def is_address(text: str) -> bool:
    """Whether `text` is host:port."""
    found = _ADDRESS.fullmatch(text)
    return found is not None and int(found[2]) < 65536


def checked_address(text: str) -> str:
    """Returns `text` if it is host:port. Raises InvalidArgument (BAD_ADDRESS)."""
    if is_address(text):
        return text
    raise InvalidArgument(
        "BAD_ADDRESS", f"endpoint {text[:80]!r} is not an address: expected host:port"
    )
