"""HTTP answers to join and send that are too large, too slow or invalid."""

import asyncio
import gzip
import json
import time
import tracemalloc
import zlib

import pytest
from aiohttp import web

from receiver.errors import InputError
from receiver.signalling.client import (
    MOST_SDP,
    Client,
    SessionError,
)
from tests.calls.servers.endpoints import (
    SECONDS,
    answerer,
    created,
    joined,
    origin,
    raw,
    refused,
)


@pytest.mark.parametrize("kind", ["plain", "gzip", "deflate"])
async def test_an_answer_is_bounded_after_decompression(kind):
    def packed(size: int) -> bytes:
        body = b"v=0" + bytes(size - 3)
        pack = {"gzip": gzip.compress, "deflate": zlib.compress}.get(kind, lambda data: data)
        return created(pack(body), *([] if kind == "plain" else [f"Content-Encoding: {kind}"]))

    async with raw(b"", lambda: packed(MOST_SDP + 1)) as base:
        await refused(base, SessionError, "answers with more than 64 KiB")
    async with raw(b"", lambda: packed(MOST_SDP)) as base:
        await refused(base, InputError, "cannot be used")


@pytest.mark.parametrize("kind", ["gzip", "br", "nonsense"])
async def test_a_body_that_cannot_be_decompressed_is_empty(kind):
    lines = f"Content-Encoding: {kind}\r\nRetry-After: 9\r\nContent-Length: 3\r\n\r\nabc".encode()
    async with raw(b"", lambda: b"HTTP/1.1 503 Busy\r\n" + lines) as base:
        error = await refused(base, SessionError, "answers 503: Busy")
        assert error.retry_after == 9
    async with raw(b"", lambda: b"HTTP/1.1 201 Created\r\n" + lines) as base:
        await refused(base, InputError, "it is not SDP")


async def test_the_encoding_of_an_answer_has_no_case():
    answer = created(b"v=1", "Content-Encoding: Identity")
    async with raw(b"", lambda: answer) as base, Client(base, None, SECONDS).opened() as client:
        assert (await client.ask("POST", client.home, most=9)).body == b"v=1"


async def test_a_bomb_does_not_grow():
    """200 MB of zeros in 200 KB."""
    pack = zlib.compressobj()
    bomb = b"".join(pack.compress(bytes(1 << 20)) for _ in range(200)) + pack.flush()
    answer = created(bomb, "Content-Encoding: deflate")
    async with raw(b"", lambda: answer) as base:
        tracemalloc.start()
        try:
            await refused(base, SessionError, "answers with more than 64 KiB")
            assert tracemalloc.get_traced_memory()[1] < 8 << 20
        finally:
            tracemalloc.stop()


async def test_a_compressed_answer_is_understood():
    """Although the request asks for an uncompressed one."""
    seen: list[str | None] = []

    async with answerer() as endpoint:

        async def packed(request: web.Request) -> web.StreamResponse:
            seen.append(request.headers.get("Accept-Encoding"))
            answer = await endpoint(request)
            if request.method == "POST":
                answer.enable_compression(web.ContentCoding.gzip)
            return answer

        async with origin(packed) as home:
            await joined(home.base)
    assert seen[0] == "identity"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 201 Created\r\nContent-Length: 9\r\n\r\nv=0\r\n",
        b"HTTP/1.1 201 Created\r\nX: " + b"x" * 4000,
        b"SSH-2.0-OpenSSH_9.2p1\r\n" * 200,
    ],
)
async def test_an_answer_that_drips_is_bounded_in_time(answer):
    async with raw(b"HTTP/1.1 204 No\r\n\r\n", lambda: answer, drip=0.25) as base:
        async with asyncio.timeout(60):  # the whole answer takes longer, or has another error
            await refused(base, SessionError, "does not answer")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\0" * 5000,
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"HTTP/1.1 201 Created\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 201 " + b"\x1b[31m" * 4000 + b"\r\n\r\n",
        b"HTTP/1.1 201 Created\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
        b"HTTP/1.1 999999 x\r\n\r\n",
        b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"HTTP/1.1 201 Created\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 3000,
    ],
)
async def test_an_answer_that_is_not_http_is_reported(answer):
    async with raw(b"", lambda: answer) as base:
        await refused(base, SessionError, "does not answer")


@pytest.mark.parametrize("where", ["reason", "body", "janus", "plugin"])
async def test_text_of_a_server_is_shown_without_control_characters(where):
    text = "\x1b[2J\x1b]0;mine\x07 no \u202eroom\u2066\x9b1m\r here\x7f" + "!" * 9000
    if where == "reason":
        answer = f"HTTP/1.1 503 {text}\r\nContent-Length: 0\r\n\r\n".replace("\r here", " here")
        answer = answer.replace("!" * 9000, "!" * 900).encode()
        words = ("answers 503: [2J ]0;mine no",)
    elif where == "body":
        answer = b"HTTP/1.1 503 x\r\n\r\n" + text.encode()
        words = ("answers 503: [2J ]0;mine no room 1m",)
    else:
        said = {"error": {"reason": text}} if where == "janus" else {}
        said |= {"plugindata": {"data": {"error": text}}} if where == "plugin" else {}
        said |= {"janus": "error" if where == "janus" else "success", "data": {"id": 7}}
        body = json.dumps(said).encode()
        answer = b"HTTP/1.1 200 x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        words = ("reports: [2J ]0;mine no room 1m here",)
    async with raw(b"", lambda: answer) as base:
        url = f"janus+{base}/janus?room=1" if where in ("janus", "plugin") else base
        await refused(url, SessionError, *words, token=None)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", (7, 7)),
        ("0", (0, 0)),
        ("999999999", (300, 300)),
        ("9" * 5000, (0, 0)),
        ("-5", (0, 0)),
        ("1.5", (0, 0)),
        ("inf", (0, 0)),
        ("\u0667", (0, 0)),
        ("soon", (0, 0)),
        ("Fri, 31 Dec 1999 23:59:59 GMT", (0, 0)),
        ("Fri, 31 Dec 9999 23:59:59 GMT", (300, 300)),
        ("Fri, 31 Dec 99999 23:59:59 GMT", (0, 0)),
        ("soon, 31 Dec", (0, 0)),
        ("in two minutes", (60, 120)),
    ],
)
async def test_retry_after_is_read_in_both_forms_and_bounded(value, seconds):
    if value == "in two minutes":
        value = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 120))
    lines = f"HTTP/1.1 503 Busy\r\nRetry-After: {value}\r\nContent-Length: 0\r\n\r\n".encode()
    async with raw(b"", lambda: lines) as base:
        error = await refused(base, SessionError, "answers 503: Busy")
    assert seconds[0] <= error.retry_after <= seconds[1]
