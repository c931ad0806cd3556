"""Targets: RTP packets, access units and losses."""

import contextlib
from fractions import Fraction
from functools import cache
from typing import Any

import av
import numpy as np
from aiortc.codecs import depayload
from aiortc.codecs.h264 import H264Encoder
from aiortc.jitterbuffer import JitterFrame
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtp import HeaderExtensionsMap, RtpPacket

from bench.fuzz.target import (
    BETWEEN,
    SIZE,
    check,
    small_portrait,
)
from receiver.media.encoding import Encoding
from receiver.media.frame import DecodedFrame
from receiver.media.pixels import PLANAR_420
from receiver.media.planes import planes
from receiver.sending.portrait import FPS
from receiver.transport.aiortc_hooks import (
    MAX_FRAME_PIXELS,
    ObservingDecoder,
)
from receiver.transport.assembly import FORGOTTEN, MOST_MISSING, MOST_PACKETS, FrameAssembler
from receiver.transport.damage import DamageWatch

H264 = RTCRtpCodecParameters(mimeType="video/H264", clockRate=90000, payloadType=99)
STREAMS = ((100, 10, 1), (300, 12, 4), (60, 100, 1))
"""Bitrate in kbit/s, frames from IDR to IDR, and slices a frame of each stream."""
TICKS = 3000
"""Time from frame to frame in 1/90000 s."""


@cache
def streams() -> list[list[bytes]]:
    """Returns the access units of the portrait, a list a stream."""
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
    """Returns RTP packets as aiortc's sender makes them; their sequence numbers wrap around."""
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
    """Returns 1.5 seconds of each stream: packets, each after its delay in ms (one byte)."""
    extensions = HeaderExtensionsMap()
    return [
        BETWEEN.join(b"\x05" + packet.serialize(extensions) for packet in packets_of(units))
        for units in streams()
    ]


def rtp(fed: bytes) -> None:
    """Promises that packets are assembled or dropped, and that memory stays bounded."""
    assembler, watch, now = FrameAssembler(), DamageWatch(), 0.0
    extensions, came, left = HeaderExtensionsMap(), 0, 0
    for record in fed.split(BETWEEN):
        now += record[0] / 1000 if record else 0.0
        try:
            packet = RtpPacket.parse(record[1:], extensions)
            data = depayload(H264, packet.payload) if packet.payload else b""
            setattr(packet, "_data", data)  # noqa: B010  as aiortc does
        except ValueError:
            continue  # aiortc drops it as well
        came += len(data)
        assembler.add(packet, now)
        for unit in assembler.take(now):
            left += len(unit.data)
            damaged = watch.see(unit.data, unit.lost_before)
            check(
                damaged or not unit.lost_before or _has_sps(unit.data),
                "a loss marks its frame as damaged",
            )
        check(all(0 <= one < 65536 for one in assembler.to_ask_for(now)), "NACKs name packets")
        check(len(assembler._packets) <= MOST_PACKETS, "waiting packets are bounded")
        check(len(assembler._missing) <= MOST_MISSING, "missing packets are bounded")
        check(len(assembler._given_up) <= FORGOTTEN, "abandoned packets are bounded")
    check(left <= came, "no byte is delivered twice")


def _has_sps(data: bytes) -> bool:
    return any(b"\0\0\1" + bytes([header]) in data for header in (0x07, 0x27, 0x47, 0x67))


def decode_seeds() -> list[bytes]:
    """Returns the first access units of each stream."""
    return [BETWEEN.join(units[:24]) for units in streams()]


def decode(data: bytes) -> None:
    """Promises that frames after a complete IDR are exact or marked, whatever precedes it."""
    decoder = ObservingDecoder()
    frames: list[Any] = []
    units = [*data.split(BETWEEN), *streams()[0][:5]]
    for index, unit in enumerate(units):
        with contextlib.suppress(av.FFmpegError):
            frames += decoder.decode(JitterFrame(unit, TICKS * (index + 1000)))
    first = len(units) - 5 + 1000
    for frame in frames:
        decoded = DecodedFrame.from_video(frame)
        check(frame.width * frame.height <= MAX_FRAME_PIXELS, "frames are bounded")
        check(decoded.qp is None or -64 <= decoded.qp <= 64, f"QP {decoded.qp}")
        check(
            decoded.qp_within(np.array([0.0, 0.0, 9e9, 9e9])) is None or decoded.qp is not None,
            "QP",
        )
        _ = decoded.motion_vectors
        number = (frame.pts or 0) // TICKS - first
        if number >= 0:
            same = same_pixels(frame, lossless()[0][number])
            check(decoded.damaged or same, f"frame {number} after an IDR is wrong and not marked")


@cache
def lossless() -> list[list[av.VideoFrame]]:
    """Returns the decoded frames of each stream without losses."""
    decoded = []
    for units in streams():
        decoder: Any = ObservingDecoder()
        frames = [JitterFrame(unit, TICKS * index) for index, unit in enumerate(units)]
        decoded.append([picture for frame in frames for picture in decoder.decode(frame)])
    return decoded


@cache
def packets() -> list[list[RtpPacket]]:
    """Returns the depayloaded packets of each stream."""
    made = [packets_of(units) for units in streams()]
    for packet in (packet for stream in made for packet in stream):
        setattr(packet, "_data", depayload(H264, packet.payload))  # noqa: B010
    return made


def losses_seeds() -> list[bytes]:
    """Returns inputs of a byte for the stream and one for the fate of each of its packets."""
    return [bytes([number]) + bytes(len(stream)) for number, stream in enumerate(packets())]


def losses(data: bytes) -> None:
    """Promises that a frame which differs is marked, if packets are lost, late or doubled."""
    number = data[0] % len(STREAMS) if data else 0
    assembler = FrameAssembler()
    decoder: Any = ObservingDecoder()
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
                check(
                    same or not whole,
                    f"frame {(picture.pts or 0) // TICKS} differs and is not marked",
                )


def arrivals(sent: list[RtpPacket], fates: bytes) -> list[tuple[float, RtpPacket]]:
    """Returns packets by arrival, in units of a packet: on time, late, twice or never."""
    came: list[tuple[float, RtpPacket]] = []
    for index, packet in enumerate(sent):
        fate = fates[index] if index < len(fates) else 0
        if not 160 <= fate < 200:
            came.append((index + (0 if fate < 200 else (fate - 199) / 2), packet))
        if 120 <= fate < 160:
            came.append((index + (fate - 119) * 2.5, packet))
    return sorted(came, key=lambda one: one[0])


def same_pixels(a: av.VideoFrame, b: av.VideoFrame) -> bool:
    """Returns whether the pixels of two 4:2:0 frames are equal.

    Ignores the colour range: FFmpeg may keep that of an older frame.
    """
    if (a.width, a.height) != (b.width, b.height) or a.format.name not in PLANAR_420:
        return False
    return all(np.array_equal(*pair) for pair in zip(planes(a), planes(b), strict=True))
