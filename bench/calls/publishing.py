"""Chromium's process."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from bench.calls.parent import parent_speaks, say
from bench.calls.receiving import SOCKET
from bench.chromium.driver import chromium, publish
from bench.chromium.sent import sample

CONNECTION_SECONDS = 60
"""Longest wait until the page is connected."""


SENDING = "window.connections[0]?.connectionState === 'connected'"


SSRCS = "connections[0].localDescription.sdp.match(/ssrc-group:FID (\\d+) (\\d+)/).slice(1)"


async def send(folder: Path, camera: Path, cap_kbps: int) -> None:
    """Publishes from the parent's first line to its second. Reports Chromium's bitrate."""
    say(ready=True)
    await parent_speaks()
    async with front(folder / SOCKET) as url, chromium(camera, folder / "profile", url) as page:
        await publish(page, cap_kbps)
        await page.wait_for(SENDING, CONNECTION_SECONDS)
        ssrc, rtx = await page.evaluate(SSRCS)
        say(ssrc=int(ssrc), rtx=int(rtx))
        ended = asyncio.ensure_future(parent_speaks())
        samples = []
        while not ended.done():
            samples.append(await sample(page))
            await asyncio.wait({ended}, timeout=1)
        say(sent=samples)


@contextlib.asynccontextmanager
async def front(socket: Path) -> AsyncIterator[str]:
    """Forwards a loopback address, which browsers let use a camera, to a Unix socket."""

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(socket)
        await asyncio.gather(carry(reader, inner_writer), carry(inner_reader, writer))

    async with await asyncio.start_server(forward, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copies bytes until they end."""
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    writer.close()


if __name__ == "__main__":
    asyncio.run(send(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
