"""Fixtures of all tests over HTTP."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.calls.http.clients import (
    Client,
)


@pytest.fixture
async def connect() -> AsyncIterator[object]:
    """Opens connections, which end with the test."""
    writers: list[asyncio.StreamWriter] = []

    async def connected(port: int, data: bytes = b"", host: str = "127.0.0.1") -> Client:
        reader, writer = await asyncio.open_connection(host, port)
        writers.append(writer)
        writer.write(data)
        return Client(reader, writer)

    yield connected
    for writer in writers:
        writer.close()
