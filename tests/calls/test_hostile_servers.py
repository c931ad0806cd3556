"""What `join` and `send` do with servers that answer wrongly: real requests to such servers."""

import asyncio
import contextlib
import gc
import gzip
import json
import logging
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from fractions import Fraction

import pytest
from aiohttp import web
from aiortc import RTCPeerConnection, RTCSessionDescription
from yarl import URL

from keyframes import People
from receiver.calls.join import Joined
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.album import peer_of, save_album
from receiver.errors import InputError, ReceiverError
from receiver.media.encoding import Encoding
from receiver.media.files.recording import FileOutput
from receiver.sending.publishing import Sending, send
from receiver.sending.tracks import clip_source
from receiver.signalling.addresses import Reach
from receiver.signalling.client import (
    MOST_JSON,
    MOST_REDIRECTS,
    MOST_SDP,
    Answer,
    Client,
    SessionError,
)
from receiver.signalling.links import ice_servers
from receiver.signalling.sessions import open_publishing, open_session
from receiver.stills.protocol import STRANGERS
from receiver.transport.aiortc_hooks import h264_codecs
from tests.calls.peer import HERE
from tests.calls.test_join import until
from tests.calls.test_serve import self_signed

SECONDS = 2.0
"""Longest wait at any step in these tests."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Origin:
    """A server of its own origin, and what reached it: method, path and Authorization."""

    base: str = ""
    seen: list[tuple[str, str, str | None]] = field(default_factory=list)

    def requests(self, method: str) -> list[tuple[str, str | None]]:
        return [(path, token) for how, path, token in self.seen if how == method]


@contextlib.asynccontextmanager
async def origin(handler: Handler, host: str = "127.0.0.1", ssl=None) -> AsyncIterator[Origin]:
    """Answers by `handler`, OPTIONS apart, which is 204, and notes every request."""
    here = Origin()

    async def noting(request: web.Request) -> web.StreamResponse:
        authorization = request.headers.get("Authorization")
        here.seen.append((request.method, request.path, authorization))
        if request.method == "OPTIONS":
            return web.Response(status=204)
        return await handler(request)

    app = web.Application(client_max_size=1 << 20)
    app.router.add_route("*", "/{tail:.*}", noting)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, host, 0, ssl_context=ssl).start()
    port = runner.addresses[0][1]
    here.base = f"http{'s' if ssl else ''}://{f'[{host}]' if ':' in host else host}:{port}"
    try:
        yield here
    finally:
        await runner.cleanup()


class Answerer:
    """Answers offers as an honest WHEP or WHIP endpoint; `change` makes its answers hostile."""

    def __init__(self, change: Callable[[str], str] = lambda sdp: sdp, **headers: str) -> None:
        self.change, self.headers, self.status = change, headers, 201
        self.connections: list[RTCPeerConnection] = []

    async def __call__(self, request: web.Request) -> web.Response:
        if request.method != "POST":
            return web.Response()
        text = self.change(await self.answer(await request.text()))
        return web.Response(status=self.status, text=text, headers=self.headers)

    async def answer(self, offer: str) -> str:
        connection = RTCPeerConnection(HERE)
        self.connections.append(connection)
        if "a=recvonly" in offer:
            connection.addTransceiver("video", direction="sendonly")
            connection.getTransceivers()[0].setCodecPreferences(h264_codecs())
            connection.addTransceiver("audio", direction="sendonly")
        await connection.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        await connection.setLocalDescription(await connection.createAnswer())
        return connection.localDescription.sdp

    async def close(self) -> None:
        for connection in self.connections:
            await connection.close()


@contextlib.asynccontextmanager
async def answerer(change=lambda sdp: sdp, **headers) -> AsyncIterator[Answerer]:
    one = Answerer(change, **headers)
    try:
        yield one
    finally:
        await one.close()


async def joined(url: str, token: str | None = "secret") -> RTCPeerConnection:
    """Joins until the connection is there, and leaves. Raises as `open_session`."""
    async with open_session(url, token, lambda *_: None, seconds=SECONDS) as connection:
        await until(lambda: connection.connectionState == "connected", 5)
    return connection


async def refused(url: str, error: type[Exception], *words: str, token: str | None = "secret"):
    """Joins and expects an error in one line with these words."""
    with pytest.raises(error) as caught:
        async with open_session(url, token, lambda *_: None, seconds=SECONDS):
            pass
    sentence = str(caught.value)
    assert sentence.isprintable()
    assert len(sentence) < 500
    for word in words:
        assert word in sentence
    return caught.value


@pytest.fixture
def tls(tmp_path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's context."""
    cert, key = self_signed(tmp_path)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(cert, key)
    return server, ssl.create_default_context(cafile=str(cert))


@pytest.fixture(autouse=True)
async def nothing_is_left_in_the_loop(caplog):
    """No task fails unseen, and no traceback is logged."""
    failed: list[dict] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context))
    yield
    gc.collect()
    await asyncio.sleep(0)
    assert not failed
    assert not [record for record in caplog.records if record.exc_info]


