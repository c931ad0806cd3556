"""Frames of any size that show a clip's face several times, and their packets."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import islice

import av
from aiortc.jitterbuffer import JitterFrame

from receiver.enhance.faces.tracking import MAX_FACES, FaceTracker
from receiver.errors import InputError
from receiver.media.encoding import Encoding
from receiver.media.frame import Box
from receiver.media.planes import cut_frame, planes
from receiver.sending.sources import Source

AROUND = 1.3
"""Smallest size of the picture around each of several faces, in sides of the face's box. The same
search, coarse or fine, then finds all of them."""
FACES_APART = 15
"""Frames of the clip between two neighbouring faces of one frame."""
GREY = (60, 128, 128)
"""Y, U and V of parts without a face."""


def composed(source: Source, width: int, height: int, faces: int) -> Source:
    """Returns a source whose frames show another source's first face `faces` times, 1 to 4.

    One face keeps as much of the picture around it as fits. Several are cut out closely: each is
    three quarters as high as its part of the frame.

    Args:
        width, height: size of the frames in pixels, multiples of 4.

    Raises InputError if frames have to be cut and the first one shows no face.
    """
    if not 1 <= faces <= MAX_FACES:
        raise ValueError(f"{faces} faces are not within 1 to {MAX_FACES}")
    if faces == 1 and (width, height) == (source.width, source.height):
        return source
    columns, rows = min(faces, 2), 1 if faces <= 2 else 2
    tile = width // columns, height // rows
    window = _window(source, tile, closely=faces > 1)

    def frames() -> Iterator[av.VideoFrame]:
        parts = [islice(source.frames(), FACES_APART * number, None) for number in range(faces)]
        for pictures in zip(*parts, strict=False):
            cut = [cut_frame(picture, *window).reformat(*tile, "yuv420p") for picture in pictures]
            whole = _mosaic(cut, width, height)
            whole.pts, whole.time_base = pictures[0].pts, pictures[0].time_base
            yield whole

    return Source(frames, width, height, source.rate)


def _window(source: Source, tile: tuple[int, int], *, closely: bool) -> tuple[int, int, int, int]:
    """Returns left, top, width and height, all even, of the part of a source's frames to show."""
    left, top, right, bottom = _face_of(source).tolist()
    aspect = tile[0] / tile[1]
    height = min(source.height, source.width / aspect)
    if closely:
        height = min(height, AROUND * (bottom - top) * max(1.0, 1.0 / aspect))
    width = height * aspect
    corner = max(0.0, (left + right - width) / 2), max(0.0, (top + bottom - height) / 2)
    x, y, w, h = (int(value) // 2 * 2 for value in (*corner, width, height))
    return x, y, w, h


def _face_of(source: Source) -> Box:
    luma, tracker = planes(next(source.frames()))[0], FaceTracker()
    for _ in range(2):  # a coarse search and a fine one
        faces = tracker.find(luma)
        if faces:
            return faces[0].box
    raise InputError(
        "no face is in the clip's first frame: give a clip that begins with one, "
        "or leave --sizes and --faces out"
    )


def _mosaic(parts: list[av.VideoFrame], width: int, height: int) -> av.VideoFrame:
    """Returns a frame with equal parts in two columns, or with a single part that fills it."""
    whole = av.VideoFrame(width, height, "yuv420p")
    for plane, level in zip(planes(whole), GREY, strict=True):
        plane[:] = level
    for number, part in enumerate(parts):
        for to, of in zip(planes(whole), planes(part), strict=True):
            down, across = of.shape
            row, column = number // 2 * down, number % 2 * across
            to[row : row + down, column : column + across] = of
    return whole


def encode(source: Source, kbps: float, count: int) -> list[JitterFrame]:
    """Returns the first `count` frames of a source encoded with x264, an access unit each.

    Args:
        kbps: target bitrate in kbit/s.
    """
    encoder = Encoding(kbps=kbps).open(source.width, source.height, source.rate)
    packets = []
    for index, frame in enumerate(islice(source.frames(), count)):
        frame.pts, frame.time_base = round(index * 90000 / source.rate), Fraction(1, 90000)
        frame.pict_type = av.video.frame.PictureType.NONE
        packets += [JitterFrame(bytes(one), one.pts or 0) for one in encoder.encode(frame)]
    return packets
