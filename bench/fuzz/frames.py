"""Target: frames of any shape, with any faces."""

import math
import struct
from fractions import Fraction
from functools import cache
from unittest.mock import patch

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from bench.fuzz.target import (
    check,
    small_portrait,
)
from bench.fuzz.untrained import untrained
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.alignment import crop_from_frame
from receiver.enhance.faces.tracking import Face
from receiver.media.frame import DecodedFrame
from receiver.media.pixels import RESTORABLE

FORMATS = (
    *("yuv420p", "yuvj420p", "yuv420p", "yuv420p", "gray", "yuv420p10le", "rgb24", "nv12"),
    *("yuv444p", "yuv422p", "yuva420p", "pal8", "gbrp", "yuv410p"),
)


SIDES = (0, 1, 2, 3, 15, 16, 17, 64, 97, 120, 160, 255, 256, 320, 477, 480, 640, 641, 720, 1080)


LARGE = ((3840, 2160), (7680, 4320), (4320, 7680), (7680, 1), (1, 4320))


RECIPE = 32
"""Bytes that say what a frame and its faces are like."""


WRONG = (math.nan, math.inf, -math.inf, 3e38, -1e30, 1e6)
"""Numbers that a tracker gives which lost its mind."""


def frames_seeds() -> list[bytes]:
    """Recipes of a frame and its faces, see `frames`: all that a byte can ask for is among them."""
    chance = np.random.default_rng(0)
    known = [bytes(RECIPE), bytes([0, 16, 15, 1, 0, 0, 0, 0]) + bytes(24), bytes(range(RECIPE))]
    return known + [chance.bytes(RECIPE) for _ in range(2000)]


def frames(data: bytes) -> None:
    """Whatever a frame and its faces are like, it comes out in its size and time.

    It is untouched if it is not 8-bit 4:2:0 or no face in it can be used; what is damaged, or no
    picture of a face, does not become a reference.
    """
    recipe = data.ljust(RECIPE, b"\0")
    video = _frame(recipe)
    if video is None:
        return
    enhancer = _enhancer(recipe[5] & 1 == 0)
    before, damaged = enhancer.stats.admitted["stream"], bool(recipe[17] & 1)
    if recipe[6]:
        faces = _faces(recipe, video)
        with patch.object(enhancer._tracker, "track", lambda luma: faces):
            output = enhancer.enhance(DecodedFrame(video, True, 30.0, damaged))
    else:
        faces = None
        output = enhancer.enhance(DecodedFrame(video, bool(recipe[7] & 1), None, damaged))
    shape = (video.width, video.height, video.format.name, video.pts, video.time_base)
    after = (output.width, output.height, output.format.name, output.pts, output.time_base)
    check(after == shape, f"{shape} became {after}")
    if video.format.name not in RESTORABLE or min(video.width, video.height) < 2:
        check(output is video, "a pixel format that faces are not restored in passes untouched")
    if faces is not None and recipe[18] % 8 == 7:
        check(output is video, "a frame whose faces are no faces passes untouched")
    if enhancer.stats.admitted["stream"] != before:
        check(not damaged, "what is damaged is no reference")
        _check_references(enhancer)


def _check_references(enhancer: Enhancer) -> None:
    for person in enhancer.people:
        check(bool(np.isfinite(person.recent[-1].look).all()), "a person's look is numbers")
        for keyframe in person.keyframes:
            check(bool(np.isfinite(keyframe.landmarks).all()), "a reference's points are numbers")


@cache
def _enhancer(by_quality: bool) -> Enhancer:
    """Two for all inputs: what one frame leaves behind meets the next."""
    return Enhancer(untrained(), admission="quality" if by_quality else "i-frames")


def _frame(recipe: bytes) -> av.VideoFrame | None:
    """None where PyAV itself makes no such frame."""
    width, height = (SIDES[byte % len(SIDES)] for byte in recipe[1:3])
    if recipe[0] == 255:
        width, height = LARGE[recipe[1] % len(LARGE)]
    name = FORMATS[recipe[4] % len(FORMATS)]
    try:
        video = av.VideoFrame(width, height, name)
        if recipe[3] % 2 and min(width, height) >= 2:
            video = small_portrait()[recipe[3] % 45].reformat(width, height, name)
    except (ValueError, av.FFmpegError, MemoryError):
        return None
    if not recipe[3] % 2:
        for plane in video.planes if width and height else ():
            plane.update(bytes([recipe[8]]) * plane.buffer_size)
    video.pts, video.time_base = struct.unpack_from("<i", recipe, 9)[0], Fraction(1, 90000)
    video.colorspace = (Colorspace.ITU709, Colorspace.ITU601)[recipe[13] % 2]
    video.color_range = (ColorRange.JPEG, ColorRange.MPEG)[recipe[14] % 2]
    return video


def _faces(recipe: bytes, video: av.VideoFrame) -> list[Face]:
    """Up to twenty, inside and outside, upright and not, some with their points in one place.

    As trackers give them, or one that is out of its mind would: half of the recipes have something
    wrong in some faces, an eighth in all.
    """
    chance = np.random.default_rng(list(recipe))
    found = []
    for number in range(recipe[6] % (21 if recipe[6] > 200 else 4)):
        spread = chance.choice([0.0, 0.3, 1.0, 40.0, 400.0, 1e4])
        centre = chance.normal(0.5, 0.5, 2) * (video.width, video.height)
        points = (centre + spread * chance.normal(size=(68, 2))).astype(np.float32)
        if recipe[15] & 1:
            points = np.rint(points)  # as dlib gives them
        box = np.concatenate([points.min(axis=0), points.max(axis=0)]).astype(np.float64)
        affine = crop_from_frame(points)
        if recipe[18] % 8 == 7 or (recipe[18] % 8 >= 4 and chance.random() < 0.5):
            wrong = (points, points, box, affine)[chance.integers(4)]
            wrong.flat[chance.integers(wrong.size)] = chance.choice(WRONG)
        found.append(Face(points, box, int(recipe[16] % 4 + number), affine))
    return found
