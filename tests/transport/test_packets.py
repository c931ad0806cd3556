"""Damage from lost packets: RTP packets, the jitter buffer and the decoder together."""

import random
from dataclasses import dataclass

import av
import pytest
from aiortc.codecs import depayload
from aiortc.codecs.h264 import H264Encoder
from aiortc.jitterbuffer import JitterBuffer
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtp import RtpPacket
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.media.encoding import Encoding
from receiver.media.frame import DecodedFrame
from receiver.transport.aiortc_hooks import ObservingDecoder, ObservingJitterBuffer
from tests.conftest import same_pixels
from tests.transport.streams import (
    encode,
)

H264 = RTCRtpCodecParameters(mimeType="video/H264", clockRate=90000, payloadType=99)


def packets_of(units: list[bytes], first: int = 65500) -> list[RtpPacket]:
    """Returns RTP packets as aiortc's sender makes them; sequence numbers wrap."""
    packets = []
    for index, unit in enumerate(units):
        payloads = H264Encoder._packetize(H264Encoder._split_bitstream(unit))
        for number, payload in enumerate(payloads):
            packet = RtpPacket(
                payload_type=99,
                marker=int(number == len(payloads) - 1),
                sequence_number=(first + len(packets)) % 65536,
                timestamp=3000 * index,
                payload=payload,
            )
            packet._data = depayload(H264, payload)
            packets.append(packet)
    # The jitter buffer releases a frame only when the next one begins.
    end = (first + len(packets)) % 65536
    packets.append(RtpPacket(sequence_number=end, timestamp=3000 * len(units)))
    packets[-1]._data = b""
    return packets


def receive(packets: list[RtpPacket], capacity: int) -> list[av.VideoFrame]:
    """Decodes packets as aiortc's receiver does."""
    buffer = ObservingJitterBuffer(capacity=capacity, is_video=True)
    decoder, pictures = ObservingDecoder(), []
    for packet in packets:
        _, frame = buffer.add(packet)
        if frame is not None:
            try:
                pictures += decoder.decode(frame)
            except av.FFmpegError:
                continue
    return pictures


@dataclass(frozen=True)
class Sent:
    """A stream as it was sent, and its frames without a loss, by pts."""

    packets: list[RtpPacket]
    pictures: dict[int, av.VideoFrame]


@pytest.fixture(scope="module")
def sent(portrait) -> list[Sent]:
    """Streams of 60 frames: one slice or four, few or many packets, with or without IDRs."""
    result = []
    for kbps, every, slices in [(100, 10, 1), (600, 15, 1), (600, 12, 4), (300, 100, 1)]:
        options = {"x264-params": f"slices={slices}"}
        packets = packets_of(encode(portrait[:60], Encoding(kbps, None, every), **options))
        pictures = receive(packets, 512)
        assert [picture.pts for picture in pictures] == [3000 * index for index in range(60)]
        assert not any(DecodedFrame.from_video(picture).damaged for picture in pictures)
        result.append(Sent(packets, {picture.pts: picture for picture in pictures}))
    return result


def check(stream: Sent, packets: list[RtpPacket], capacity: int) -> tuple[int, int]:
    """Checks that frames that differ are marked; counts the differing and the marked ones."""
    differing = marked = 0
    for picture in receive(packets, capacity):
        frame = DecodedFrame.from_video(picture)
        differs = not same_pixels(picture, stream.pictures[picture.pts])
        assert frame.damaged or not differs, f"frame {picture.pts // 3000} is not marked"
        differing += differs
        marked += frame.damaged
    return differing, marked


LOSSES = st.one_of(
    st.sets(st.integers(0, 400), max_size=8),
    st.builds(
        lambda at, length: set(range(at, at + length)), st.integers(0, 200), st.integers(1, 80)
    ),
)


@settings(max_examples=60)
@given(data=st.data(), losses=LOSSES, capacity=st.sampled_from([16, 32, 64]))
def test_every_frame_that_differs_is_marked(sent, data, losses, capacity):
    stream = data.draw(st.sampled_from(sent))
    came = [packet for index, packet in enumerate(stream.packets) if index not in losses]
    check(stream, came, capacity)


@settings(max_examples=30)
@given(data=st.data(), seed=st.integers(0, 10**6), rate=st.sampled_from([0.0, 0.01, 0.05, 0.2]))
def test_every_frame_that_differs_is_marked_with_late_and_doubled_packets(sent, data, seed, rate):
    stream, chance = data.draw(st.sampled_from(sent)), random.Random(seed)
    came = []
    for index, packet in enumerate(stream.packets):
        if chance.random() >= rate:
            late = chance.choice([0, 0, 0, 0, 1.5, 3.5, 30, 150])
            came.append((index + (late if chance.random() < 0.1 else 0), index, packet))
            if chance.random() < 0.02:
                came.append((index + 2, index, packet))
    check(stream, [packet for *_, packet in sorted(came, key=lambda one: one[:2])], 32)


def test_frames_are_marked_from_a_lost_packet_to_the_next_idr(sent):
    stream = sent[1]
    lost = next(i for i, p in enumerate(stream.packets) if p.timestamp == 20 * 3000)
    came = [packet for index, packet in enumerate(stream.packets) if index != lost]
    pictures = [DecodedFrame.from_video(picture) for picture in receive(came, 32)]
    marked = {frame.video.pts // 3000 for frame in pictures if frame.damaged}
    differing, count = check(stream, came, 32)
    assert 0 < differing <= count
    assert min(marked) > 20
    assert max(marked) == 29


def numbered(*numbers: int, per_frame: int = 2) -> list[RtpPacket]:
    """Returns packets by their number in the stream, which is also their data; two a frame."""
    packets = []
    for number in numbers:
        timestamp = number // per_frame * 3000
        packet = RtpPacket(sequence_number=(65530 + number) % 65536, timestamp=timestamp)
        packet._data = f"{number} ".encode()
        packets.append(packet)
    return packets


def released(packets: list[RtpPacket], capacity: int = 16) -> list[tuple[str, bool]]:
    buffer = ObservingJitterBuffer(capacity=capacity, is_video=True)
    frames = [buffer.add(packet)[1] for packet in packets]
    return [(frame.data.decode(), frame.lost_before) for frame in frames if frame is not None]


def test_frames_in_order_follow_no_loss():
    frames = released(numbered(*range(21)))
    assert frames == [(f"{2 * i} {2 * i + 1} ", False) for i in range(10)]


def test_packets_out_of_order_are_no_loss():
    frames = released(numbered(0, 1, 3, 2, 5, 6, 4, 7, 8))
    assert [lost for _, lost in frames] == [False] * len(frames)


def test_only_the_frame_after_a_hole_is_marked():
    frames = released(numbered(*[i for i in range(60) if i not in (7, 8)]))
    assert [lost for _, lost in frames].count(True) == 1
    assert frames[:3] == [("0 1 ", False), ("2 3 ", False), ("4 5 ", False)]
    assert frames[3][1]


def test_the_frame_after_a_restart_of_the_stream_is_marked():
    frames = released(numbered(*range(1000, 1011), *range(11)))
    assert [lost for _, lost in frames] == [False] * 5 + [True] + [False] * 4


def test_sound_passes_through_as_in_aiortc():
    buffers = JitterBuffer(16, prefetch=4), ObservingJitterBuffer(16, prefetch=4)
    for packet in numbered(*[i for i in range(100) if i % 9], per_frame=1):
        (pli, frame), (our_pli, our_frame) = (buffer.add(packet) for buffer in buffers)
        assert (pli, frame and frame.data) == (our_pli, our_frame and our_frame.data)
