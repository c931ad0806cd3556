"""How many HTTP connections the server holds, and which it closes for others."""

import asyncio
import contextlib
import os
import resource
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from receiver.calls.access import FAILURES, parse_token
from receiver.calls.config import ServeConfig
from receiver.calls.listener import (
    ACCEPT_PAUSE,
    MOST_CONNECTIONS,
    Limits,
    most_connections,
)
from receiver.calls.server import Server, listening
from receiver.errors import InputError
from tests.calls.http.clients import (
    HALF_BODY,
    HALF_HEADER,
    WHOLE,
    healthy,
    limited,
    limits,
    no_enhancer,
)
from tests.calls.peer import self_signed


async def test_users_of_this_computer_and_reverse_proxies_share_all_connections(connect):
    async with limited(limits=limits(connections=10, per_network=3)) as port:
        clients = [await connect(port, HALF_HEADER) for _ in range(8)]
        await asyncio.sleep(0.1)
        assert not any([await client.is_closed(0.05) for client in clients])


async def test_one_network_does_not_take_the_connections_of_others(connect, monkeypatch):
    monkeypatch.setattr("receiver.calls.listener._is_loopback", lambda network: False)
    async with limited(host="127.0.0.1", limits=limits(connections=100, per_network=3)) as port:
        clients = [await connect(port, HALF_HEADER) for _ in range(6)]
        closed = [await client.is_closed(0.3) for client in clients]
        assert closed == [True] * 3 + [False] * 3


async def test_closed_connections_free_their_places(connect):
    async with limited(limits=limits(connections=4)) as port:
        kept = await connect(port, HALF_HEADER)
        await asyncio.sleep(0.05)
        for _ in range(20):
            client = await connect(port, WHOLE)
            assert await client.answer() == b"HTTP/1.1 200 OK\r\n"
            client.writer.close()
            await client.writer.wait_closed()
            await asyncio.sleep(0.01)
        assert not await kept.is_closed(0.1)  # nothing had to make place


async def test_a_tls_handshake_has_its_time_and_its_place(connect, tmp_path, caplog):
    cert, key = self_signed(tmp_path)
    trusting = ssl.create_default_context(cafile=str(cert))
    config = {"tls_cert": cert, "tls_key": key}
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"  # the first bytes of a ClientHello

    async def good(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
        writer.write(WHOLE)
        status = await reader.readline()
        writer.close()
        return status

    async with limited(**config, limits=limits(handshake_s=0.3)) as port:
        for data in (b"", hello, b"GET / HTTP/1.1\r\n\r\n"):
            assert await (await connect(port, data)).is_closed(10)
        assert await good(port) == b"HTTP/1.1 200 OK\r\n"
    async with limited(**config, limits=limits(connections=8)) as port:
        slow = [await connect(port, hello) for _ in range(50)]
        assert await asyncio.wait_for(good(port), 10) == b"HTTP/1.1 200 OK\r\n"
        assert sum([await client.is_closed(0.1) for client in slow]) >= 42
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert all(await asyncio.gather(*(client.is_closed(5) for client in slow)))
    async with limited(**config, limits=limits(connections=3)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
        for _ in range(5):  # each frees its place
            assert await (await connect(port, b"GET / HTTP/1.1\r\n\r\n")).is_closed(10)
        writer.write(WHOLE)
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        writer.close()
    assert not caplog.records or {r.name for r in caplog.records} == {"receiver.calls.listener"}


SERVE_WITH_FEW_FILES = """
import asyncio, resource, sys
from receiver.calls.listener import Limits
from receiver.calls.server import (Server, listening)
from receiver.calls.config import ServeConfig

async def main():
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    config = ServeConfig(port=0, limits=Limits(connections=1000))
    async with listening(Server(config, lambda: None)) as url:
        print(url, flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


async def test_without_descriptors_the_server_goes_on_and_logs_little(connect, http, tmp_path):
    """As if the limit were wrong: the process may open 40 files, and 300 connections come."""
    with (tmp_path / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SERVE_WITH_FEW_FILES,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            cwd=Path(__file__).parents[3],
        )  # fmt: skip
        url = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
        port = int(url.rsplit(":", 1)[1].strip().strip("/"))
        slow = [asyncio.ensure_future(connect(port, HALF_HEADER)) for _ in range(300)]
        await asyncio.wait(slow, timeout=20)
        async with asyncio.timeout(20):
            for _ in range(10):
                assert await healthy(http, port)
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), 20) == 0
    told = (tmp_path / "log").read_text()
    assert "no connection can be accepted: Too many open files" in told
    assert len(told) < 10_000
    assert "Traceback" not in told


async def test_where_no_connection_can_be_closed_the_server_waits_for_descriptors(caplog):
    """All of the process' descriptors are taken for a while, by something else."""
    async with limited() as port:
        with socket.socket() as client, contextlib.ExitStack() as files:
            client.setblocking(False)
            before = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (200, before[1]))
            files.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
            with contextlib.suppress(OSError):
                while True:
                    files.callback(os.close, os.dup(client.fileno()))
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, ("127.0.0.1", port))
            await asyncio.sleep(3 * ACCEPT_PAUSE)
            failed = [r for r in caplog.records if "no connection can be accepted" in r.message]
            assert 1 <= len(failed) <= 4
            files.close()
            await loop.sock_sendall(client, WHOLE)
            answer = await asyncio.wait_for(loop.sock_recv(client, 100), 10)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


