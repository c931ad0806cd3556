"""HTTP clients that are slow, silent or many, against the real server over real sockets."""

import asyncio
import contextlib
import gc
import logging

import pytest
from aiohttp import web

from receiver.calls.config import ServeConfig
from receiver.calls.listener import (
    LINES_A_MINUTE,
    LINGER_SECONDS,
    Connection,
    ThrottledLog,
)
from receiver.calls.server import Server, listening
from tests.calls.http.clients import (
    HALF_BODY,
    HALF_HEADER,
    WHOLE,
    healthy,
    limited,
    limits,
    no_enhancer,
)


async def test_a_thousand_half_sent_headers_do_not_keep_others_out(connect, http):
    """The server may have 64 connections, none of which reaches a time limit."""
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


async def test_an_answer_that_is_not_read_is_dropped(connect, http):
    """Hundreds of answers do not fit into the kernel's buffers: they would wait forever."""
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


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        (b"Transfer-Encoding: chunked", b"no size\r\n"),
        (b"Transfer-Encoding: chunked", b"5\r\nabcdefgh"),
    ],
)
async def test_an_incomplete_body_is_not_a_server_error(connect, coding, body):
    """aiohttp does not say so at once: for some of them the time of the body has to pass."""
    async with limited(limits=limits(body_s=0.5)) as port:
        header = HALF_BODY.replace(b"Content-Length: 1000", coding).removesuffix(b"v=0\r\n")
        client = await connect(port, header)
        await asyncio.sleep(0.05)
        client.writer.write(body)
        assert (await client.answer()).split()[1] in (b"400", b"408")
        assert await client.is_closed(15)


async def test_a_client_that_leaves_within_its_body_is_not_logged(connect, http, caplog):
    async with limited() as port:
        client = await connect(port, HALF_BODY)
        await asyncio.sleep(0.05)
        client.writer.close()
        await asyncio.sleep(0.05)
        assert await healthy(http, port)
        gc.collect()
        assert [one for one in gc.get_objects() if isinstance(one, Connection)] == []
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_the_log_counts_omitted_messages(caplog):
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


async def test_log_messages_caused_by_clients_are_limited(connect, caplog):
    async with limited(limits=limits(connections=4)) as port:
        for _ in range(40):
            await (await connect(port, b"GET / HTTP/1.1\r\nno header\r\n\r\n")).answer()
            broken = await connect(port, HALF_BODY)
            broken.writer.close()
        await asyncio.sleep(0.1)
    records = [record for record in caplog.records if record.levelno >= logging.INFO]
    assert {record.name for record in records} <= {"receiver.calls.listener", "aiohttp.access"}
    assert sum(record.name == "receiver.calls.listener" for record in records) <= 2 * LINES_A_MINUTE


async def test_an_offer_may_arrive_in_pieces(connect):
    async with limited() as port:
        client = await connect(port, HALF_BODY)
        for _ in range(5):
            await asyncio.sleep(0.02)
            client.writer.write(b"x" * 199)
        assert await client.answer() == b"HTTP/1.1 422 Unprocessable Entity\r\n"
