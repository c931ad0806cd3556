"""Servers that answer as a test wants, and clients that expect it."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from aiortc import RTCPeerConnection, RTCSessionDescription

from receiver.signalling.sessions import open_session
from receiver.transport.connections import h264_codecs
from tests.calls.peer import HERE, until

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


async def gone(request: web.Request) -> web.Response:
    return web.Response(status=503)


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


def without(pattern: str) -> Callable[[str], str]:
    return lambda sdp: re.sub(rf"a={pattern}.*\r\n", "", sdp)


def replaced(pattern: str, text: str) -> Callable[[str], str]:
    return lambda sdp: re.sub(pattern, text, sdp)


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
