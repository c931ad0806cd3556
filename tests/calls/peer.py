"""This project's server, and the smallest WHIP publisher and WHEP viewer there can be."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import cache
from ipaddress import ip_address
from pathlib import Path

import aiohttp
import av
import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamTrack
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from receiver.calls.access import (
    parse_token,
)
from receiver.calls.config import ServeConfig
from receiver.calls.server import Server, listening
from receiver.enhance.enhancer import Enhancer
from receiver.media.encoding import Encoding
from receiver.sending.encoded_track import EncodedTrack
from receiver.sending.sources import Source, portrait_source
from receiver.transport.connections import h264_codecs, receive_h264

HERE = RTCConfiguration(iceServers=[])
SDP = {"Content-Type": "application/sdp"}


@cache
def portrait() -> Source:
    """Returns the demo's own clip. Rendering it takes seconds, so all tests share one."""
    return portrait_source()


class Tone(MediaStreamTrack):
    """A tone in pieces of 20 ms."""

    kind = "audio"
    count = 0

    async def recv(self):
        await asyncio.sleep(0.02)
        frame = av.AudioFrame.from_ndarray(np.full((1, 960), 1000, np.int16), "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, 960 * self.count, Fraction(1, 48000)
        self.count += 1
        return frame


class Peer:
    """A WHIP publisher or WHEP viewer as small as can be."""

    def __init__(self, http: aiohttp.ClientSession, base: str) -> None:
        self.http, self.base = http, base
        self.connection = RTCPeerConnection(HERE)
        self.location = self.etag = ""
        self.change: Callable[[str], str] = lambda sdp: sdp  # of what it offers
        self.headers = SDP
        self.tracks: dict[str, MediaStreamTrack] = {}
        self.connection.on("track", lambda track: self.tracks.update({track.kind: track}))

    async def negotiate(self, path: str) -> aiohttp.ClientResponse:
        await self.connection.setLocalDescription(await self.connection.createOffer())
        offer = self.change(self.connection.localDescription.sdp)
        response = await self.http.post(self.base + path, data=offer, headers=self.headers)
        if response.status == 201:
            self.location = response.headers["Location"]
            self.etag = response.headers["ETag"]
            answer = RTCSessionDescription(await response.text(), "answer")
            await self.connection.setRemoteDescription(answer)
        return response

    async def publish(self, name: str = "room", sound: bool = False) -> aiohttp.ClientResponse:
        self.sender = EncodedTrack(portrait(), Encoding(kbps=200, keyframe_every=30))
        self.connection.addTrack(self.sender)
        self.connection.getTransceivers()[0].setCodecPreferences(h264_codecs())
        if sound:
            self.connection.addTrack(Tone())
        response = await self.negotiate(f"/whip/{name}")
        await self.connected()
        self.sender.begin()
        return response

    async def watch(self, path: str = "/whep/room", sound: bool = False) -> aiohttp.ClientResponse:
        receive_h264(self.connection)
        if sound:
            self.connection.addTransceiver("audio", direction="recvonly")
        return await self.negotiate(path)

    async def connected(self) -> None:
        while self.connection.connectionState != "connected":
            await asyncio.sleep(0.01)

    async def frames(self, count: int) -> list[av.VideoFrame]:
        return [await asyncio.wait_for(self.tracks["video"].recv(), 10) for _ in range(count)]

    async def close(self) -> None:
        await self.connection.close()


@contextlib.asynccontextmanager
async def serving(
    generator, token: str | None = None, tokens: Sequence[str] = (), **config
) -> AsyncIterator[tuple[Server, str]]:
    texts = tokens if token is None else [token]
    known = tuple(parse_token(text) for text in texts)
    server = Server(ServeConfig(port=0, tokens=known, **config), lambda: Enhancer(generator))
    async with listening(server) as url:
        yield server, url.rstrip("/")


async def until(condition, seconds: float = 15.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key, as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + timedelta(days=1))
    certificate = builder.add_extension(address, critical=False).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(certificate.public_bytes(pem))
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(pem, form, plain))
    return folder / "cert.pem", folder / "key.pem"


def bearer(secret: str, scheme: str = "Bearer") -> dict[str, str]:
    return {"Authorization": f"{scheme} {secret}"}
