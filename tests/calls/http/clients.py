"""HTTP clients that send what a test gives them, and servers without calls."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp

from receiver.calls.config import ServeConfig
from receiver.calls.listener import (
    Limits,
)
from receiver.calls.server import Server, listening

HALF_HEADER = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: "


HALF_BODY = (
    b"POST /whip/a HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/sdp\r\n"
    b"Content-Length: 1000\r\n\r\nv=0\r\n"
)


WHOLE = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


LONG = 60.0
"""Seconds of limits that a test does not reach."""


def no_enhancer():
    raise AssertionError("no call is published in these tests")


def limits(**seconds: float) -> Limits:
    """Returns limits that are long, except those given."""
    return Limits(**({"handshake_s": LONG, "header_s": LONG, "body_s": LONG} | seconds))


@contextlib.asynccontextmanager
async def limited(**config) -> AsyncIterator[int]:
    """A server without calls; the value is its port."""
    async with listening(Server(ServeConfig(port=0, **config), no_enhancer)) as url:
        yield int(url.rsplit(":", 1)[1].strip("/"))


class Client:
    """A TCP client that sends only what a test writes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def answer(self) -> bytes:
        """Returns the status line of an answer; empty if the server closes the connection."""
        with contextlib.suppress(ConnectionError):
            return await asyncio.wait_for(self.reader.readline(), 20)
        return b""

    async def is_closed(self, seconds: float) -> bool:
        """Returns whether the server closes the connection within `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                while await self.reader.read(1 << 16):
                    pass
        except TimeoutError:
            return False
        except ConnectionError:
            pass
        return True


async def healthy(http: aiohttp.ClientSession, port: int) -> bool:
    """Whether a good client is answered on a new connection."""
    own = {"Connection": "close"}
    async with http.get(f"http://127.0.0.1:{port}/healthz", headers=own) as response:
        return response.status == 200 and await response.text() == "ok\n"
