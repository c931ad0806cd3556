"""H.264 streams for tests: from encoders, and written bit by bit for the rare cases."""

import subprocess
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import pytest
from aiortc.codecs.h264 import H264Encoder
from hypothesis import strategies as st

from receiver.media.encoding import Encoding
from receiver.transport.damage import START_CODE
from tests.conftest import RATE


def encode(frames: list[av.VideoFrame], encoding: Encoding, **options: str) -> list[bytes]:
    """Encodes frames with x264; returns one access unit a frame, in decoding order."""
    codec = encoding.open(frames[0].width, frames[0].height, RATE)
    codec.options = {**codec.options, **options}
    units = []
    for index, frame in enumerate(frames):
        frame.pts, frame.time_base = 3000 * index, Fraction(1, 90000)
        frame.pict_type = av.video.frame.PictureType.NONE
        units += [bytes(packet) for packet in codec.encode(frame)]
    return units + [bytes(packet) for packet in codec.encode(None)]


def encode_by_openh264(frames: list[av.VideoFrame], path: Path, keyframe_every: int) -> list[bytes]:
    """Encodes frames with OpenH264, as browsers do; see `encode`."""
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


def starts(unit: bytes) -> list[int]:
    """Returns the offsets of the NAL units, after their start codes."""
    found = [at for at in range(len(unit)) if unit.startswith(START_CODE, at)]
    return [at + 3 for at in found]


def ue(number: int) -> str:
    code = f"{number + 1:b}"
    return "0" * (len(code) - 1) + code


def se(number: int) -> str:
    return ue(2 * number - 1 if number > 0 else -2 * number)


def nal_unit(header: int, bits: str) -> bytes:
    """Returns a NAL unit in Annex B form, with trailing bits and emulation prevention (7.3.1)."""
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
    """Returns the bits of a scaling list: deltas until one makes the scale 0, or it is full."""
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