# Credentials, Location and redirects.


async def gone(request: web.Request) -> web.Response:
    return web.Response(status=503)


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("/session/1", "/session/1"),
        ("session/1", "/a/session/1"),
        ("{home}/session/1?x=y", "/session/1"),
        ("{home_with_user}/session/1", "/session/1"),
        ("//{other_host}/session/1", None),
        ("{other}/session/1", None),
        ("{home_by_name}/session/1", None),
        ("https://{home_host}/session/1", None),
        ("ftp://{home_host}/session/1", None),
        ("http://[", None),
        ("http://127.0.0.1:999999/x", None),
        ("", None),
    ],
)
async def test_only_a_session_at_the_users_origin_is_deleted(location, path, caplog):
    """And nothing at all reaches another one."""
    async with origin(gone) as other, answerer() as endpoint, origin(endpoint) as home:
        host, other_host = (one.base.removeprefix("http://") for one in (home, other))
        endpoint.headers["Location"] = location.format(
            home=home.base,
            home_host=host,
            home_with_user=home.base.replace("//", "//mallory:x@"),
            home_by_name=home.base.replace("127.0.0.1", "localhost"),
            other=other.base,
            other_host=other_host,
        )
        await joined(home.base + "/a/whep")
    assert home.requests("DELETE") == ([(path, "Bearer secret")] if path else [])
    assert not other.seen
    said = [one for one in caplog.messages if "is not deleted there" in one]
    assert len(said) == (path is None and location != "")


async def test_a_redirect_to_another_origin_gets_the_offer_and_no_token(caplog):
    async with answerer(Location="/session/1") as endpoint, origin(endpoint) as other:

        async def away(request: web.Request) -> web.Response:
            return web.Response(status=307, headers={"Location": f"{other.base}/whep"})

        async with origin(away) as home:
            await joined(home.base + "/whep")
    assert home.requests("POST") == [("/whep", "Bearer secret")]
    assert other.seen == [("POST", "/whep", None)]
    assert "is not deleted there" in caplog.text


async def test_a_redirect_to_another_origin_that_asks_for_the_token_is_told():
    async def unauthorised(request: web.Request) -> web.Response:
        return web.Response(status=401)

    async with origin(unauthorised) as other:

        async def away(request: web.Request) -> web.Response:
            return web.Response(status=308, headers={"Location": f"{other.base}/whep"})

        async with origin(away) as home:
            await refused(home.base, InputError, other.base, "asks for a token", "give that")
    assert other.seen == [("POST", "/whep", None)]


async def test_a_user_and_password_go_to_the_users_origin_alone():
    async with origin(gone) as other:

        async def away(request: web.Request) -> web.Response:
            return web.Response(status=307, headers={"Location": f"{other.base}/whep"})

        async with origin(away) as home:
            url = home.base.replace("//", "//me:hidden@")
            error = await refused(url, SessionError, "says 503", token=None)
            assert "hidden" not in str(error)
            await refused(url, InputError, "a user and a token")
    assert home.requests("POST") == [("/", "Basic bWU6aGlkZGVu")]
    assert other.seen == [("POST", "/whep", None)]


async def test_no_cookie_is_kept():
    """Cookies do not know ports: another origin of the same host would get them."""
    cookies: list[str | None] = []

    async def away(request: web.Request) -> web.Response:
        cookies.append(request.headers.get("Cookie"))
        headers = {"Location": "/again", "Set-Cookie": "session=1; Path=/"}
        return web.Response(status=307, headers=headers)

    async with origin(away) as home:
        await refused(home.base.replace("127.0.0.1", "localhost"), SessionError, "redirects more")
    assert cookies == [None] * (1 + MOST_REDIRECTS)


