"""Targets: offers, ICE fragments and HTTP requests to the server."""

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from functools import cache
from typing import Any

from aiortc import RTCConfiguration, RTCPeerConnection
from aiortc.sdp import SessionDescription, candidate_to_sdp

from bench.fuzz.target import (
    RUNS_MOST,
    check,
    loop,
)
from bench.fuzz.untrained import untrained
from receiver.calls.config import ServeConfig
from receiver.calls.server import Server, listening
from receiver.enhance.enhancer import Enhancer
from receiver.signalling.offers import MAX_CANDIDATES, OfferError, is_checked, read_offer
from receiver.signalling.trickle import SDPFRAG, add_candidates, read_fragment
from receiver.stills.protocol import (
    LABEL,
)
from receiver.transport.connections import h264_codecs, prepare_aiortc


@cache
def offer() -> str:
    """Returns the offer of a sender of H.264 with a data channel."""

    async def make() -> str:
        prepare_aiortc()
        connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        connection.addTransceiver("audio", direction="sendonly")
        video = connection.addTransceiver("video", direction="sendonly")
        video.setCodecPreferences(h264_codecs())
        connection.createDataChannel(LABEL)
        await connection.setLocalDescription(await connection.createOffer())
        sdp: str = connection.localDescription.sdp
        await connection.close()
        return sdp

    return loop().run_until_complete(make())


def sdp_seeds() -> list[bytes]:
    """Returns an offer, and one in different case and without a DTLS role."""
    odd = offer().replace("H264", "h264").replace(" udp ", " UDP ").replace("typ host", "TYP HOST")
    return [offer().encode(), odd.replace("a=setup:actpass\r\n", "").encode()]


def sdp(data: bytes) -> None:
    """Promises that an offer is read, or refused with a status."""
    try:
        read_offer(data)
    except OfferError as error:
        check(error.status in (400, 422), "a bad offer is the client's fault")


def fragments_seeds() -> list[bytes]:
    """Returns fragments with the offer's own ICE credentials, and with others."""
    media = SessionDescription.parse(offer()).media[0]
    assert media.ice is not None
    ice = f"a=ice-ufrag:{media.ice.usernameFragment}\r\na=ice-pwd:{media.ice.password}\r\n"
    section = "m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n"
    line = "a=candidate:{0} 1 udp {0} 127.0.0.1 {0} typ host generation 0\r\n"
    many = "".join(line.format(port) for port in range(9, 30))
    parts = [ice + section + many, section + ice + line.format(9), "a=ice-ufrag:abcd\r\n" + section]
    return [f"{part}a=end-of-candidates\r\n".encode() for part in parts]


def fragments(data: bytes) -> None:
    """Promises that candidates are bounded, and that a fragment is used or refused."""
    loop().run_until_complete(_fragments(data))


async def _fragments(data: bytes) -> None:
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    await connection.setRemoteDescription(read_offer(offer().encode()))
    try:
        await add_candidates(connection, read_fragment(data))
    except OfferError as error:
        check(error.status in (400, 422), "a bad fragment is the client's fault")
    transports = {one.receiver.transport.transport for one in connection.getTransceivers()}
    remote = [one for transport in transports for one in transport.getRemoteCandidates()]
    await connection.close()
    check(len(remote) <= MAX_CANDIDATES, "candidates are bounded")
    check(all(is_checked(candidate_to_sdp(one)) for one in remote), "ICE checks go to IP addresses")


def http_seeds() -> list[bytes]:
    """Returns requests without a Content-Length; `http` adds it."""
    kind = "Content-Type: application/sdp\r\n"
    heads = [
        f"POST /whip/me HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer secret\r\n{kind}",
        f"POST /whep/me?view=both HTTP/1.1\r\nHost: localhost\r\n{kind}",
        "DELETE /whip/room/session HTTP/1.1\r\nHost: localhost\r\n",
        "DELETE /whep/room/session HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil\r\n",
        "OPTIONS /whip/me/ HTTP/1.1\r\nHost: localhost\r\n",
        f'PATCH /whip/room/session HTTP/1.1\r\nHost: localhost\r\nIf-Match: "x", W/"y"\r\n'
        f"Content-Type: {SDPFRAG}\r\n",
        "GET /stats HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: x\r\n",
        "GET /metrics?a=b HTTP/1.1\r\nHost: localhost:80\r\n",
        "GET / HTTP/1.1\r\nHost: [::1]:8080\r\nRange: bytes=0-5\r\n",
    ]
    bodies = [offer(), offer(), *[""] * (len(heads) - 2)]
    return [f"{head}\r\n{body}".encode() for head, body in zip(heads, bodies, strict=True)]


@dataclass
class Served:
    """A server that listens.

    Attributes:
        errors: logged by the server.
        context: keeps the server running.
    """

    server: Server
    port: int
    errors: list[str]
    context: Any

    async def close_rooms(self) -> None:
        """Ends all calls. Raises TimeoutError if one does not end."""
        for room in list(self.server.rooms.values()):
            await asyncio.wait_for(room.close(), RUNS_MOST)
        await asyncio.sleep(0)


@cache
def served() -> Served:
    """Returns a server that listens on a free loopback port until the process ends."""
    enhancer = Enhancer(untrained())
    server = Server(ServeConfig(port=0, rooms=4), lambda: enhancer)
    context = listening(server)
    url = loop().run_until_complete(context.__aenter__())
    port = int(url.rsplit(":", 1)[1].strip("/"))
    return Served(server, port, _errors_of("receiver.calls.listener"), context)


def _errors_of(name: str) -> list[str]:
    logged: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: logged.append(handler.format(record))  # type: ignore[method-assign]
    logging.getLogger(name).addHandler(handler)
    logging.getLogger(name).propagate = False
    return logged


def http(data: bytes) -> None:
    """Promises that the server never answers with 500, and keeps running."""
    loop().run_until_complete(_http(served(), data))


async def _http(there: Served, data: bytes) -> None:
    there.errors.clear()
    head, _, body = data.partition(b"\r\n\r\n")
    ending = b"\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    answer = await _ask(there.port, head + ending + body)
    await there.close_rooms()
    status = int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0
    check(status < 500 or status == 503, f"{status}: {''.join(there.errors)[-2000:]}")
    check(not there.server.rooms, "a closed room is removed")
    again = await _ask(
        there.port, b"GET /stats HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    check(again.startswith(b"HTTP/1.1 200 "), "the server keeps running")


async def _ask(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return await asyncio.wait_for(reader.read(), 0.5)
    except (TimeoutError, ConnectionError):
        return b""
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
