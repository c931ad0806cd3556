"""What `python -m bench fuzz` feeds: a function a target, which raises where a promise breaks."""

import asyncio
import contextlib
import json
import logging
import math
import multiprocessing
import struct
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import av
import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection
from aiortc.codecs import depayload
from aiortc.codecs.h264 import H264Encoder
from aiortc.jitterbuffer import JitterFrame
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtp import HeaderExtensionsMap, RtpPacket
from aiortc.sdp import SessionDescription, candidate_to_sdp
from av.video.reformatter import ColorRange, Colorspace

from keyframes import Keyframe, People
from receiver.calls.server import ServeConfig, Server, listening
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.album import load_album, peer_of, save_album
from receiver.enhance.faces.alignment import crop_from_frame
from receiver.enhance.faces.generator import Generator
from receiver.enhance.faces.recognition import shared_recogniser
from receiver.enhance.faces.tracking import Face
from receiver.enhance.files import enhance_file
from receiver.errors import ModelError, ReceiverError
from receiver.inference.model_files import WEIGHTS, Model
from receiver.media.encoding import Encoding
from receiver.media.frame import DecodedFrame
from receiver.media.pixels import PLANAR_420, RESTORABLE
from receiver.media.planes import planes
from receiver.sending.portrait import FPS, portrait_frames
from receiver.signalling.offers import MAX_CANDIDATES, OfferError, is_checked, read_offer
from receiver.signalling.trickle import SDPFRAG, add_candidates, read_fragment
from receiver.stills.picture import MAX_STILL_PIXELS as STILL_PIXELS
from receiver.stills.picture import StillError, decode_still, encode_still
from receiver.stills.protocol import LABEL
from receiver.stills.receiver import StillReceiver
from receiver.stills.sender import StillSender
from receiver.transport.aiortc_hooks import MAX_FRAME_PIXELS, ObservingDecoder
from receiver.transport.assembly import FORGOTTEN, MOST_MISSING, MOST_PACKETS, FrameAssembler
from receiver.transport.connections import h264_codecs, prepare_aiortc
from receiver.transport.damage import DamageWatch

BETWEEN = b"\xfe\xedRTP\xfe"
"""Stands between the packets, pictures or messages of one input."""
H264 = RTCRtpCodecParameters(mimeType="video/H264", clockRate=90000, payloadType=99)
STREAMS = ((100, 10, 1), (300, 12, 4), (60, 100, 1))
"""kbit/s, frames from IDR to IDR, slices a frame."""
SIZE = (160, 120)
TICKS = 3000
"""Of 1/90000 s from one frame to the next."""
PEER = peer_of("https://localhost/whep")
"""Of the call that albums come from."""
RUNS_MOST = 5.0
"""Seconds that a native library may take for one input before it counts as hanging."""


class NativeCrashError(Exception):
    """A library that is not ours took its whole process down."""


@dataclass(frozen=True)
class Target:
    """What is fed, what with, and what a part of its inputs is called."""

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    separator: bytes | None = None
    parts: str = "inputs"


def check(holds: bool, promise: str) -> None:
    """Raises AssertionError with the promise that does not hold."""
    if not holds:
        raise AssertionError(promise)


# Packets and pictures.


@cache
def small_portrait() -> list[av.VideoFrame]:
    """A second and a half of the demo's own clip, small, so that much of it can be decoded."""
    return [frame.reformat(*SIZE, "yuv420p") for frame in islice(portrait_frames(), 45)]


@cache
def streams() -> list[list[bytes]]:
    """Access units of the portrait, one list a stream."""
    encoded = []
    for kbps, every, slices in STREAMS:
        codec = Encoding(kbps, None, every).open(*SIZE, Fraction(FPS))
        codec.options = {**codec.options, "x264-params": f"slices={slices}"}
        units = []
        for index, frame in enumerate(small_portrait()):
            frame.pts, frame.time_base = TICKS * index, Fraction(1, 90000)
            frame.pict_type = av.video.frame.PictureType.NONE
            units += [bytes(packet) for packet in codec.encode(frame)]
        encoded.append(units)
    return encoded