@pytest.mark.parametrize("status", [307, 308])
async def test_redirects_are_followed_five_times(status):
    async def around(request: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Location": f"/{len(here.seen)}"})

    async with origin(around) as here:
        await refused(here.base + "/whep", SessionError, "redirects more than 5 times")
    assert len(here.requests("POST")) == 1 + MOST_REDIRECTS
    assert {token for _, token in here.requests("POST")} == {"Bearer secret"}


@pytest.mark.parametrize(
    ("status", "location", "error", "words"),
    [
        (301, "/x", InputError, "redirects by 301 to /x"),
        (302, "/x\x1b[31m", InputError, "redirects by 302 to /x"),
        (303, "", InputError, "redirects by 303 to nowhere"),
        (307, "", SessionError, "redirects (307) to no http(s):// address"),
        (308, "http://[", SessionError, "redirects (308) to no http(s):// address"),
        (308, "http:///x", SessionError, "redirects more than 5 times"),
        (307, "file:///etc/passwd", SessionError, "to no http(s):// address"),
        (307, "janus+http://127.0.0.1/", SessionError, "to no http(s):// address"),
        (307, f"http://{'a' * 70}.example/", SessionError, "does not answer"),
        (307, "http://224.0.0.1/", SessionError, "is nearer than itself"),
        (300, "/x", SessionError, "says 300"),
        (304, "/x", SessionError, "says 304"),
    ],
)
async def test_other_redirects_are_not_followed(status, location, error, words):
    async def away(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={"Location": location} if location else {})

    async with raw(b"", lambda: redirect(status, location)) as base:
        await refused(base, error, words)


def redirect(status: int, location: str) -> bytes:
    line = f"Location: {location}\r\n" if location else ""
    return f"HTTP/1.1 {status} Moved\r\n{line}Content-Length: 0\r\n\r\n".encode()


async def test_no_redirect_leads_from_https_to_http(tls, monkeypatch):
    server, client = tls
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", client)
    async with origin(gone) as plain:

        async def down(request: web.Request) -> web.Response:
            return web.Response(status=307, headers={"Location": f"{plain.base}/whep"})

        async with origin(down, ssl=server) as home:
            await refused(home.base, SessionError, "redirects from https to http://127.0.0.1")
    assert home.requests("POST") == [("/", "Bearer secret")]
    assert not plain.seen


async def test_options_and_delete_are_not_redirected():
    async with origin(gone) as other, answerer(Location="/session") as endpoint:

        async def handler(request: web.Request) -> web.StreamResponse:
            if request.method == "DELETE":
                return web.Response(status=307, headers={"Location": other.base})
            return await endpoint(request)

        async with origin(handler) as home:
            await joined(home.base)
    assert home.requests("DELETE") == [("/session", "Bearer secret")]
    assert not other.seen


async def test_an_endpoint_far_away_leads_nowhere_near():
    """Neither by an address nor by a name of one."""
    for place in ("127.0.0.1:9", "localhost:9", "10.0.0.1", "[::ffff:127.0.0.1]", "printer.local"):
        async with Client("http://sfu.example/whep", None, SECONDS).opened() as client:
            moved = Answer(client.home, 307, "", {"Location": f"//{place}/x"}, [], b"", True)
            with pytest.raises(SessionError, match="is nearer than itself"):
                client._next(moved)


async def test_a_name_far_away_that_has_an_address_nearby_is_not_reached(monkeypatch):
    """Whoever owns a name says what address it has."""
    look_up = socket.getaddrinfo

    def answers(host: str, *more, **named):
        return look_up("127.0.0.1" if host == "near.example" else host, *more, **named)

    monkeypatch.setattr("socket.getaddrinfo", answers)
    async with origin(gone) as near:
        by_name = near.base.replace("127.0.0.1", "near.example")
        async with Client("http://sfu.example/whep", None, SECONDS).opened() as client:
            assert client.may_name("near.example")
            with pytest.raises(SessionError, match="does not answer"):
                await client.ask("POST", URL(by_name), most=9)
            assert await client.address_of("near.example") is None
        assert not near.seen
        async with Client(by_name, None, SECONDS).opened() as client:  # the user's own choice
            assert (await client.ask("POST", client.home, most=9)).status == 503
            assert client.reach is Reach.LOOPBACK


# Answers that are too large, too slow, or none.


@contextlib.asynccontextmanager
async def raw(options: bytes, post: Callable[[], bytes], *, drip: float = 0) -> AsyncIterator[str]:
    """A server of bytes: what it answers to OPTIONS (nothing closes), and to everything else."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            await reader.readexactly(int(length[1]) if length else 0)
            answer = options if head.startswith(b"OPTIONS") else post()
            if drip:
                for one in answer:
                    writer.write(bytes([one]))
                    await asyncio.sleep(drip)
            else:
                writer.write(answer)
                await writer.drain()
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def created(body: bytes, *headers: str) -> bytes:
    lines = "".join(f"{header}\r\n" for header in headers)
    return f"HTTP/1.1 201 Created\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize("kind", ["plain", "gzip", "deflate"])
async def test_an_answer_is_bounded_after_decompression(kind):
    def packed(size: int) -> bytes:
        body = b"v=0" + bytes(size - 3)
        pack = {"gzip": gzip.compress, "deflate": zlib.compress}.get(kind, lambda data: data)
        return created(pack(body), *([] if kind == "plain" else [f"Content-Encoding: {kind}"]))

    async with raw(b"", lambda: packed(MOST_SDP + 1)) as base:
        await refused(base, SessionError, "answers with more than 64 KiB")
    async with raw(b"", lambda: packed(MOST_SDP)) as base:
        await refused(base, InputError, "an answer that cannot be used")


@pytest.mark.parametrize("kind", ["gzip", "br", "nonsense"])
async def test_a_body_that_cannot_be_decompressed_is_empty(kind):
    lines = f"Content-Encoding: {kind}\r\nRetry-After: 9\r\nContent-Length: 3\r\n\r\nabc".encode()
    async with raw(b"", lambda: b"HTTP/1.1 503 Busy\r\n" + lines) as base:
        error = await refused(base, SessionError, "says 503: Busy")
        assert error.retry_after == 9
    async with raw(b"", lambda: b"HTTP/1.1 201 Created\r\n" + lines) as base:
        await refused(base, InputError, "it is no SDP")


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
    """Though it was asked for none."""
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
        began = time.monotonic()
        await refused(base, SessionError, "does not answer")
        assert time.monotonic() - began < 4 * SECONDS


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
async def test_what_is_no_http_is_told(answer):
    async with raw(b"", lambda: answer) as base:
        await refused(base, SessionError, "does not answer")


@pytest.mark.parametrize("where", ["reason", "body", "janus", "plugin"])
async def test_text_of_a_server_comes_without_control_characters(where):
    text = "\x1b[2J\x1b]0;mine\x07 no \u202eroom\u2066\x9b1m\r here\x7f" + "!" * 9000
    if where == "reason":
        answer = f"HTTP/1.1 503 {text}\r\nContent-Length: 0\r\n\r\n".replace("\r here", " here")
        answer = answer.replace("!" * 9000, "!" * 900).encode()
        words = ("says 503: [2J ]0;mine no",)
    elif where == "body":
        answer = b"HTTP/1.1 503 x\r\n\r\n" + text.encode()
        words = ("says 503: [2J ]0;mine no room 1m",)
    else:
        said = {"error": {"reason": text}} if where == "janus" else {}
        said |= {"plugindata": {"data": {"error": text}}} if where == "plugin" else {}
        said |= {"janus": "error" if where == "janus" else "success", "data": {"id": 7}}
        body = json.dumps(said).encode()
        answer = b"HTTP/1.1 200 x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        words = ("says: [2J ]0;mine no room 1m here",)
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
        error = await refused(base, SessionError, "says 503: Busy")
    assert seconds[0] <= error.retry_after <= seconds[1]


# Link headers.


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ('<stun:127.0.0.1:9>; rel="ice-server"', ["stun:127.0.0.1:9"]),
        ('<stun://127.0.0.1>; rel="ICE-server other"', ["stun:127.0.0.1"]),
        ('<turn:localhost:9?transport=tcp>; rel=ice-server; username="a\\"b"; credential=c',
         ["turn:127.0.0.1:9?transport=tcp"]),
        ("</x.css>; rel=preload; as=style, <stun:127.0.0.1>; rel=ice-server", ["stun:127.0.0.1"]),
        ("<stun:127.0.0.1>; rel=ice-server, <stun:127.0.0.2>; rel=ice-server", ["stun:127.0.0.1"]),
        ("<stuns:127.0.0.1>; rel=ice-server", []),
        ("<stun:[::1]:9>; rel=ice-server", []),
        ("<stun:224.0.0.1>; rel=ice-server", []),
        ("<stun:no-such-name.invalid>; rel=ice-server", []),
        ('<turn:127.0.0.1>; rel=ice-server; username=a; credential=b; credential-type="oauth"', []),
        ("<TURN:127.0.0.1>; REL=ice-server; UserName=a; credential=b; credential-type=Password",
         ["turn:127.0.0.1"]),
        ("<stun:127.0.0.1>; rel=other", []),
        ("", []),
    ],
)  # fmt: skip
async def test_ice_servers_are_taken_from_links(link, expected):
    options = f"HTTP/1.1 204 x\r\nLink: {link}\r\n\r\n".encode()
    async with raw(options, bytes) as base, Client(base, None, SECONDS).opened() as client:
        answer = await client.ask("OPTIONS", client.home, most=0)
        assert [one.urls for one in await ice_servers(client, answer.links)] == expected


@pytest.mark.parametrize(
    "link",
    [
        "stun:127.0.0.1; rel=ice-server",
        '<>; rel="ice-server"',
        "<stun:>; rel=ice-server",
        "<http://127.0.0.1>; rel=ice-server",
        "<stun:127.0.0.1:99999>; rel=ice-server",
        f"<stun:127.0.0.1:{'9' * 5000}>; rel=ice-server",
        "<stun:127.0.0.1:0>; rel=ice-server",
        "<stun:127.0.0.1?transport=udp>; rel=ice-server",
        "<stun:a b>; rel=ice-server",
        "<stun:127.0.0.1>; rel=ice-server; x=\"",
        "<stun:127.0.0.1> rel=ice-server",
        "<turn:127.0.0.1>; rel=ice-server",
        f"<turn:127.0.0.1>; rel=ice-server; username={'u' * 600}; credential=c",
        "<stun:127.0.0.1>; rel=ice-server," * 17,
        "<" + " " * 8000,
        "<stun:x>" + "; " * 4000,
        "<stun:x>; a=" + '"' * 4000,
        "<stun:\x1b[31m>; rel=ice-server",
    ],
)  # fmt: skip
async def test_a_malformed_link_is_told(link):
    options = f"HTTP/1.1 204 x\r\nLink: {link}\r\n\r\n".encode()
    async with raw(options, lambda: created(b"v=0")) as base:
        await refused(base, SessionError, "malformed Link header")


async def test_links_of_many_headers_take_no_time():
    """128 headers of 8 KiB, of a kind that takes aiohttp's own reader minutes."""
    lines = b"".join(b"Link: <a>;" + b" " * 8000 + b"x\r\n" for _ in range(100))
    async with raw(b"HTTP/1.1 204 x\r\n" + lines + b"\r\n", lambda: created(b"v=0")) as base:
        began = time.process_time()
        await refused(base, SessionError, "malformed Link header", "more than 8192 characters")
        assert time.process_time() - began < 1


async def test_no_stun_packet_goes_where_an_endpoint_far_away_must_not_lead(caplog):
    """A loopback STUN server is asked by a loopback endpoint's clients only."""
    packets: list[bytes] = []

    class Stun(asyncio.DatagramProtocol):
        def datagram_received(self, data, addr):
            packets.append(data)

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        Stun, local_addr=("127.0.0.1", 0)
    )
    port = transport.get_extra_info("sockname")[1]
    names = (
        "127.0.0.1",
        "localhost",
        "127.1",
        "0x7f000001",
        "2130706433",
        "0.0.0.0",
        "a.localhost",
    )
    far = Client("http://sfu.example/whep", None, SECONDS)
    async with far.opened() as client:
        for name in names:
            link = f"<stun:{name}:{port}>; rel=ice-server"
            assert await ice_servers(client, [link]) == [], name
    assert len([one for one in caplog.messages if "which is not used" in one]) == len(names)
    options = f"HTTP/1.1 204 x\r\nLink: <stun:localhost:{port}>; rel=ice-server\r\n\r\n".encode()
    async with raw(options, lambda: created(b"v=0")) as base:
        with pytest.raises(InputError, match="cannot be used"):
            async with open_session(base, None, lambda *_: None, seconds=SECONDS):
                pass
    transport.close()
    assert packets


