"""Calls made several at a time, because each waits for a disk or a server.

Decides only how many are under way: as many threads, twice as many results held.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_A = TypeVar("_A")
_R = TypeVar("_R")


def side_by_side(call: Callable[[_A], _R], arguments: Iterable[_A], threads: int) -> Iterator[_R]:
    """What `call` returns for each argument, in order; raises the first error in its turn.

    Arguments are taken as results are.
    """
    with ThreadPoolExecutor(threads) as pool:
        under_way: deque[Future[_R]] = deque()
        try:
            for argument in arguments:
                under_way.append(pool.submit(call, argument))
                if len(under_way) >= 2 * threads:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()