def packets_of(units: list[bytes]) -> list[RtpPacket]:
    """As aiortc's sender makes them; sequence numbers come round."""
    packets: list[RtpPacket] = []
    for index, unit in enumerate(units):
        payloads = H264Encoder._packetize(H264Encoder._split_bitstream(unit))
        for payload in payloads:
            packet = RtpPacket(99, int(payload is payloads[-1]), payload=payload, ssrc=1)
            packet.sequence_number = (65500 + len(packets)) % 65536
            packet.timestamp = TICKS * index
            packets.append(packet)
    return packets


def rtp_seeds() -> list[bytes]:
    """Each a second and a half of a stream: packets, after the milliseconds since the last one."""
    extensions = HeaderExtensionsMap()
    return [
        BETWEEN.join(b"\x05" + packet.serialize(extensions) for packet in packets_of(units))
        for units in streams()
    ]


def rtp(data: bytes) -> None:
    """Whatever packets come, they are put together or dropped, and memory stays bounded."""
    assembler, watch, now = FrameAssembler(), DamageWatch(), 0.0
    extensions, came, left = HeaderExtensionsMap(), 0, 0
    for record in data.split(BETWEEN):
        now += record[0] / 1000 if record else 0.0
        try:
            packet = RtpPacket.parse(record[1:], extensions)
            packet._data = depayload(H264, packet.payload) if packet.payload else b""
        except ValueError:
            continue  # aiortc drops it as well
        came += len(packet._data)
        assembler.add(packet, now)
        for unit in assembler.take(now):
            left += len(unit.data)
            damaged = watch.see(unit.data, unit.lost_before)
            check(damaged or not unit.lost_before or _has_sps(unit.data), "a loss is damage")
        check(all(0 <= one < 65536 for one in assembler.to_ask_for(now)), "NACKs name packets")
        check(len(assembler._packets) <= MOST_PACKETS, "packets that wait are bounded")
        check(len(assembler._missing) <= MOST_MISSING, "missing packets are bounded")
        check(len(assembler._given_up) <= FORGOTTEN, "packets given up are bounded")
    check(left <= came, "nothing comes out twice")


def _has_sps(data: bytes) -> bool:
    return any(b"\0\0\1" + bytes([header]) in data for header in (0x07, 0x27, 0x47, 0x67))


def decode_seeds() -> list[bytes]:
    """Access units of each stream."""
    return [BETWEEN.join(units[:24]) for units in streams()]


def decode(data: bytes) -> None:
    """Whatever comes before a whole IDR, the pictures from it on are right or marked."""
    decoder, pictures = ObservingDecoder(), []
    units = [*data.split(BETWEEN), *streams()[0][:5]]
    for index, unit in enumerate(units):
        frame = JitterFrame(unit, TICKS * (index + 1000))
        with contextlib.suppress(av.FFmpegError):
            pictures += decoder.decode(frame)
    first = len(units) - 5 + 1000
    for picture in pictures:
        seen = DecodedFrame.from_video(picture)
        check(picture.width * picture.height <= MAX_FRAME_PIXELS, "pictures are bounded")
        check(seen.qp is None or -64 <= seen.qp <= 64, f"QP {seen.qp}")
        check(seen.qp_within(np.array([0.0, 0.0, 9e9, 9e9])) is None or seen.qp is not None, "QP")
        _ = seen.motion_vectors
        number = (picture.pts or 0) // TICKS - first
        if number >= 0:
            same = same_pixels(picture, lossless()[0][number])
            check(seen.damaged or same, f"picture {number} after an IDR is wrong and not marked")


@cache
def lossless() -> list[list[av.VideoFrame]]:
    """What the streams decode to where nothing is lost."""
    decoded = []
    for units in streams():
        decoder = ObservingDecoder()
        frames = [JitterFrame(unit, TICKS * index) for index, unit in enumerate(units)]
        decoded.append([picture for frame in frames for picture in decoder.decode(frame)])
    return decoded


