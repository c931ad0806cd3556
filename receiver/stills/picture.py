"""Still pictures as WebP or JPEG data, and back."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import av
from av.video.reformatter import ColorRange, Colorspace

from receiver.errors import ReceiverError
from receiver.media.pixels import PLANAR_420
from receiver.media.planes import WHOLE, Region, copy_frame, cut_frame

MIN_SIDE = 16
"""Smallest width and height of a still in pixels."""
MAX_STILL_PIXELS = 1 << 22
"""Maximum number of pixels in a still, for example 2560x1440."""
QUALITIES = (90, 80, 70, 60, 50, 40)
"""Qualities of libwebp (0 to 100), tried in this order until a still is small enough."""
DECODERS = {"image/webp": "webp", "image/jpeg": "mjpeg"}
"""FFmpeg's decoders by the MIME type of a still."""


class StillError(ReceiverError):
    """A still that cannot be made or used."""


@dataclass(frozen=True)
class EncodedStill:
    """A still as WebP data, with its size in pixels."""

    data: bytes
    width: int
    height: int


def decode_still(data: bytes, mime: str) -> av.VideoFrame:
    """Decodes a still to a BT.601 frame: JPEG to yuvj420p (full range), WebP to yuv420p.

    Raises StillError if it is broken, too large or too small, animated, or of another type.
    """
    if mime not in DECODERS:
        raise StillError(f"{mime!r} is not a type of still: send image/webp or image/jpeg")
    codec = cast(av.VideoCodecContext, av.CodecContext.create(DECODERS[mime], "r"))
    codec.thread_count = 1
    # FFmpeg compares the header with max_pixels before it allocates memory for the picture.
    codec.options = {"max_pixels": str(MAX_STILL_PIXELS), "err_detect": "explode"}
    try:
        frames = codec.decode(av.Packet(data)) if data else []
    except (av.FFmpegError, ValueError) as error:
        raise StillError(f"a still of {len(data)} bytes is not a valid {mime}") from error
    if not frames:
        raise StillError(f"a still of {len(data)} bytes contains no {mime}")
    frame = frames[0]
    if min(frame.width, frame.height) < MIN_SIDE:
        raise StillError(f"a still of {frame.width}x{frame.height} pixels is too small")
    full_range = mime == "image/jpeg"
    return _bt601(frame, frame.width, frame.height, full_range, full_range)


def part_of(frame: av.VideoFrame, region: Region) -> av.VideoFrame:
    """Cuts `region` out of a frame, enlarged to even pixels; returns `frame` itself for `WHOLE`."""
    if region == WHOLE:
        return frame
    width, height = frame.width // 2 * 2, frame.height // 2 * 2
    left, top = int(region[0] * width) // 2 * 2, int(region[1] * height) // 2 * 2
    right, bottom = -int(-region[2] * width // 2) * 2, -int(-region[3] * height // 2) * 2
    return cut_frame(frame, left, top, max(MIN_SIDE, right - left), max(MIN_SIDE, bottom - top))


def encode_still(frame: av.VideoFrame, max_bytes: int) -> tuple[bytes, str]:
    """Encodes a frame as WebP of at most `max_bytes`; returns the data and its MIME type.

    Raises StillError as `compress_still` does.
    """
    return compress_still(frame, max_bytes).data, "image/webp"


def compress_still(frame: av.VideoFrame, max_bytes: int) -> EncodedStill:
    """Encodes a frame as WebP of at most `max_bytes`.

    Lowers the quality first, then the size in pixels. Raises StillError if nothing fits.
    """
    full_range = frame.color_range == ColorRange.JPEG or frame.format.name == "yuvj420p"
    scale = min(1.0, math.sqrt(MAX_STILL_PIXELS / (frame.width * frame.height)))
    width, height = int(frame.width * scale), int(frame.height * scale)
    while min(width, height) >= MIN_SIDE:
        picture = _bt601(frame, width, height, full_range, False)
        if picture is frame:
            picture = copy_frame(frame)  # encoding sets its time, and other code uses this frame
        for quality in QUALITIES:
            data = _webp(picture, quality)
            if len(data) <= max_bytes:
                return EncodedStill(data, width, height)
        width, height = width * 3 // 4, height * 3 // 4
    raise StillError(f"no still fits into {max_bytes} bytes: ask for more")


def _bt601(
    frame: av.VideoFrame, width: int, height: int, full_range: bool, to_full_range: bool
) -> av.VideoFrame:
    """Converts a frame to BT.601, the only matrix of JPEG and WebP, in the given size and range.

    Returns `frame` itself if nothing changes. `full_range` is the range of `frame`.
    """
    bt709 = frame.colorspace == Colorspace.ITU709
    same = frame.format.name in PLANAR_420 and full_range == to_full_range and not bt709
    if not same or (width, height) != (frame.width, frame.height):
        ranges = {False: ColorRange.MPEG, True: ColorRange.JPEG}
        frame = frame.reformat(
            width,
            height,
            "yuvj420p" if to_full_range else "yuv420p",
            src_colorspace=Colorspace.ITU709 if bt709 else Colorspace.ITU601,
            dst_colorspace=Colorspace.ITU601,
            interpolation="AREA",
            src_color_range=ranges[full_range],
            dst_color_range=ranges[to_full_range],
        )
        frame.colorspace = Colorspace.ITU601
        frame.color_range = ranges[to_full_range]
    return frame


def _webp(picture: av.VideoFrame, quality: int) -> bytes:
    """Encodes a yuv420p frame as WebP; sets the frame's time and picture type."""
    codec: av.VideoCodecContext = av.CodecContext.create("libwebp", "w")
    codec.width, codec.height, codec.pix_fmt = picture.width, picture.height, "yuv420p"
    codec.time_base = Fraction(1, 30)
    codec.options = {"quality": str(quality), "preset": "photo"}
    picture.pts, picture.time_base = 0, codec.time_base
    picture.pict_type = av.video.frame.PictureType.NONE
    return b"".join(bytes(packet) for packet in codec.encode(picture) + codec.encode(None))
