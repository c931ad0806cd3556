"""Which pictures are damaged: from lost packets, and from frame_num alone."""

import random
import subprocess
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import pytest
from aiortc.codecs import depayload
from aiortc.codecs.h264 import H264Encoder
from aiortc.jitterbuffer import JitterBuffer, JitterFrame
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtp import RtpPacket
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.calls.track import arrival_time
from receiver.media.encoding import Encoding
from receiver.media.frame import Arrival, DecodedFrame
from receiver.transport.aiortc_hooks import ObservingDecoder, ObservingJitterBuffer
from receiver.transport.damage import START_CODE, DamageWatch, SequenceParameters
from tests.conftest import RATE, plain_frame, same_pixels

H264 = RTCRtpCodecParameters(mimeType="video/H264", clockRate=90000, payloadType=99)
PROFILES = ["baseline", "main", "high"]


def encode(frames: list[av.VideoFrame], encoding: Encoding, **options: str) -> list[bytes]:
    """One access unit a frame, in decoding order."""
    codec = encoding.open(frames[0].width, frames[0].height, RATE)
    codec.options = {**codec.options, **options}
    units = []
    for index, frame in enumerate(frames):
        frame.pts, frame.time_base = 3000 * index, Fraction(1, 90000)
        frame.pict_type = av.video.frame.PictureType.NONE
        units += [bytes(packet) for packet in codec.encode(frame)]
    return units + [bytes(packet) for packet in codec.encode(None)]


def encode_by_openh264(frames: list[av.VideoFrame], path: Path, keyframe_every: int) -> list[bytes]:
    """As `encode`, by the encoder that browsers use."""
    ffmpeg = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    path.write_bytes(b"".join(frame.to_ndarray(format="yuv420p").tobytes() for frame in frames))
    source = f"-f rawvideo -pix_fmt yuv420p -s {frames[0].width}x{frames[0].height} -r {RATE}"
    codec = f"-c:v libopenh264 -rc_mode bitrate -b:v 200000 -g {keyframe_every}"
    line = f"-loglevel error {source} -i {path} {codec} -profile:v constrained_baseline -f h264 -"
    stream = subprocess.run([ffmpeg, *line.split()], stdout=subprocess.PIPE, check=True).stdout
    parser = av.CodecContext.create("h264", "r")
    return [bytes(packet) for part in (stream, None) for packet in parser.parse(part)]


def is_idr(unit: bytes) -> bool:
    return 5 in nal_types(unit)


def nal_types(unit: bytes) -> list[int]:
    return [nal[0] & 0x1F for nal in H264Encoder._split_bitstream(unit)]


def watched(units: list[bytes], dropped: set[int] = frozenset(), told: bool = False) -> list[bool]:
    """What a watch says of each unit that came; `told` lets it know of the losses."""
    watch, lost, result = DamageWatch(), False, []
    for index, unit in enumerate(units):
        if index in dropped:
            lost = told
        else:
            result.append(watch.see(unit, lost))
            lost = False
    return result


def expected(units: list[bytes], dropped: set[int]) -> list[bool]:
    """Damaged from each loss to the next IDR."""
    damaged, result = False, []
    for index, unit in enumerate(units):
        if index in dropped:
            damaged = True
        else:
            damaged = damaged and not is_idr(unit)
            result.append(damaged)
    return result


@pytest.fixture(scope="module", params=[*PROFILES, "openh264", "openh264 with IDRs"])
def units(request, portrait, tmp_path_factory) -> list[bytes]:
    """Three seconds by each encoder."""
    if request.param.startswith("openh264"):
        path = tmp_path_factory.mktemp("raw") / "frames.yuv"
        return encode_by_openh264(portrait, path, 30 if "IDRs" in request.param else 1000)
    return encode(portrait, Encoding(kbps=100, keyframe_every=30), profile=request.param)