async def test_other_work_goes_on_while_many_connect():
    """All are there at once: accepting them without a break would stop everything else."""
    async with limited(limits=limits(connections=500)) as port, asyncio.timeout(20):
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]
        clients[-1].setblocking(False)
        clients[-1].sendall(WHOLE)
        answer = asyncio.ensure_future(asyncio.get_running_loop().sock_recv(clients[-1], 100))
        turns = 0
        while not answer.done():
            await asyncio.sleep(0)
            turns += 1
        assert turns >= 200
        for client in clients:
            client.close()


@pytest.mark.parametrize(
    ("files", "most"), [(40, 10), (1024, 256), (1 << 20, MOST_CONNECTIONS), (-1, MOST_CONNECTIONS)]
)
def test_the_connections_leave_descriptors_for_calls(monkeypatch, files, most):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (files, files))
    assert most_connections() == most == Limits().connections


async def test_an_address_in_use_is_told(connect):
    async with limited() as port:
        with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1:{port}: "):
            async with listening(Server(ServeConfig(port=port), no_enhancer)):
                pass


async def test_no_descriptor_and_no_task_is_left(connect, http):
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    async with limited() as port:
        assert await healthy(http, port)
        clients = [await connect(port, data) for data in (b"", HALF_HEADER, HALF_BODY)]
        await asyncio.sleep(0.05)
    assert all([await client.is_closed(5) for client in clients])
    for client in clients:
        client.writer.close()
    await asyncio.sleep(0.1)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before


async def test_both_families_are_listened_on_where_the_name_has_both(connect):
    async with limited(host="localhost") as port:
        client = await connect(port, WHOLE)
        assert await client.answer() == b"HTTP/1.1 200 OK\r\n"


async def test_the_application_runs_on_other_sites_too(tmp_path):
    """A Unix socket behind a reverse proxy: no limits of ours, and no address."""
    server = Server(ServeConfig(tokens=(parse_token("secret"),)), no_enhancer)
    runner = web.AppRunner(server.app())
    await runner.setup()
    await web.UnixSite(runner, tmp_path / "http").start()
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(tmp_path / "http"))) as h:
        for secret, status in (("secret", 400), *[("wrong", 401)] * FAILURES, ("wrong", 429)):
            headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/sdp"}
            response = await h.post("http://any/whip/a", data="no offer", headers=headers)
            assert response.status == status
    await runner.cleanup()
