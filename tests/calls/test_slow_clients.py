"""HTTP clients that are slow, silent or many, against the real server over real sockets."""

import asyncio
import contextlib
import gc
import logging
import os
import resource
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from receiver.calls.access import FAILURES, parse_token
from receiver.calls.config import ServeConfig
from receiver.calls.listener import (
    ACCEPT_PAUSE,
    LINES_A_MINUTE,
    LINGER_SECONDS,
    MOST_CONNECTIONS,
    Connection,
    Limits,
    ThrottledLog,
    most_connections,
)
from receiver.calls.server import Server, listening
from receiver.errors import InputError
from tests.calls.test_serve import self_signed

HALF_HEADER = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
HALF_BODY = (
    b"POST /whip/a HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/sdp\r\n"
    b"Content-Length: 1000\r\n\r\nv=0\r\n"
)
WHOLE = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
LONG = 60.0
"""Seconds of a limit that a test does not mean."""


def no_enhancer():
    raise AssertionError("no call is published in these tests")


def limits(**seconds: float) -> Limits:
    """Limits that are long but for those given."""
    return Limits(**({"handshake_s": LONG, "header_s": LONG, "body_s": LONG} | seconds))


@contextlib.asynccontextmanager
async def limited(**config) -> AsyncIterator[int]:
    """A server without calls; gives its port."""
    async with listening(Server(ServeConfig(port=0, **config), no_enhancer)) as url:
        yield int(url.rsplit(":", 1)[1].strip("/"))


class Client:
    """A TCP client that sends what it is given and no more."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def answer(self) -> bytes:
        """The status line of an answer; empty if the server closes the connection."""
        with contextlib.suppress(ConnectionError):
            return await asyncio.wait_for(self.reader.readline(), 20)
        return b""

    async def is_closed(self, seconds: float) -> bool:
        """Whether the server closes the connection within that time."""
        try:
            async with asyncio.timeout(seconds):
                while await self.reader.read(1 << 16):
                    pass
        except TimeoutError:
            return False
        except ConnectionError:
            pass
        return True


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


async def healthy(http: aiohttp.ClientSession, port: int) -> bool:
    """Whether a good client is answered on a connection of its own."""
    own = {"Connection": "close"}
    async with http.get(f"http://127.0.0.1:{port}/healthz", headers=own) as response:
        return response.status == 200 and await response.text() == "ok\n"


async def test_a_thousand_half_sent_headers_do_not_keep_others_out(connect, http):
    """The server may have 64 connections, none of which ends by its time."""
    async with limited(limits=limits(connections=64)) as port:
        slow = []
        for _ in range(10):
            slow += [await connect(port, HALF_HEADER) for _ in range(100)]
            async with asyncio.timeout(5):
                assert await healthy(http, port)
        closed = await asyncio.gather(*(client.is_closed(0.5) for client in slow))
        assert 1000 - 64 <= sum(closed) < 1000
        assert not closed[-1]  # those that waited longest went


async def test_slow_bodies_do_not_keep_others_out(connect, http):
    async with limited(limits=limits(connections=8)) as port:
        for _ in range(40):
            await connect(port, HALF_BODY)
        await asyncio.sleep(0.2)  # all are at their bodies
        async with asyncio.timeout(5):
            assert await healthy(http, port)


@pytest.mark.parametrize(
    ("handler", "data"),
    [
        ("_stats", WHOLE.replace(b"healthz", b"stats")),
        ("_publish", HALF_BODY.replace(b"1000", b"5")),
    ],
)
async def test_connections_that_are_all_at_work_are_not_closed_for_others(connect, handler, data):
    """A request that is complete waits for the server, not the server for it."""
    server = Server(ServeConfig(port=0, limits=limits(connections=4)), no_enhancer)
    goes_on = asyncio.Event()

    async def slow(request):
        await goes_on.wait()
        return web.Response()

    setattr(server, handler, slow)
    async with listening(server) as url:
        port = int(url.rsplit(":", 1)[1].strip("/"))
        working = [await connect(port, data) for _ in range(4)]
        await asyncio.sleep(0.1)
        refused = await connect(port, WHOLE)
        assert await refused.answer() == b""
        goes_on.set()
        for client in working:
            assert await client.answer() == b"HTTP/1.1 200 OK\r\n"
        assert await (await connect(port, WHOLE)).answer() == b"HTTP/1.1 200 OK\r\n"


async def test_a_header_has_its_time_from_the_start_and_again_after_an_answer(connect):
    async with limited(limits=limits(header_s=0.3)) as port:
        for data in (b"", HALF_HEADER):
            assert await (await connect(port, data)).is_closed(10)
        idle = await connect(port, WHOLE)
        assert await idle.answer() == b"HTTP/1.1 200 OK\r\n"
        assert not await idle.is_closed(1.0)  # the time of an idle connection is longer
        idle.writer.write(HALF_HEADER)
        assert await idle.is_closed(10)


async def test_bytes_one_by_one_gain_no_time(connect):
    async with limited(limits=limits(header_s=0.5)) as port:
        client = await connect(port, HALF_HEADER)

        async def trickle():
            while True:
                client.writer.write(b"x")
                await asyncio.sleep(0.05)

        trickling = asyncio.ensure_future(trickle())
        assert await client.is_closed(10)
        trickling.cancel()


async def test_an_idle_connection_is_closed_and_used_until_then(connect):
    async with limited(limits=limits(idle_s=0.5)) as port:
        client = await connect(port)
        for _ in range(3):
            client.writer.write(WHOLE)
            assert (await client.reader.readuntil(b"ok\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        assert await client.is_closed(10)


async def test_a_slow_body_is_answered_408(connect, http, caplog):
    async with limited(limits=limits(body_s=0.3)) as port:
        client = await connect(port, HALF_BODY)
        assert await client.answer() == b"HTTP/1.1 408 Request Timeout\r\n"
        said = await client.reader.readuntil(b"faster\n")
        assert said.endswith(b"\r\n\r\nthe body did not arrive within 0.3 s: send it faster\n")
        assert await client.is_closed(3 * LINGER_SECONDS)
        assert await healthy(http, port)


async def test_an_answer_that_nobody_reads_is_dropped(connect, http):
    """Hundreds of answers do not fit into the kernel's buffers: they would wait for ever."""
    async with limited(limits=limits(idle_s=0.5)) as port:
        client = await connect(port)
        client.writer.transport.pause_reading()
        ask = b"GET /page.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
        gone = asyncio.Event()

        async def pipeline():
            with contextlib.suppress(ConnectionError):
                for _ in range(20_000):
                    client.writer.write(ask * 10)
                    await client.writer.drain()
            gone.set()

        sending = asyncio.ensure_future(pipeline())
        await asyncio.wait_for(gone.wait(), 20)
        sending.cancel()
        assert await healthy(http, port)


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


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        (b"Transfer-Encoding: chunked", b"no size\r\n"),
        (b"Transfer-Encoding: chunked", b"5\r\nabcdefgh"),
    ],
)
async def test_a_body_that_breaks_off_is_no_error_of_the_server(connect, coding, body):
    """aiohttp does not say so at once: for some of them the time of the body has to pass."""
    async with limited(limits=limits(body_s=0.5)) as port:
        header = HALF_BODY.replace(b"Content-Length: 1000", coding).removesuffix(b"v=0\r\n")
        client = await connect(port, header)
        await asyncio.sleep(0.05)
        client.writer.write(body)
        assert (await client.answer()).split()[1] in (b"400", b"408")
        assert await client.is_closed(15)