# Session descriptions.


def without(pattern: str) -> Callable[[str], str]:
    return lambda sdp: re.sub(rf"a={pattern}.*\r\n", "", sdp)


def replaced(pattern: str, text: str) -> Callable[[str], str]:
    return lambda sdp: re.sub(pattern, text, sdp)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda sdp: "", "it is no SDP"),
        (lambda sdp: "v=0\r\n" * 2000, "more than 1000 lines"),
        (lambda sdp: sdp + "a=x:" + "y" * 5000, "or one of more than 4096"),
        (lambda sdp: sdp + "m=video 9 UDP/TLS/RTP/SAVPF 96\r\n" * 20, "more than 16 media"),
        (lambda sdp: sdp + sdp[sdp.index("m=video") :], "its media have no names of their own"),
        (lambda sdp: sdp[: sdp.index("m=audio")], "bundles media that it does not have"),
        (lambda sdp: sdp.replace("m=video", "m=audio"), "its media are not those of the offer"),
        (without("mid"), "its media have no names of their own"),
        (without("sendonly"), "its video is None, not sendonly or inactive"),
        (replaced("a=sendonly", "a=sendrecv"), "its video is sendrecv"),
        (replaced("a=sendonly", "a=recvonly"), "its video is recvonly"),
        (replaced("BUNDLE 0 1", "BUNDLE 7 0 1"), "bundles media that it does not have"),
        (without("ice-ufrag"), "lacks an ICE user or password"),
        (replaced("ice-pwd:.*", "ice-pwd:" + "p" * 3000), "lacks an ICE user or password"),
        (replaced("ice-pwd:.*", "ice-pwd:\u00e9\u00e9"), "lacks an ICE user or password"),
        (without("fingerprint"), "lacks a certificate's fingerprint"),
        (replaced("sha-[0-9]+", "md5"), "lacks a certificate's fingerprint"),
        (without("setup"), "it has no DTLS role: add a=setup:active or a=setup:passive"),
        (replaced("a=setup:active", "a=setup:actpass"), "it has the DTLS role 'actpass': use"),
        (replaced("a=setup:active", "a=setup:holdconn"), "it has the DTLS role 'holdconn': use"),
        (without("rtcp-mux"), "it has RTCP on a port of its own"),
        (replaced("extmap:[0-9]+", "extmap:4000"), "numbers RTP's extensions beyond"),
        (replaced("H264/90000", "H265/90000"), "it has no H.264"),
        (replaced("(opus|G722|PCM[AU])/", "speex/"), "it has no sound in Opus, G.722 or G.711"),
        (
            replaced("packetization-mode=1", "packetization-mode=0"),
            "it has H.264 in packetization-mode 0 alone: add packetization-mode=1",
        ),
        (without("fmtp"), "it has H.264 in packetization-mode 0 alone"),
        (
            replaced("profile-level-id=[0-9a-f]*", "profile-level-id=f4001f"),
            "it has H.264 of no profile that is spoken here",
        ),
        (replaced("rtpmap:", "rtpmap:x"), "it is no SDP"),
        (replaced("m=video [0-9]+", "m=video 99999999999999999999 x"), "it is no SDP"),
    ],
)
async def test_an_answer_that_does_not_fit_is_told(change, why):
    async with answerer(change) as endpoint, origin(endpoint) as home:
        await refused(home.base, InputError, "gives an answer that cannot be used", why)


