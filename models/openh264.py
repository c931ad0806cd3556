"""Encodes H.264 as a browser in a call does: OpenH264 in real-time settings, with a single IDR.

PyAV's wheel lacks OpenH264; the ffmpeg binary of imageio-ffmpeg includes it.
"""

import subprocess
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain

import av

from receiver.media.encoding import Encoding, open_decoder, through_codec
from receiver.media.frame import DecodedFrame

NO_KEYFRAME = 100_000
"""A GOP longer than any clip: browsers send an I-frame only on request."""
READ_BYTES = 1 << 16
"""Largest read from the encoder."""


@dataclass(frozen=True)
class OpenH264:
    """Settings of OpenH264 as Chromium uses it, constrained baseline.

    Attributes:
        kbps: target bitrate in kbit/s.
    """

    kbps: float


def through_any_codec(
    frames: Iterable[av.VideoFrame], encoding: Encoding | OpenH264, rate: Fraction
) -> Iterator[tuple[av.VideoFrame, DecodedFrame, int]]:
    """Encodes and decodes frames with either encoder, as `media.encoding.through_codec` does."""
    if isinstance(encoding, Encoding):
        return through_codec(frames, encoding, rate)
    return _through_openh264(frames, encoding.kbps, rate)


def _through_openh264(
    frames: Iterable[av.VideoFrame], kbps: float, rate: Fraction
) -> Iterator[tuple[av.VideoFrame, DecodedFrame, int]]:
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        return
    command = _command(first.width, first.height, kbps, rate)
    sent: deque[av.VideoFrame] = deque()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as encoder:
        writer = threading.Thread(target=_write, args=(encoder, chain([first], frames), sent))
        writer.start()
        try:
            decoder = open_decoder()
            for index, packet in enumerate(_packets(encoder)):
                for decoded in decoder.decode(packet):
                    raw = sent.popleft()
                    raw.pts, raw.time_base = round(index * 90000 / rate), Fraction(1, 90000)
                    frame = DecodedFrame.from_video(decoded)
                    yield raw, replace(frame, size_bytes=packet.size), packet.size
        finally:
            encoder.kill()
            writer.join()


def _command(width: int, height: int, kbps: float, rate: Fraction) -> list[str]:
    source = f"-f rawvideo -pix_fmt yuv420p -s {width}x{height} -r {rate} -i -"
    codec = f"-c:v libopenh264 -rc_mode bitrate -b:v {round(kbps * 1000)} -g {NO_KEYFRAME}"
    profile = "-profile:v constrained_baseline -coder cavlc -slices 1 -qmin 10 -qmax 51"
    line = f"-hide_banner -loglevel error {source} {codec} {profile} -f h264 -"
    import imageio_ffmpeg  # an extra: only this encoder needs it

    return [imageio_ffmpeg.get_ffmpeg_exe(), *line.split()]


def _write(
    encoder: "subprocess.Popen[bytes]", frames: Iterable[av.VideoFrame], sent: deque[av.VideoFrame]
) -> None:
    assert encoder.stdin is not None
    try:
        with encoder.stdin as pipe:
            for frame in frames:
                sent.append(frame)
                pipe.write(frame.to_ndarray(format="yuv420p").tobytes())
    except BrokenPipeError:
        pass  # the reader stopped early


def _packets(encoder: "subprocess.Popen[bytes]") -> Iterator["av.Packet[av.VideoStream]"]:
    """Splits the encoder's byte stream into one packet per frame."""
    assert encoder.stdout is not None
    parser = av.CodecContext.create("h264", "r")
    while data := encoder.stdout.read1(READ_BYTES):  # type: ignore[attr-defined]
        yield from parser.parse(data)
    yield from parser.parse(None)
