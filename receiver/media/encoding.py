"""Encodes H.264 as a camera in a call would send it, for the demo, benches and training."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import av

from receiver.media.frame import DecodedFrame, export_side_data


@dataclass(frozen=True)
class Encoding:
    """x264 in real-time settings: no lookahead, no B-frames, no frame held back.

    Attributes:
        kbps: target bitrate in kbit/s with a one-second buffer; None for constant quality.
        crf: constant rate factor, 0 to 51; None for a target bitrate.
        keyframe_every: frames from one I-frame to the next.
        preset: x264's preset.
    """

    kbps: float | None = None
    crf: float | None = None
    keyframe_every: int = 60
    preset: str = "veryfast"

    def open(self, width: int, height: int, rate: Fraction) -> av.VideoCodecContext:
        """Returns an encoder for yuv420p frames of this size and rate, with time base 1/90000."""
        codec: av.VideoCodecContext = av.CodecContext.create("libx264", "w")
        codec.width, codec.height, codec.pix_fmt = width, height, "yuv420p"
        codec.framerate, codec.time_base = rate, Fraction(1, 90000)
        codec.gop_size = self.keyframe_every
        codec.thread_count = 1
        codec.options = {"preset": self.preset, "tune": "zerolatency", "profile": "main"}
        if self.kbps is not None:
            codec.bit_rate = round(self.kbps * 1000)
            budget = f"{self.kbps:g}k"
            codec.options = {**codec.options, "maxrate": budget, "bufsize": budget}
        else:
            codec.options = {**codec.options, "crf": f"{self.crf:g}"}
        return codec


def open_decoder() -> av.VideoCodecContext:
    """Returns an H.264 decoder that holds no frame back and exports QPs and motion vectors."""
    codec: av.VideoCodecContext = av.CodecContext.create("h264", "r")
    export_side_data(codec)
    return codec


def through_codec(
    frames: Iterable[av.VideoFrame], encoding: Encoding, rate: Fraction
) -> Iterator[tuple[av.VideoFrame, DecodedFrame, int]]:
    """Encodes and decodes yuv420p frames one by one, setting their pts.

    Yields each frame, the frame that a receiver would decode, and its encoded size in bytes.
    """
    encoder: av.VideoCodecContext | None = None
    decoder = open_decoder()
    for index, frame in enumerate(frames):
        if encoder is None:
            encoder = encoding.open(frame.width, frame.height, rate)
        frame.pts, frame.time_base = round(index * 90000 / rate), encoder.time_base
        frame.pict_type = av.video.frame.PictureType.NONE
        packets = encoder.encode(frame)
        size = sum(packet.size for packet in packets)
        for decoded in (picture for packet in packets for picture in decoder.decode(packet)):
            yield frame, replace(DecodedFrame.from_video(decoded), size_bytes=size), size