def test_nothing_is_damaged_where_nothing_is_lost(units, portrait):
    assert len(units) == len(portrait)
    assert sum(is_idr(unit) for unit in units) in (1, 3)
    assert watched(units) == [False] * len(units)


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("dropped", [{1}, {7}, {29}, {30}, {40, 41, 42}, {5, 50}, {0}])
def test_a_lost_frame_is_damage_until_the_next_idr(units, dropped, told):
    assert watched(units, dropped, told) == expected(units, dropped)


def test_a_lost_stretch_that_frame_num_cannot_see_is_told(portrait):
    units = encode(portrait, Encoding(kbps=100, keyframe_every=30))
    dropped = set(range(10, 40))  # one IDR to the next: frame 40 has the frame_num of frame 10
    assert watched(units, dropped, told=True) == expected(units, dropped)
    assert not any(watched(units, dropped))


def test_only_reference_pictures_are_missed(portrait):
    options = {"tune": "film", "bf": "2", "profile": "main", "x264-params": "b-pyramid=none"}
    units = encode(portrait, Encoding(kbps=100, keyframe_every=30), **options)
    references = [max(nal[0] >> 5 & 3 for nal in H264Encoder._split_bitstream(u)) for u in units]
    idrs = [index for index, unit in enumerate(units) if is_idr(unit)]
    assert 0 in references
    assert watched(units) == [False] * len(units)
    for index, is_reference in enumerate(references[: idrs[1] - 3]):
        dropped = {index}
        assert (
            watched(units, dropped)
            == expected(units, dropped if is_reference else set())[: len(units) - 1]
        )


def test_a_pyramid_of_b_frames_is_whole(portrait):
    options = {"tune": "film", "bf": "3", "x264-params": "b-pyramid=normal"}
    units = encode(portrait, Encoding(kbps=100, keyframe_every=30), **options)
    assert watched(units) == [False] * len(units)


def test_a_picture_without_its_first_slice_is_damaged(portrait):
    encoding = Encoding(kbps=100, keyframe_every=10)
    units = encode(portrait[:30], encoding, **{"x264-params": "slices=4"})
    first, second, *_ = (at for at in starts(units[10]) if units[10][at] & 0x1F == 5)
    no_beginning = units[10][: first - 3] + units[10][second - 3 :]
    broken = [*units[:10], no_beginning, *units[11:]]
    assert watched(broken) == [10 <= index < 20 for index in range(30)]
    broken = [*units[:5], units[5][starts(units[5])[1] - 3 :], *units[6:]]
    assert watched(broken) == [5 <= index < 10 for index in range(30)]


def starts(unit: bytes) -> list[int]:
    """Where its NAL units begin, after their start codes."""
    found = [at for at in range(len(unit)) if unit.startswith(START_CODE, at)]
    return [at + 3 for at in found]


def test_an_idr_after_a_loss_is_trusted_only_with_its_parameter_sets(portrait):
    units = encode(portrait[:20], Encoding(kbps=100, keyframe_every=10))
    bare = units[10][next(at for at in starts(units[10]) if units[10][at] & 0x1F == 5) - 3 :]
    watch = DamageWatch()
    assert [watch.see(unit, False) for unit in units[:10]] == [False] * 10
    assert watch.see(bare, lost_before=True)
    assert watch.see(units[11], False)
    assert not watch.see(bare, lost_before=False)
    assert not watch.see(units[11], False)
    assert not watch.see(units[10], lost_before=True)


def test_a_stream_joined_in_its_middle_is_damaged_until_an_idr(portrait):
    units = encode(portrait[:20], Encoding(kbps=100, keyframe_every=10))
    assert watched(units[3:]) == [index < 10 for index in range(3, 20)]


def test_what_is_no_picture_changes_nothing_and_keeps_a_loss(portrait):
    units = encode(portrait[:20], Encoding(kbps=100, keyframe_every=10))
    delimiter = b"\0\0\0\1\x09\xf0"
    watch = DamageWatch()
    assert not watch.see(units[0], False)
    assert not watch.see(delimiter, False)
    assert not watch.see(b"", False)
    assert not watch.see(delimiter + units[1], False)
    assert watch.see(delimiter, lost_before=True)
    assert watch.see(units[2], False)
    assert not watch.see(units[10], False)


