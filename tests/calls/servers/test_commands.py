"""Commands with hostile servers: Ctrl-C at any step, and what is saved."""

import asyncio
import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from keyframes import People
from receiver.enhance.faces.album import peer_of, save_album
from tests.calls.peer import until
from tests.calls.servers.endpoints import (
    answerer,
    created,
    origin,
    raw,
)


@contextlib.asynccontextmanager
async def command(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "receiver", *arguments,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def interrupted(process: asyncio.subprocess.Process) -> str:
    """Presses Ctrl-C, after which the command ends with code 0. Returns its stderr."""
    process.send_signal(signal.SIGINT)
    _, said = await asyncio.wait_for(process.communicate(), 15)
    assert process.returncode == 0, said.decode()
    assert b"Traceback" not in said
    return said.decode()


@pytest.mark.parametrize("step", ["OPTIONS", "POST", "answer", "connect", "DELETE"])
@pytest.mark.parametrize("name", ["join", "send"])
async def test_ctrl_c_at_any_step_leaves_no_session(name, step, clip, tmp_path):
    reached = asyncio.Event()
    sessions: set[str] = set()

    async with answerer() as endpoint:

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    await one(reader, writer)

        async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = re.search(r"(?i)content-length: (\d+)", head)
            offer = (await reader.readexactly(int(length[1]))).decode() if length else ""
            method = head.split()[0]
            if method == step:
                reached.set()
                await asyncio.sleep(0.3 if method == "POST" else 60)  # made, but not yet answered
            if method == "DELETE":
                sessions.discard(head.split()[1])
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            elif method == "OPTIONS":
                writer.write(b"HTTP/1.1 204 x\r\n\r\n")
            else:
                sessions.add("/session/1")
                sdp = (await endpoint.answer(offer)).encode()
                if step == "connect":
                    sdp = re.sub(b"a=(candidate|end-of).*\r\n", b"", sdp)
                data = created(sdp, "Location: /session/1")
                if step == "answer":
                    writer.write(data[:-9])
                    reached.set()
                    await asyncio.sleep(0.3)
                    data = data[-9:]
                writer.write(data)
                if step == "connect":
                    reached.set()

        server = await asyncio.start_server(handler, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/x"
        places = [str(clip), url] if name == "send" else [url, "--record", str(tmp_path / "a.mp4")]
        async with command(name, *places, "--json") as process:
            if step == "DELETE":
                assert b" the call at " in await process.stderr.readline() or name == "send"
                process.send_signal(signal.SIGINT)
            await asyncio.wait_for(reached.wait(), 30)
            await interrupted(process)
            await until(lambda: step == "DELETE" or not sessions, 3)
        server.close()


async def test_a_call_that_never_came_about_makes_no_album(tmp_path):
    album = tmp_path / "album"
    refusal = b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n"
    async with raw(b"", lambda: refusal) as base:
        arguments = ["join", base, "--record", str(tmp_path / "a.mp4"), "--keyframes", str(album)]
        async with command(*arguments) as process:
            _, said = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 2, said.decode()
    assert list(tmp_path.iterdir()) == []


async def test_the_album_is_saved_if_the_call_ends_badly(generator, http, tmp_path):
    """The server restarts as something else, so that another attempt cannot help."""
    album, known = tmp_path / "album", People()
    save_album(known, [], album, peer_of("http://127.0.0.1"))
    before = album.stat().st_mtime_ns
    answer: list[bytes] = []
    async with answerer(Location="/session") as endpoint:

        async def handler(request: web.Request) -> web.StreamResponse:
            return web.Response(status=405) if answer else await endpoint(request)

        async with origin(handler) as home:
            arguments = ["join", home.base, "--record", str(tmp_path / "a.mp4")]
            async with command(*arguments, "--keyframes", str(album)) as process:
                while b"in the call" not in await process.stderr.readline():
                    pass
                answer.append(b"")
                await asyncio.sleep(2)
                await endpoint.close()
                _, said = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 2
    assert "is not a WHEP endpoint" in said.decode().splitlines()[-1]
    assert b"Traceback" not in said
    assert album.stat().st_mtime_ns > before