USELESS = (
    "0 1 udp 1 224.0.0.251 5353 typ host",
    "0 1 udp 1 ff02::fb 5353 typ host",
    "0 1 udp 1 255.255.255.255 9 typ host",
    "0 1 udp 1 0.0.0.0 9 typ host",
    "0 1 udp 1 deadbeef.local 9 typ host",
    "0 1 udp 1 sfu.example 9 typ host",
    "0 1 udp 1 fe80::1%\u00e9 9 typ host",
    "0 1 udp 1 127.0.0.1 0 typ host",
    "0 1 udp 1 127.0.0.1 65536 typ host",
    "0 1 udp 1 127.0.0.1 -9 typ host",
    f"0 1 udp 1 127.0.0.1 {'9' * 3000} typ host",
    "0 2 udp 1 127.0.0.1 9 typ host",
    "0 1 tcp 1 127.0.0.1 9 typ host tcptype active",
    "0 1 udp x 127.0.0.1 9 typ host",
    "0 1 udp 1",
    "",
)


async def test_candidates_that_cannot_be_used_are_left_out(caplog):
    """Of the others 32 are used: a call comes about among them."""
    caplog.set_level(logging.INFO, "aioice")
    own: list[str] = []

    def change(sdp: str) -> str:
        own.extend(re.findall("a=candidate:.*\r\n", sdp))
        many = [f"a=candidate:0 1 udp 1 127.0.0.1 {20000 + n} typ host\r\n" for n in range(400)]
        useless = [f"a=candidate:{one}\r\n" for one in USELESS]
        return sdp.replace(own[0], "".join([*useless, own[0], *many]), 1)

    async with (
        answerer(change) as endpoint,
        origin(endpoint) as home,
        open_session(home.base, None, lambda *_: None) as connection,
    ):
        await until(lambda: connection.connectionState == "connected")
        transport = connection.getTransceivers()[0].receiver.transport.transport
        known = transport.getRemoteCandidates()
    assert {one.ip for one in known} <= {"127.0.0.1", *(line.split()[4] for line in own)}
    places = [one.port for one in known if one.ip == "127.0.0.1"]
    assert 25 < len(places) < 32
    assert set(places) <= set(range(20000, 20032))
    assert "mdns" not in caplog.text


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (replaced("a=recvonly", "a=sendonly"), "its video is sendonly, not recvonly or inactive"),
        (without("sctp-port"), "has data channels without a port"),
        (replaced("sctp-port:.*", "sctp-port:0"), "has data channels without a port"),
        (replaced("message-size:.*", "message-size:-1"), "take no message of 16384 bytes"),
        (replaced("message-size:.*", "message-size:9"), "take no message of 16384 bytes"),
    ],
)
async def test_an_answer_that_does_not_fit_what_is_sent_is_told(clip, change, why):
    call = Sending(clip_source(clip), Encoding(kbps=60))
    async with answerer(change) as endpoint, origin(endpoint) as home:
        with pytest.raises(InputError, match=why):
            async with open_publishing(home.base, None, call.prepare, seconds=SECONDS):
                pass
    call.close()