# Written bit by bit, for what no encoder at hand writes.


def ue(number: int) -> str:
    code = f"{number + 1:b}"
    return "0" * (len(code) - 1) + code


def se(number: int) -> str:
    return ue(2 * number - 1 if number > 0 else -2 * number)


def nal_unit(header: int, bits: str) -> bytes:
    """Annex B, with trailing bits and emulation prevention (7.3.1)."""
    bits += "1"
    bits += "0" * (-len(bits) % 8)
    payload, zeros = bytearray(), 0
    for byte in int(bits, 2).to_bytes(len(bits) // 8, "big"):
        if zeros >= 2 and byte <= 3:
            payload.append(3)
            zeros = 0
        payload.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return b"\0\0\0\1" + bytes([header]) + bytes(payload)


@dataclass(frozen=True)
class Stream:
    """The parameters of a hand-written stream."""

    profile: int = 66
    chroma: int = 1
    separate: bool = False
    scaling: tuple[tuple[int, ...] | None, ...] | None = None
    order_type: int = 2
    frame_num_bits: int = 4
    gaps: bool = False
    frames_only: bool = True
    level: int = 31

    def sps(self) -> bytes:
        bits = f"{self.profile:08b}" + "0" * 8 + f"{self.level:08b}" + ue(0)
        if self.profile in (100, 110, 122, 244):
            bits += ue(self.chroma) + (str(int(self.separate)) if self.chroma == 3 else "")
            bits += ue(0) + ue(0) + "0" + str(int(self.scaling is not None))
            count = 12 if self.chroma == 3 else 8
            for index, deltas in enumerate((self.scaling or ())[:count]):
                bits += "0" if deltas is None else "1" + scaling_list(deltas, index)
        bits += ue(self.frame_num_bits - 4) + ue(self.order_type)
        bits += {0: ue(4), 1: "0" + se(-3) + se(70) + ue(2) + se(1) + se(-1), 2: ""}[
            self.order_type
        ]
        bits += ue(1) + str(int(self.gaps)) + ue(39) + ue(29) + str(int(self.frames_only))
        return nal_unit(0x67, bits + ("" if self.frames_only else "0") + "1" + "0" + "0")

    def slice(self, frame_num: int, *, kind: int = 1, ref: int = 3, first_mb=0, field="") -> bytes:
        bits = ue(first_mb) + ue(7 if kind == 5 else 5) + ue(0)
        bits += "00" if self.separate and self.profile == 244 else ""
        bits += f"{frame_num % (1 << self.frame_num_bits):0{self.frame_num_bits}b}"
        bits += "" if self.frames_only else (field or "0")
        return nal_unit(ref << 5 | kind, bits + "1011" * 40)

    def idr(self) -> bytes:
        return self.sps() + self.slice(0, kind=5)


def scaling_list(deltas: tuple[int, ...], index: int) -> str:
    """Deltas until one makes the scale 0, or the list is full."""
    bits, scale = "", 8
    for place in range(16 if index < 6 else 64):
        delta = deltas[place] if place < len(deltas) else 0
        bits += se(delta)
        scale = (scale + delta) % 256
        if scale == 0:
            break
    return bits


SCALING = st.lists(
    st.none() | st.lists(st.integers(-20, 20), max_size=64).map(tuple), min_size=12, max_size=12
).map(tuple)
STREAMS = st.builds(
    Stream,
    profile=st.sampled_from([66, 77, 88, 100, 110, 122, 244]),
    chroma=st.sampled_from([1, 3]),
    scaling=st.none() | SCALING,
    separate=st.booleans(),
    order_type=st.sampled_from([0, 1, 2]),
    frame_num_bits=st.integers(4, 16),
    gaps=st.booleans(),
    frames_only=st.booleans(),
    level=st.sampled_from([0, 31]),
).filter(lambda stream: not stream.separate or (stream.profile, stream.chroma) == (244, 3))


@given(stream=STREAMS)
def test_any_sps_is_read(stream):
    parameters = SequenceParameters.parse(stream.sps()[5:])
    assert parameters.frame_num_bits == stream.frame_num_bits
    assert parameters.gaps_allowed == stream.gaps
    assert parameters.separate_planes == stream.separate
    assert parameters.frames_only == stream.frames_only


@given(
    stream=STREAMS,
    references=st.lists(st.booleans(), min_size=1, max_size=60),
    lost=st.integers(0, 60),
)
def test_frame_num_is_judged_by_the_standards_rules(stream, references, lost):
    """Each picture's frame_num is one more than the last reference picture's."""
    units, frame_num = [stream.idr()], 0
    for is_reference in references:
        units.append(stream.slice(frame_num + 1, ref=3 * is_reference))
        frame_num += is_reference
    assert watched(units) == [False] * len(units)
    if 0 < lost < len(units):
        known = references[lost - 1] and not stream.gaps
        assert watched(units, {lost}) == [
            known and index >= lost for index in range(len(units) - 1)
        ]
        assert watched(units, {lost}, told=True) == [
            index >= lost for index in range(len(units) - 1)
        ]


def test_the_two_fields_of_a_picture_share_a_frame_num():
    stream = Stream(profile=77, frames_only=False)
    units = [stream.idr()]
    for number in range(1, 40):
        units += [stream.slice(number, field="10"), stream.slice(number, field="11")]
    assert watched(units) == [False] * len(units)
    assert watched(units, {9, 10}) == [index >= 9 for index in range(len(units) - 2)]


@given(data=st.binary(max_size=200), lost_before=st.booleans())
def test_random_bytes_are_damage_and_never_raise(data, lost_before):
    watch = DamageWatch()
    watch.see(data, lost_before)
    assert not watch.see(Stream().idr(), False)
    assert watch.see(b"\xff" + data, lost_before)
    assert not watch.see(Stream().idr(), False)


@given(
    start=st.sampled_from([b"\0\0\1", b"\0\0\0\1"]),
    header=st.integers(0, 255),
    data=st.binary(max_size=300),
)
def test_random_nal_units_never_raise(start, header, data):
    watch = DamageWatch()
    for unit in (Stream().idr(), start + bytes([header]) + data, Stream().slice(1)):
        watch.see(unit, False)
    assert not watch.see(Stream().idr(), False)


@given(stream=STREAMS)
def test_a_header_that_is_cut_off_is_damage(stream):
    for unit, whole in [(stream.slice(1), 5), (stream.sps(), 8)]:
        for cut in range(5, whole):
            watch = DamageWatch()
            watch.see(stream.idr(), False)
            assert watch.see(unit[:cut], False)


def test_an_order_count_without_an_end_costs_no_time():
    """Each byte of it would be eight numbers to read, however many are announced."""
    bits = f"{66:08b}" + "0" * 8 + f"{31:08b}" + ue(0) + ue(0) + ue(1) + "0" + se(0) + se(0)
    with pytest.raises(ValueError, match="above 255"):
        SequenceParameters.parse(nal_unit(0x67, bits + ue(256) + "1" * 8000)[5:])
    assert SequenceParameters.parse(
        nal_unit(0x67, bits + ue(255) + ue(0) * 255 + ue(1) + "0" + ue(3) + ue(3) + "1")[5:]
    ).frames_only


# The whole way: RTP packets with losses, the jitter buffer, the decoder.


def packets_of(units: list[bytes], first: int = 65500) -> list[RtpPacket]:
    """RTP packets as aiortc's sender makes them; sequence numbers come round."""
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
    """What aiortc's receiver would do with these packets."""
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
    """A stream as it was sent, and what comes of it where nothing is lost."""

    packets: list[RtpPacket]
    pictures: dict[int, av.VideoFrame]


@pytest.fixture(scope="module")
def sent(portrait) -> list[Sent]:
    """60 frames in one slice and in four, few and many packets a frame, with and without IDRs."""
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
    """No picture that differs is called whole; returns how many differ, and how many are marked."""
    differing = marked = 0
    for picture in receive(packets, capacity):
        frame = DecodedFrame.from_video(picture)
        differs = not same_pixels(picture, stream.pictures[picture.pts])
        assert frame.damaged or not differs, f"frame {picture.pts // 3000} is called whole"
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
def test_no_ruined_picture_is_called_whole(sent, data, losses, capacity):
    stream = data.draw(st.sampled_from(sent))
    came = [packet for index, packet in enumerate(stream.packets) if index not in losses]
    check(stream, came, capacity)


@settings(max_examples=30)
@given(data=st.data(), seed=st.integers(0, 10**6), rate=st.sampled_from([0.0, 0.01, 0.05, 0.2]))
def test_nor_where_packets_come_late_or_twice(sent, data, seed, rate):
    stream, chance = data.draw(st.sampled_from(sent)), random.Random(seed)
    came = []
    for index, packet in enumerate(stream.packets):
        if chance.random() >= rate:
            late = chance.choice([0, 0, 0, 0, 1.5, 3.5, 30, 150])
            came.append((index + (late if chance.random() < 0.1 else 0), index, packet))
            if chance.random() < 0.02:
                came.append((index + 2, index, packet))
    check(stream, [packet for *_, packet in sorted(came, key=lambda one: one[:2])], 32)


def test_a_lost_packet_ruins_pictures_that_are_marked_until_the_next_idr(sent):
    stream = sent[1]
    lost = next(i for i, p in enumerate(stream.packets) if p.timestamp == 20 * 3000)
    came = [packet for index, packet in enumerate(stream.packets) if index != lost]
    pictures = [DecodedFrame.from_video(picture) for picture in receive(came, 32)]
    marked = {frame.video.pts // 3000 for frame in pictures if frame.damaged}
    differing, count = check(stream, came, 32)
    assert 0 < differing <= count
    assert min(marked) > 20
    assert max(marked) == 29


# The jitter buffer alone.


def numbered(*numbers: int, per_frame: int = 2) -> list[RtpPacket]:
    """Packets by their place in the stream, two a frame; the data are the place."""
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


def test_frames_in_a_row_follow_no_loss():
    frames = released(numbered(*range(21)))
    assert frames == [(f"{2 * i} {2 * i + 1} ", False) for i in range(10)]


def test_packets_out_of_order_are_no_loss():
    frames = released(numbered(0, 1, 3, 2, 5, 6, 4, 7, 8))
    assert [lost for _, lost in frames] == [False] * len(frames)


def test_the_frame_after_a_hole_is_marked_and_it_alone():
    frames = released(numbered(*[i for i in range(60) if i not in (7, 8)]))
    assert [lost for _, lost in frames].count(True) == 1
    assert frames[:3] == [("0 1 ", False), ("2 3 ", False), ("4 5 ", False)]
    assert frames[3][1]


def test_the_frame_after_a_restart_is_marked():
    frames = released(numbered(*range(1000, 1011), *range(11)))
    assert [lost for _, lost in frames] == [False] * 5 + [True] + [False] * 4


def test_sound_goes_through_as_before():
    buffers = JitterBuffer(16, prefetch=4), ObservingJitterBuffer(16, prefetch=4)
    for packet in numbered(*[i for i in range(100) if i % 9], per_frame=1):
        (pli, frame), (our_pli, our_frame) = (buffer.add(packet) for buffer in buffers)
        assert (pli, frame and frame.data) == (our_pli, our_frame and our_frame.data)


# The decoder alone.


def test_a_frame_tells_of_its_damage_and_its_arrival(portrait):
    units = encode(portrait[:20], Encoding(kbps=100, keyframe_every=10))
    decoder, told = ObservingDecoder(), []
    for index, unit in enumerate(units):
        frame = JitterFrame(unit, 3000 * index)  # of aiortc's own jitter buffer
        told += decoder.decode(frame) if index != 4 else []
    assert [DecodedFrame.from_video(video).damaged for video in told] == [
        4 < index < 10 for index in range(20) if index != 4
    ]
    arrivals = [video.opaque for video in told]
    assert all(isinstance(arrival, Arrival) for arrival in arrivals)
    assert arrivals[0].seconds < arrivals[-1].seconds


def test_padding_neither_ends_the_stream_nor_hides_a_loss(portrait):
    units = encode(portrait[:3], Encoding(kbps=100))
    decoder, padding = ObservingDecoder(), JitterFrame(b"", 1)
    padding.lost_before = True
    (first,) = decoder.decode(JitterFrame(units[0], 0))
    assert decoder.decode(padding) == []
    (second,) = decoder.decode(JitterFrame(units[1], 3000))
    assert (first.opaque.damaged, second.opaque.damaged) == (False, True)


def test_a_picture_that_the_decoder_refused_is_a_loss(portrait):
    units = encode(portrait[:3], Encoding(kbps=100))
    decoder = ObservingDecoder()
    decoder.decode(JitterFrame(units[0], 0))
    idr_of_no_pps = nal_unit(0x65, ue(0) + ue(7) + ue(200) + "0" * 80)
    with pytest.raises(av.FFmpegError):
        decoder.decode(JitterFrame(idr_of_no_pps, 3000))
    (after,) = decoder.decode(JitterFrame(units[1], 6000))
    assert after.opaque.damaged


def test_parameter_sets_alone_are_refused_but_no_loss(portrait):
    units = encode(portrait[:3], Encoding(kbps=100))
    idr = next(at for at in starts(units[0]) if units[0][at] & 0x1F == 5) - 3
    decoder = ObservingDecoder()
    with pytest.raises(av.FFmpegError):
        decoder.decode(JitterFrame(units[0][:idr], 0))
    (picture,) = decoder.decode(JitterFrame(units[0][idr:], 3000))
    assert not picture.opaque.damaged


def test_a_picture_of_any_size_that_h264_can_tell_does_not_fill_the_memory():
    """16000x16000 pixels in forty bytes."""
    for side, fits in ((40, True), (192, True), (193, False), (1000, False)):
        bits = f"{66:08b}" + "0" * 8 + f"{51:08b}" + ue(0) + ue(0) + ue(2) + ue(1) + "0"
        sps = nal_unit(0x67, bits + ue(side - 1) + ue(side - 1) + "1" + "1" + "0" + "0")
        pps = nal_unit(0x68, ue(0) + ue(0) + "00" + ue(0) * 3 + "000" + se(0) * 3 + "000")
        idr = nal_unit(0x65, ue(0) + ue(7) + ue(0) + "0000" + ue(0) + "00" + se(0) + "1011" * 40)
        decoder = ObservingDecoder()
        if fits:
            (picture,) = decoder.decode(JitterFrame(sps + pps + idr, 0))
            assert (picture.width, picture.height) == (16 * side, 16 * side)
        else:
            with pytest.raises(av.FFmpegError):
                decoder.decode(JitterFrame(sps + pps + idr, 0))


def test_a_foreign_opaque_is_no_arrival():
    frame = plain_frame(64, 48)
    for opaque in (None, 1.5, {"size": 3}, Arrival(2.5, damaged=True)):
        frame.opaque = opaque
        assert DecodedFrame.from_video(frame).damaged == isinstance(opaque, Arrival)
        before = time.perf_counter()
        arrived = arrival_time(frame)
        assert arrived == 2.5 if isinstance(opaque, Arrival) else arrived >= before