@cache
def packets() -> list[list[RtpPacket]]:
    """Depayloaded packets of each stream."""
    made = [packets_of(units) for units in streams()]
    for packet in (packet for stream in made for packet in stream):
        packet._data = depayload(H264, packet.payload)
    return made


def losses_seeds() -> list[bytes]:
    """A byte for the stream, and one for what becomes of each of its packets."""
    return [bytes([number]) + bytes(len(stream)) for number, stream in enumerate(packets())]


def losses(data: bytes) -> None:
    """Whatever packets are lost, late or doubled, no picture that differs is called whole."""
    number = data[0] % len(STREAMS) if data else 0
    assembler, decoder = FrameAssembler(), ObservingDecoder()
    for place, packet in arrivals(packets()[number], data[1:]):
        assembler.add(packet, place * 0.004)
        for unit in assembler.take(place * 0.004):
            try:
                pictures = decoder.decode(unit)
            except av.FFmpegError:
                continue
            for picture in pictures:
                same = same_pixels(picture, lossless()[number][(picture.pts or 0) // TICKS])
                whole = not DecodedFrame.from_video(picture).damaged
                check(same or not whole, f"frame {(picture.pts or 0) // TICKS} is called whole")


def arrivals(sent: list[RtpPacket], fates: bytes) -> list[tuple[float, RtpPacket]]:
    """When each packet comes, in places of the stream: on time, late, twice or never."""
    came: list[tuple[float, RtpPacket]] = []
    for index, packet in enumerate(sent):
        fate = fates[index] if index < len(fates) else 0
        if not 160 <= fate < 200:
            came.append((index + (0 if fate < 200 else (fate - 199) / 2), packet))
        if 120 <= fate < 160:
            came.append((index + (fate - 119) * 2.5, packet))
    return sorted(came, key=lambda one: one[0])


def same_pixels(a: av.VideoFrame, b: av.VideoFrame) -> bool:
    """Whether two 4:2:0 frames are alike to the bit; FFmpeg keeps an older picture's range."""
    if (a.width, a.height) != (b.width, b.height) or a.format.name not in PLANAR_420:
        return False
    return all(np.array_equal(*pair) for pair in zip(planes(a), planes(b), strict=True))


# Stills.


@dataclass
class Channel:
    """A data channel's place: keeps what was sent, and who listens."""

    readyState: str = "open"  # noqa: N815
    bufferedAmount: int = 0  # noqa: N815
    label: str = LABEL
    sent: list[Any] = field(default_factory=list)
    listeners: dict[str, Callable[..., Any]] = field(default_factory=dict)

    def on(self, event: str, listener: Callable[..., Any]) -> None:
        self.listeners[event] = listener

    def send(self, message: Any) -> None:
        self.sent.append(message)

    def close(self) -> None:
        self.readyState = "closed"


@cache
def loop() -> asyncio.AbstractEventLoop:
    """One for all inputs."""
    return asyncio.new_event_loop()


def stills_seeds() -> list[bytes]:
    """Messages after a letter: Text, Binary and requests to a Sender; Webp and Jpeg alone."""
    frame = small_portrait()[0]
    still, mime = encode_still(frame, 4000)
    shape = {"mime": mime, "width": SIZE[0], "height": SIZE[1], "captured_ms": 5}
    announced = {"type": "still", "id": 1, "bytes": len(still), **shape, "region": [0, 0, 1, 0.5]}
    wanted = {"type": "request", "id": 7, "max_bytes": 4000, "kbps": 9999, "region": [0, 0, 1, 0.5]}
    codec: av.VideoCodecContext = av.CodecContext.create("mjpeg", "w")
    codec.width, codec.height, codec.pix_fmt, codec.time_base = *SIZE, "yuvj420p", Fraction(1)
    full = frame.reformat(format="yuvj420p", dst_color_range=ColorRange.JPEG)
    full.pts, full.time_base = 0, Fraction(1)
    jpeg = b"".join(bytes(one) for one in codec.encode(full) + codec.encode(None))
    texts = [announced, {"type": "refused", "id": 1, "reason": "no"}, wanted]
    letters = [b"T", b"T", b"S"]
    messages = [a + json.dumps(text).encode() for a, text in zip(letters, texts, strict=True)]
    chunks = [b"B" + still[at : at + 1000] for at in range(0, len(still), 1000)]
    return [
        BETWEEN.join([messages[0], *chunks]),
        messages[1],
        messages[2],
        b"W" + still,
        b"J" + jpeg,
    ]


def stills(data: bytes) -> None:
    """Whatever a peer says, a still comes, a reason, or nothing; and never too large a one."""
    loop().run_until_complete(_stills(data.split(BETWEEN)))


async def _stills(messages: list[bytes]) -> None:
    asking, answering, came, failed = Channel(), Channel(), [], []
    receiver = StillReceiver(asking, came.append, lambda why, _: failed.append(why))  # type: ignore[arg-type]
    sender = StillSender(answering, lambda: small_portrait()[0])  # type: ignore[arg-type]
    try:
        receiver.request(8000, 10000.0)
        for message in messages:
            kind, body = message[:1], message[1:]
            if kind == b"T":
                asking.listeners["message"](body.decode(errors="replace"))
            elif kind == b"S":
                answering.listeners["message"](body.decode(errors="replace"))
            elif kind in (b"W", b"J"):
                with contextlib.suppress(StillError):
                    _check_still(decode_still(body, {b"W": "image/webp"}.get(kind, "image/jpeg")))
            else:
                asking.listeners["message"](body)
            if receiver._work is not None:
                await asyncio.wait([receiver._work])
                await asyncio.sleep(0)
        if sender._sending is not None:
            await asyncio.wait([sender._sending])
            check(sender._sending.exception() is None, "answering a request does not fail")
    finally:
        receiver.close()
        sender.close()
    check("it could not be used" not in failed, "nothing but StillError comes from a still")
    for still in came:
        _check_still(still.picture)
        check(still.size_bytes <= 8000, "no more comes than was asked for")


def _check_still(picture: av.VideoFrame) -> None:
    check(picture.format.name in PLANAR_420, "a still is 4:2:0")
    check(picture.width * picture.height <= STILL_PIXELS, "a still is bounded")


# The server.


@cache
def offer() -> str:
    """What a sender of H.264 with a data channel offers."""

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
    """An offer, and one in another case without a DTLS role."""
    odd = offer().replace("H264", "h264").replace(" udp ", " UDP ").replace("typ host", "TYP HOST")
    return [offer().encode(), odd.replace("a=setup:actpass\r\n", "").encode()]


def sdp(data: bytes) -> None:
    """Whatever is offered, it is read or refused with a status."""
    try:
        read_offer(data)
    except OfferError as error:
        check(error.status in (400, 422), "a bad offer is the client's fault")


def fragments_seeds() -> list[bytes]:
    """Fragments of the offer's own ICE, and of another peer's."""
    media = SessionDescription.parse(offer()).media[0]
    assert media.ice is not None
    ice = f"a=ice-ufrag:{media.ice.usernameFragment}\r\na=ice-pwd:{media.ice.password}\r\n"
    section = "m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n"
    line = "a=candidate:{0} 1 udp {0} 127.0.0.1 {0} typ host generation 0\r\n"
    many = "".join(line.format(port) for port in range(9, 30))
    parts = [ice + section + many, section + ice + line.format(9), "a=ice-ufrag:abcd\r\n" + section]
    return [f"{part}a=end-of-candidates\r\n".encode() for part in parts]


def fragments(data: bytes) -> None:
    """Whatever comes after an offer, candidates are few, and ICE goes on or it is refused."""
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
    check(all(is_checked(candidate_to_sdp(one)) for one in remote), "checks go to addresses")


def http_seeds() -> list[bytes]:
    """Requests; their length is told when they are sent."""
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
    """A server that listens, what it logs, and what keeps it going."""

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
    """Listens on a free port of the loopback address for as long as the process lives."""
    enhancer = Enhancer(untrained())
    server = Server(ServeConfig(port=0, rooms=4), lambda: enhancer)
    context = listening(server)
    url = loop().run_until_complete(context.__aenter__())
    port = int(url.rsplit(":", 1)[1].strip("/"))
    return Served(server, port, _errors_of("receiver.calls.listener"), context)


def _errors_of(name: str) -> list[str]:
    told: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: told.append(handler.format(record))  # type: ignore[method-assign]
    logging.getLogger(name).addHandler(handler)
    logging.getLogger(name).propagate = False
    return told


def http(data: bytes) -> None:
    """Whatever is sent to it, the server answers without a 500, and goes on."""
    loop().run_until_complete(_http(served(), data))


async def _http(there: Served, data: bytes) -> None:
    there.errors.clear()
    head, _, body = data.partition(b"\r\n\r\n")
    ending = b"\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    answer = await _ask(there.port, head + ending + body)
    await there.close_rooms()
    status = int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0
    check(status < 500 or status == 503, f"{status}: {''.join(there.errors)[-2000:]}")
    check(not there.server.rooms, "a room that is closed is gone")
    again = await _ask(
        there.port, b"GET /stats HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    check(again.startswith(b"HTTP/1.1 200 "), "the server goes on")


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


# Files.


@cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="fuzz-")


def folder() -> Path:
    """For the files that are fed; gone with the process."""
    return Path(_temporary().name)


def models_seeds() -> list[bytes]:
    """The card and both networks, after a letter that tells which is which."""
    card = json.loads((WEIGHTS / "lite.json").read_text())
    card["sha256"] |= {"fuzzed.onnx": "0" * 64, "fuzzed-align.onnx": "0" * 64}
    nets = [(WEIGHTS / f"lite-int8{end}.onnx").read_bytes() for end in ("", "-align")]
    return [b"C" + json.dumps(card).encode()] * 2 + [b"O" + net for net in nets]


def models(data: bytes) -> None:
    """Whatever card or network is given, it is used, or a ModelError says why not."""
    path = folder() / "fuzzed.onnx"
    card = path.with_suffix(".json")
    if data[:1] != b"O":
        path.touch()
        card.write_bytes(data[1:])
        with contextlib.suppress(ModelError):
            model = Model.find(str(path))
            _ = model.aligner, model.expected_sha256
        return
    card.unlink(missing_ok=True)
    path.write_bytes(data[1:])
    pool = loader()
    try:
        pool.submit(load, str(path)).result(RUNS_MOST * 4)
    except (BrokenProcessPool, TimeoutError):
        loader.cache_clear()
        for process in list((pool._processes or {}).values()):
            process.kill()
        raise NativeCrashError("ONNX Runtime crashed, or hangs") from None


@cache
def loader() -> ProcessPoolExecutor:
    """A process that may crash."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def load(path: str) -> None:
    """Loads a network, as the command line does."""
    with contextlib.suppress(ModelError):
        Generator(path, "cpu")


class Untrained:
    """Stands in for a generator: the same shapes in no time."""

    device, model = "cpu", SimpleNamespace(name="untrained")

    def restore(self, degraded: Any, reference: Any, landmarks: Any) -> Any:
        """Something between both pictures, brighter where a landmark is."""
        check(bool(np.isfinite(degraded).all()), "crops are numbers")
        return (degraded + reference) / 2 + landmarks


def untrained() -> Any:
    """As a `Generator`."""
    return Untrained()


def files_seeds() -> list[bytes]:
    """Short clips with sound after a V, an album after an A."""
    album = folder() / "album"
    people = People()
    landmarks = 100 + 50 * np.random.default_rng(0).random((68, 2), np.float32)
    crop = np.zeros((256, 256, 3), np.uint8)
    person = people.see(0, np.moveaxis(crop, 2, 0), landmarks)
    person.keyframes.add(Keyframe(crop, landmarks, 30.0, "still", 1.0))
    save_album(people, [], album, PEER)
    return [b"A" + album.read_bytes(), *(b"V" + _clip(end) for end in (".mp4", ".mkv", ".ts"))]


def _clip(ending: str) -> bytes:
    path = folder() / f"seed{ending}"
    with av.open(str(path), "w") as container:
        video, sound = container.add_stream("libx264", FPS), container.add_stream("aac", 48000)
        video.width, video.height, video.pix_fmt = *SIZE, "yuv420p"  # type: ignore[union-attr]
        video.options = {"preset": "ultrafast", "g": "4"}
        for index, frame in enumerate(small_portrait()[:8]):
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(video.encode(frame))  # type: ignore[union-attr]
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            silence.sample_rate, silence.pts = 48000, 1024 * index
            container.mux(sound.encode(silence))  # type: ignore[union-attr]
        for stream in (video, sound):
            container.mux(stream.encode(None))  # type: ignore[union-attr]
    return path.read_bytes()


def files(data: bytes) -> None:
    """Whatever file is given, it becomes another one, or a ReceiverError says why not."""
    source, target = folder() / "fuzzed", folder() / "out.mkv"
    source.write_bytes(data[1:])
    with contextlib.suppress(ReceiverError):
        if data[:1] == b"V":
            enhance_file(source, target, Enhancer(untrained()))
        else:
            people = People()
            album = load_album(people, source, shared_recogniser(), PEER)
            save_album(people, album.others, target, PEER)


# Frames.

FORMATS = (
    *("yuv420p", "yuvj420p", "yuv420p", "yuv420p", "gray", "yuv420p10le", "rgb24", "nv12"),
    *("yuv444p", "yuv422p", "yuva420p", "pal8", "gbrp", "yuv410p"),
)
SIDES = (0, 1, 2, 3, 15, 16, 17, 64, 97, 120, 160, 255, 256, 320, 477, 480, 640, 641, 720, 1080)
LARGE = ((3840, 2160), (7680, 4320), (4320, 7680), (7680, 1), (1, 4320))


RECIPE = 32
"""Bytes that say what a frame and its faces are like."""
WRONG = (math.nan, math.inf, -math.inf, 3e38, -1e30, 1e6)
"""Numbers that a tracker gives which lost its mind."""


def frames_seeds() -> list[bytes]:
    """Recipes of a frame and its faces, see `frames`: all that a byte can ask for is among them."""
    chance = np.random.default_rng(0)
    known = [bytes(RECIPE), bytes([0, 16, 15, 1, 0, 0, 0, 0]) + bytes(24), bytes(range(RECIPE))]
    return known + [chance.bytes(RECIPE) for _ in range(2000)]


def frames(data: bytes) -> None:
    """Whatever a frame and its faces are like, it comes out in its size and time.

    It is untouched if it is not 8-bit 4:2:0 or no face in it can be used; what is damaged, or no
    picture of a face, does not become a reference.
    """
    recipe = data.ljust(RECIPE, b"\0")
    video = _frame(recipe)
    if video is None:
        return
    enhancer = _enhancer(recipe[5] & 1 == 0)
    before, damaged = enhancer.stats.admitted["stream"], bool(recipe[17] & 1)
    if recipe[6]:
        faces = _faces(recipe, video)
        with patch.object(enhancer._tracker, "track", lambda luma: faces):
            output = enhancer.enhance(DecodedFrame(video, True, 30.0, damaged))
    else:
        faces = None
        output = enhancer.enhance(DecodedFrame(video, bool(recipe[7] & 1), None, damaged))
    shape = (video.width, video.height, video.format.name, video.pts, video.time_base)
    after = (output.width, output.height, output.format.name, output.pts, output.time_base)
    check(after == shape, f"{shape} became {after}")
    if video.format.name not in RESTORABLE or min(video.width, video.height) < 2:
        check(output is video, "a pixel format that faces are not restored in passes untouched")
    if faces is not None and recipe[18] % 8 == 7:
        check(output is video, "a frame whose faces are no faces passes untouched")
    if enhancer.stats.admitted["stream"] != before:
        check(not damaged, "what is damaged is no reference")
        _check_references(enhancer)


def _check_references(enhancer: Enhancer) -> None:
    for person in enhancer.people:
        check(
            bool(np.isfinite(person.recent[-1].appearance).all()), "a person's appearance is finite"
        )
        for keyframe in person.keyframes:
            check(bool(np.isfinite(keyframe.landmarks).all()), "a reference's points are numbers")


@cache
def _enhancer(by_quality: bool) -> Enhancer:
    """Two for all inputs: what one frame leaves behind meets the next."""
    return Enhancer(untrained(), admission="quality" if by_quality else "i-frames")


def _frame(recipe: bytes) -> av.VideoFrame | None:
    """None where PyAV itself makes no such frame."""
    width, height = (SIDES[byte % len(SIDES)] for byte in recipe[1:3])
    if recipe[0] == 255:
        width, height = LARGE[recipe[1] % len(LARGE)]
    name = FORMATS[recipe[4] % len(FORMATS)]
    try:
        video = av.VideoFrame(width, height, name)
        if recipe[3] % 2 and min(width, height) >= 2:
            video = small_portrait()[recipe[3] % 45].reformat(width, height, name)
    except (ValueError, av.FFmpegError, MemoryError):
        return None
    if not recipe[3] % 2:
        for plane in video.planes if width and height else ():
            plane.update(bytes([recipe[8]]) * plane.buffer_size)
    video.pts, video.time_base = struct.unpack_from("<i", recipe, 9)[0], Fraction(1, 90000)
    video.colorspace = (Colorspace.ITU709, Colorspace.ITU601)[recipe[13] % 2]
    video.color_range = (ColorRange.JPEG, ColorRange.MPEG)[recipe[14] % 2]
    return video


def _faces(recipe: bytes, video: av.VideoFrame) -> list[Face]:
    """Up to twenty, inside and outside, upright and not, some with their points in one place.

    As trackers give them, or one that is out of its mind would: half of the recipes have something
    wrong in some faces, an eighth in all.
    """
    chance = np.random.default_rng(list(recipe))
    found = []
    for number in range(recipe[6] % (21 if recipe[6] > 200 else 4)):
        spread = chance.choice([0.0, 0.3, 1.0, 40.0, 400.0, 1e4])
        centre = chance.normal(0.5, 0.5, 2) * (video.width, video.height)
        points = (centre + spread * chance.normal(size=(68, 2))).astype(np.float32)
        if recipe[15] & 1:
            points = np.rint(points)  # as dlib gives them
        box = np.concatenate([points.min(axis=0), points.max(axis=0)]).astype(np.float64)
        affine = crop_from_frame(points)
        if recipe[18] % 8 == 7 or (recipe[18] % 8 >= 4 and chance.random() < 0.5):
            wrong = (points, points, box, affine)[chance.integers(4)]
            wrong.flat[chance.integers(wrong.size)] = chance.choice(WRONG)
        found.append(Face(points, box, int(recipe[16] % 4 + number), affine))
    return found


TARGETS = {
    "rtp": Target(rtp, rtp_seeds, BETWEEN, "packets"),
    "decode": Target(decode, decode_seeds, BETWEEN, "pictures"),
    "losses": Target(losses, losses_seeds),
    "stills": Target(stills, stills_seeds, BETWEEN, "messages"),
    "sdp": Target(sdp, sdp_seeds, b"\r\n", "lines"),
    "fragments": Target(fragments, fragments_seeds, b"\r\n", "lines"),
    "http": Target(http, http_seeds, b"\r\n", "lines"),
    "models": Target(models, models_seeds),
    "files": Target(files, files_seeds),
    "frames": Target(frames, frames_seeds),
}