async def test_a_server_that_opens_channel_after_channel_is_left(clip):
    """What it sends over them would fill the memory."""
    said: list[str] = []
    async with answerer(Location="/session") as endpoint, origin(endpoint) as home:
        sending = asyncio.ensure_future(send(clip_source(clip), 60, home.base, None, said.append))
        await until(lambda: said)
        for number in range(2 * STRANGERS):
            endpoint.connections[0].createDataChannel(str(number))
        with pytest.raises(ReceiverError, match="ended the call"):
            await asyncio.wait_for(sending, 10)
    assert len(home.requests("DELETE")) == 1


async def test_an_answer_without_a_connection_ends_in_time(generator, tmp_path):
    """Though it never says that its candidates are all: it leaves once it has answered."""
    said: list[str] = []
    endpoint = Answerer(without("end-of-candidates"), Location="/session")

    async def answers(request: web.Request) -> web.StreamResponse:
        answer = await endpoint(request)
        await endpoint.close()
        return answer

    file = FileOutput(tmp_path / "call.mp4", Fraction(30), has_sound=True)
    async with origin(answers) as home:
        call = Joined(
            home.base, None, Enhancer(generator), say=said.append, shows=[], file=file, seconds=1
        )
        running = asyncio.ensure_future(call.run())
        await until(lambda: len(home.requests("DELETE")) == 2)
        tasks = len(asyncio.all_tasks())
        await until(lambda: len(home.requests("DELETE")) == 4, 30)
        assert len(asyncio.all_tasks()) <= tasks + 2  # of the fourth, which is being left
        call.stop()
        await asyncio.wait_for(running, 3)
    assert "answers but no connection comes about" in said[0]
    assert call.sessions == 0
    await asyncio.to_thread(file.close)


