"""Accesses planes of frames as arrays, copies and cuts frames, and converts YUV and RGB."""

from functools import lru_cache
from typing import Any, TypeAlias, cast

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

from receiver.media.pixels import DEEP_BITS, PLANAR_420, keep_tags, to_8_bits

Plane: TypeAlias = NDArray[Any]
"""HxW: one plane of a frame, uint8, or uint16 with 10 bits per sample."""


Matrix: TypeAlias = list[list[float]]
"""Rows of weights of three channels: plain numbers, as OpenCV's functions take them."""


Region: TypeAlias = tuple[float, float, float, float]
"""Left, top, right, bottom as fractions of a frame's width and height, 0 to 1."""


WHOLE: Region = (0.0, 0.0, 1.0, 1.0)


def planes(frame: av.VideoFrame) -> tuple[Plane, Plane, Plane]:
    """Returns the Y (HxW), U and V (half of each, rounded up) planes of a 4:2:0 frame as views."""
    kind = np.uint8 if frame.format.name in PLANAR_420 else np.dtype("<u2")
    y, u, v = (
        np.ndarray(
            (plane.height, plane.width),
            kind,
            cast(Any, plane),
            strides=(plane.line_size, np.dtype(kind).itemsize),
        )
        for plane in frame.planes
    )
    return y, u, v


def luma_of(frame: av.VideoFrame) -> Plane:
    """Returns the Y plane of a 4:2:0 frame, HxW, uint8; deeper samples are rounded to 8 bits."""
    luma = planes(frame)[0]
    return luma if luma.dtype == np.uint8 else to_8_bits(luma, DEEP_BITS)


def copy_frame(frame: av.VideoFrame) -> av.VideoFrame:
    """Returns a copy that may be written to: the decoder still predicts from its own frame."""
    copy = av.VideoFrame(frame.width, frame.height, frame.format.name)
    for to, of in zip(planes(copy), planes(frame), strict=True):
        to[:] = of
    keep_tags(copy, frame)
    return copy


def cut_frame(frame: av.VideoFrame, left: int, top: int, width: int, height: int) -> av.VideoFrame:
    """Returns a part of a frame as a new 4:2:0 frame with the same time and colours.

    Args:
        left, top, width, height: of the part in pixels, all even; a part that would extend beyond
            the frame is moved into it.
    """
    if frame.format.name not in PLANAR_420:
        frame = frame.reformat(format="yuv420p")
    width, height = min(width, frame.width // 2 * 2), min(height, frame.height // 2 * 2)
    left, top = (
        min(left, (frame.width - width) // 2 * 2),
        min(top, (frame.height - height) // 2 * 2),
    )
    cut = av.VideoFrame(width, height, frame.format.name)
    for number, (to, of) in enumerate(zip(planes(cut), planes(frame), strict=True)):
        y, x = (top, left) if number == 0 else (top // 2, left // 2)
        to[:] = of[y : y + to.shape[0], x : x + to.shape[1]]
    keep_tags(cut, frame)
    return cut


def colours_of(frame: av.VideoFrame) -> tuple[bool, bool, int]:
    """Returns whether a frame is BT.709 (else BT.601), whether it is full range, and its bits."""
    full_range = frame.color_range == ColorRange.JPEG or frame.format.name == "yuvj420p"
    return frame.colorspace == Colorspace.ITU709, full_range, bits_of_sample(frame)


def bits_of_sample(frame: av.VideoFrame) -> int:
    """Returns the bits per sample of a `RESTORABLE` frame: 8 or 10."""
    return 8 if frame.format.name in PLANAR_420 else DEEP_BITS


@lru_cache(maxsize=8)
def rgb_from_yuv_matrix(bt709: bool, full_range: bool, bits: int) -> Matrix:
    """Returns the 3x4 matrix from (Y, U, V, 1) in samples to R, G, B in [0, 1] (ITU-T H.273)."""
    kr, kb = (0.2126, 0.0722) if bt709 else (0.299, 0.114)
    step = float(1 << (bits - 8))
    luma, chroma, black = 219.0 * step, 224.0 * step, 16.0 * step
    if full_range:
        luma, chroma, black = 256.0 * step - 1.0, 256.0 * step - 1.0, 0.0
    kg = 1.0 - kr - kb
    red, blue = 2.0 * (1.0 - kr) / chroma, 2.0 * (1.0 - kb) / chroma
    matrix = np.array(
        [
            [1 / luma, 0.0, red],
            [1 / luma, -blue * kb / kg, -red * kr / kg],
            [1 / luma, blue, 0.0],
        ]
    )
    offset = -matrix @ (black, 128.0 * step, 128.0 * step)
    return cast(Matrix, np.column_stack([matrix, offset]).tolist())


@lru_cache(maxsize=8)
def yuv_from_rgb_matrix(bt709: bool, full_range: bool, bits: int) -> Matrix:
    """Returns the 3x3 matrix from differences of R, G, B in [0, 1] to differences of Y, U, V."""
    rgb_from_yuv = np.array(rgb_from_yuv_matrix(bt709, full_range, bits))[:, :3]
    return cast(Matrix, np.linalg.inv(rgb_from_yuv).tolist())
