"""Pixel formats: how H.264 files store them, and their planes as arrays."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

Samples: TypeAlias = NDArray[Any]
"""HxW, uint8 or uint16: one plane of a frame."""

PLANAR_420 = ("yuv420p", "yuvj420p")
"""The 8-bit 4:2:0 pixel formats, which calls decode to."""
DEEP_420 = "yuv420p10le"
"""The 4:2:0 pixel format with `DEEP_BITS` bits per sample."""
RESTORABLE = (*PLANAR_420, DEEP_420)
"""The pixel formats in which faces are restored."""
DEEP_BITS = 10
"""Bits a sample of `DEEP_420`, and the most that x264 encodes."""
SMPTE170M = 6
"""MatrixCoefficients (ITU-T H.273) that are used here to convert RGB to YUV."""


@dataclass(frozen=True)
class Storage:
    """How frames are stored in H.264.

    Attributes:
        name: a planar YUV pixel format of x264: 8 or 10 bits, 4:2:0, 4:2:2, 4:4:4 or grey.
        change: what frames lose by the conversion, in a few words; empty if nothing.
    """

    name: str
    change: str = ""

    @classmethod
    def of(cls, frame: av.VideoFrame) -> "Storage":
        """Returns the storage that preserves most of frames like this one."""
        layout = frame.format
        colours = [part for part in layout.components if not part.is_alpha]
        bits = max(part.bits for part in colours)
        depth = 8 if bits <= 8 else DEEP_BITS
        changes = []
        if len(colours) < len(layout.components) and not layout.has_palette:
            changes.append("without transparency")
        if bits > DEEP_BITS:
            changes.append(f"with {DEEP_BITS} bits per sample instead of {bits}")
        if layout.is_rgb or layout.has_palette:
            changes.append("YUV instead of RGB")
            name = _named("444", depth, full_range=False)
        elif len(colours) == 1:
            name = "gray" if depth == 8 else "gray10le"
        else:
            name = _named(_chroma(layout), depth, full_range=layout.name.startswith("yuvj"))
        odd = (frame.width % 2 and "444" not in name) or (frame.height % 2 and "420" in name)
        if odd and "gray" not in name:
            changes.append(
                f"because H.264 has {frame.width}x{frame.height}, an odd size, in no other format"
            )
            name = name.replace("420", "444").replace("422", "444")
        if changes and "444" in name:
            changes.append("not every player shows it")
        return cls(name, f"{layout.name} becomes {name} ({', '.join(changes)})" if changes else "")

    def stored(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Returns the frame in this pixel format; the same object if it has that already.

        A converted frame keeps its times and colour tags, but not its side data.
        """
        if frame.format.name == self.name:
            return frame
        if frame.format.is_rgb or frame.format.has_palette:
            converted = frame.reformat(
                format=self.name,
                dst_colorspace=Colorspace.SMPTE170M,
                dst_color_range=ColorRange.MPEG,
                threads=1,  # swscale's threads write over each other's rows of odd widths
            )
            keep_tags(converted, frame)
            converted.colorspace, converted.color_range = SMPTE170M, ColorRange.MPEG
        else:
            converted = frame.reformat(format=self.name, threads=1)
            keep_tags(converted, frame)
        converted.duration = frame.duration
        return converted


def samples(frame: av.VideoFrame) -> Iterator[Samples]:
    """Yields the planes of a frame in a planar pixel format, without a copy."""
    for plane in frame.planes:
        width = plane.line_size // bytes_a_sample(frame)
        kind = np.uint8 if bytes_a_sample(frame) == 1 else np.dtype("<u2")
        whole = np.frombuffer(cast(Any, plane), kind).reshape(plane.height, width)
        yield whole[:, : plane.width]


def bits_of(frame: av.VideoFrame) -> int:
    """Returns the bits per sample of a frame."""
    return max(part.bits for part in frame.format.components)


def bytes_a_sample(frame: av.VideoFrame) -> int:
    """Returns the bytes in which a sample of a frame is stored, 1 or 2."""
    return 1 if bits_of(frame) <= 8 else 2


def to_8_bits(plane: Samples, bits: int) -> Samples:
    """Returns a plane of `bits` bits per sample, rounded to 8 bits (uint8)."""
    if bits == 8:
        return plane
    half = 1 << (bits - 9)
    rounded = (np.minimum(plane, (1 << bits) - 1 - half) + half) >> (bits - 8)
    return rounded.astype(np.uint8)


def keep_tags(to: av.VideoFrame, of: av.VideoFrame) -> None:
    """Copies the time and the colour tags of a frame to another one."""
    to.pts = of.pts
    if of.time_base is not None:
        to.time_base = of.time_base
    to.colorspace, to.color_range = of.colorspace, of.color_range
    to.color_primaries, to.color_trc = of.color_primaries, of.color_trc


def _chroma(layout: av.VideoFormat) -> str:
    """Returns the sampling that preserves all chroma samples of a YUV format: 420, 422 or 444."""
    width, height = layout.chroma_width(64), layout.chroma_height(64)
    if height < 64:
        return "420" if width <= 32 else "444"
    return "422" if width <= 32 else "444"


def _named(chroma: str, depth: int, *, full_range: bool) -> str:
    """Returns libav's name of a planar YUV format."""
    if depth == 10:
        return f"yuv{chroma}p10le"
    return f"yuvj{chroma}p" if full_range else f"yuv{chroma}p"
