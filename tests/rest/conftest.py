"""A server on a free port for each test that asks."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.rest.served import Served


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with Served() as started:
        yield started
