"""Fixtures of all tests with real peers."""

import gc
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client."""
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def young_heap() -> Iterator[None]:
    """Keeps garbage collections short: with all imported modules they take up to 70 ms."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