async def test_a_call_that_is_left_while_it_connects_leaves_nothing():
    """Whatever it was at: aiortc's own would go on, and ask for the peer's consent for ever."""
    threads = threading.active_count()
    async with answerer(Location="/session") as endpoint, origin(endpoint) as home:
        for milliseconds in range(50):
            async with open_session(home.base, None, lambda *_: None):
                await asyncio.sleep(milliseconds / 1000)
        assert len(home.requests("DELETE")) == 50
        owners = [task.get_coro().cr_frame.f_locals.get("self") for task in asyncio.all_tasks()]
        assert not [one for one in owners if getattr(one, "ice_controlling", False)]  # the client's
    await until(lambda: threading.active_count() <= threads, 3)


# Janus.


class FakeJanus:
    """Answers as Janus does, and with `wrong` instead where that has the request's name."""

    def __init__(self, **wrong: object) -> None:
        self.wrong, self.requests = wrong, []
        self.publisher = Answerer()
        self.change: Callable[[str], str] = lambda sdp: sdp
        self.connection = RTCPeerConnection(HERE)
        self.events: list[object] = []
        self.feeds = [{"type": "video", "feed_mid": "0"}, {"type": "audio", "feed_mid": "1"}]

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            answer = self.wrong.get("poll") if "start" in self.requests else None
            if answer is None and not self.events:
                await asyncio.sleep(0.2)
                answer = {"janus": "keepalive"}
            return self.said(answer if answer is not None else self.events.pop(0))
        message = await request.json()
        name = message.get("body", {}).get("request", message["janus"])
        self.requests.append(name)
        if name == "join":
            self.events.append(self.wrong.get("event") or await self.attached(message["body"]))
        if name == "start":
            answer = RTCSessionDescription(message["jsep"]["sdp"], "answer")
            await self.connection.setRemoteDescription(answer)
        return self.said(self.wrong.get(name) or self.answer(name))

    def answer(self, name: str) -> object:
        people = [{"id": 4, "publisher": False}, {"id": 5, "publisher": True}]
        data = {"data": {"participants": people}} if name == "listparticipants" else {}
        return {"janus": "success", "data": {"id": 7}, "plugindata": data}

    async def attached(self, body: dict) -> object:
        mids = {one.get("mid") for one in body["streams"]}
        streams = [one for one in self.feeds if None in mids or one["feed_mid"] in mids]
        self.connection = RTCPeerConnection(HERE)
        for one in streams:
            self.connection.addTransceiver(one["type"], direction="sendonly")
        await self.connection.setLocalDescription(await self.connection.createOffer())
        jsep = {"type": "offer", "sdp": self.change(self.connection.localDescription.sdp)}
        return {"janus": "event", "plugindata": {"data": {"streams": streams}}, "jsep": jsep}

    def said(self, answer: object) -> web.Response:
        text = answer if isinstance(answer, str) else json.dumps(answer)
        return web.Response(text=text, content_type="application/json")


@contextlib.asynccontextmanager
async def fake_janus(**wrong: object) -> AsyncIterator[tuple[FakeJanus, Origin, str]]:
    server = FakeJanus(**wrong)
    async with origin(server) as here:
        yield server, here, f"janus+{here.base}/janus?room=1"
    await server.connection.close()


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"create": {"data": {}}}, "malformed answer: no id"),
        ({"create": {"data": [7]}}, "malformed answer: no id"),
        ({"create": {"data": {"id": "../admin"}}}, "malformed answer: no id"),
        ({"create": {"data": {"id": True}}}, "malformed answer: no id"),
        ({"create": {"data": {"id": -1}}}, "malformed answer: no id"),
        ({"create": {"data": {"id": 10**30}}}, "malformed answer: no id"),
        ({"create": {"janus": "error"}}, "says: an error without a reason"),
        ({"create": {"janus": "error", "error": {"reason": [[]]}}}, "an error without a reason"),
        ({"attach": "no JSON"}, "malformed answer: Expecting value"),
        ({"attach": "[]"}, "malformed answer: no object"),
        ({"attach": DEEP}, "malformed answer: nested too deeply"),
        ({"attach": '{"data": {"id": ' + "9" * 5000 + "}}"}, "malformed answer: Exceeds the limit"),
        ({"attach": '"' + " " * MOST_JSON + '"'}, "malformed answer: more than 1048576 bytes"),
        ({"listparticipants": {"plugindata": 5}}, "malformed answer: no data of the plugin"),
        ({"listparticipants": {"plugindata": {"data": 5}}}, "no data of the plugin"),
        ({"listparticipants": {"x": 1}}, "malformed answer: no list of participants"),
        ({"listparticipants": {"plugindata": {"data": {"participants": [5]}}}}, "nobody publishes"),
        ({"listparticipants": {"plugindata": {"data": {"participants": [{"publisher": True}]}}}},
         "a publisher without an id"),
        ({"listparticipants": {"plugindata": {"data": {"error": {"a": 1}}}}}, "without a reason"),
        ({"join": {"plugindata": {"data": {"error": "No such feed"}}}}, "says: No such feed"),
        ({"event": "no JSON"}, "malformed answer: Expecting value"),
        ({"event": {"jsep": 5}}, "malformed answer: no offer"),
        ({"event": {"jsep": {"sdp": 5}}}, "malformed answer: no offer"),
        ({"event": {"jsep": {"sdp": "x" * 99_999}}}, "it is no SDP"),
        ({"event": {"jsep": {"sdp": "v=0" + "x" * 99_999}}}, "it has more than 64 KiB"),
        ({"event": {"jsep": {"sdp": "v=0\r\n"}}}, "does not offer one video"),
        ({"event": {"jsep": {}, "plugindata": {"data": {"streams": [5]}}}}, "no list of streams"),
        ({"event": {"janus": "ack"}}, "does not answer in time"),
        ({"start": {"janus": "error", "error": {"reason": "Over"}}}, "says: Over"),
    ],
)  # fmt: skip
async def test_a_malformed_answer_of_janus_is_told(wrong, words):
    async with fake_janus(**wrong) as (server, _, url):
        await refused(url, SessionError, words)
    assert ("destroy" in server.requests) == ("create" not in wrong)