async def test_a_client_that_leaves_within_its_body_is_no_line_of_the_log(connect, http, caplog):
    async with limited() as port:
        client = await connect(port, HALF_BODY)
        await asyncio.sleep(0.05)
        client.writer.close()
        await asyncio.sleep(0.05)
        assert await healthy(http, port)
        gc.collect()
        assert [one for one in gc.get_objects() if isinstance(one, Connection)] == []
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_the_log_counts_what_it_leaves_out(caplog):
    now = 0.0
    log = ThrottledLog(clock=lambda: now)
    for number in range(LINES_A_MINUTE + 5):
        log.warning("number %d", number)
    now = 59.0
    log.warning("too early")
    now = 60.0
    log.warning("%s minute", "another")
    log.warning("last")
    assert [record.getMessage() for record in caplog.records] == [
        *(f"number {number}" for number in range(LINES_A_MINUTE)),
        "another minute (and 6 messages before it)",
        "last",
    ]


async def test_what_clients_can_log_is_bounded(connect, caplog):
    async with limited(limits=limits(connections=4)) as port:
        for _ in range(40):
            await (await connect(port, b"GET / HTTP/1.1\r\nno header\r\n\r\n")).answer()
            broken = await connect(port, HALF_BODY)
            broken.writer.close()
        await asyncio.sleep(0.1)
    records = [record for record in caplog.records if record.levelno >= logging.INFO]
    assert {record.name for record in records} <= {"receiver.calls.listener", "aiohttp.access"}
    assert sum(record.name == "receiver.calls.listener" for record in records) <= 2 * LINES_A_MINUTE


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
            cwd=Path(__file__).parents[2],
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
        with pytest.raises(InputError, match=f"127.0.0.1:{port} cannot be listened on: "):
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


async def test_an_offer_may_come_in_pieces(connect):
    async with limited() as port:
        client = await connect(port, HALF_BODY)
        for _ in range(5):
            await asyncio.sleep(0.02)
            client.writer.write(b"x" * 199)
        assert await client.answer() == b"HTTP/1.1 422 Unprocessable Entity\r\n"


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