async def test_a_session_of_janus_that_is_left_while_it_is_made_is_ended():
    """Though its id comes only after the user has left."""
    async with fake_janus() as (server, *_):
        answer = server.answer

        async def handler(request: web.Request) -> web.StreamResponse:
            message = await request.json()
            server.requests.append(message["janus"])
            await asyncio.sleep(0.3 if message["janus"] == "create" else 0)
            return server.said(answer(message["janus"]))

        async with origin(handler) as slow:
            joining = asyncio.ensure_future(joined(f"janus+{slow.base}/janus?room=1"))
            await until(lambda: slow.requests("POST"))
            joining.cancel()
            with pytest.raises(asyncio.CancelledError):
                await joining
    assert server.requests == ["create", "destroy"]
    assert [path for path, _ in slow.requests("POST")] == ["/janus", "/janus/7"]


async def test_no_pin_is_redirected():
    async with origin(gone) as other:

        async def away(request: web.Request) -> web.Response:
            return web.Response(status=307, headers={"Location": other.base})

        async with origin(away) as home:
            url = f"janus+{home.base}/janus?room=1"
            await refused(url, InputError, "is no Janus server", token="1234")
    assert not other.seen


async def test_of_several_videos_and_sounds_of_a_feed_one_of_each_comes():
    kinds: list[str] = []
    async with fake_janus() as (server, _, url):
        server.feeds = [
            {"type": "video", "feed_mid": "a", "codec": "vp8"},
            {"type": "video", "feed_mid": "b", "codec": "h264", "active": False},
            {"type": "audio", "feed_mid": "c"},
            {"type": "video", "feed_mid": "e", "codec": "H264"},
            {"type": "video", "feed_mid": "f", "codec": "h264"},
            {"type": "audio", "feed_mid": "g"},
        ]
        joined: list[dict] = []
        attached = server.attached

        async def noting(body: dict) -> object:
            joined.append(body)
            return await attached(body)

        server.attached = noting
        async with open_session(url, "1234", lambda track, _: kinds.append(track.kind)):
            pass
    assert joined[-1]["streams"] == [{"feed": 5, "mid": "c"}, {"feed": 5, "mid": "e"}]
    assert [one["pin"] for one in joined] == ["1234", "1234"]
    assert sorted(kinds) == ["audio", "video"]
    assert server.requests.count("destroy") == 1


@pytest.mark.parametrize(
    ("poll", "words"),
    [
        ("no JSON", "malformed answer: Expecting value"),
        ([], "malformed answer: no object"),
        (
            {"janus": "error", "error": {"code": 458, "reason": "No such session"}},
            "No such session",
        ),
        ({"janus": "timeout"}, "had timed out"),
    ],
)
async def test_a_session_that_is_lost_in_mid_call_is_told(poll, words):
    async with fake_janus() as (server, _, url):

        async def call() -> None:
            async with open_session(url, None, lambda *_: None) as connection:
                await until(lambda: connection.connectionState == "connected")
                server.wrong["poll"] = poll
                await until(lambda: connection.connectionState == "closed")

        with pytest.raises(SessionError, match=words):
            await call()


async def test_a_server_that_answers_polls_at_once_is_not_asked_without_pause():
    async with (
        fake_janus(poll={"janus": "keepalive"}) as (_, here, url),
        open_session(url, None, lambda *_: None) as connection,
    ):
        await until(lambda: connection.connectionState == "connected")
        before = len(here.requests("GET"))
        await asyncio.sleep(1)
        assert connection.connectionState == "connected"
    assert 2 < len(here.requests("GET")) - before < 15


# Commands: Ctrl-C, and what is kept.


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
    """Presses Ctrl-C; the command ends soon and well. Returns what it said."""
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = await asyncio.wait_for(process.communicate(), 15)
    assert time.monotonic() - began < 8
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
    """The server restarts as something else, which another try cannot mend."""
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
    assert "is no WHEP endpoint" in said.decode().splitlines()[-1]
    assert b"Traceback" not in said
    assert album.stat().st_mtime_ns > before
