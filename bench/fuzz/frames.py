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
"""Bytes of a recipe, which describes a frame and its faces."""
WRONG = (math.nan, math.inf, -math.inf, 3e38, -1e30, 1e6)
"""Values of a broken tracker."""


def frames_seeds() -> list[bytes]:
    """Returns recipes for `frames`; together they use every feature that a byte can select."""
    chance = np.random.default_rng(0)
    known = [bytes(RECIPE), bytes([0, 16, 15, 1, 0, 0, 0, 0]) + bytes(24), bytes(range(RECIPE))]
    return known + [chance.bytes(RECIPE) for _ in range(2000)]


def frames(data: bytes) -> None:
    """Promises that every frame keeps its size and time.

    It passes through if it is not 8-bit 4:2:0 or if no face in it is valid. Damaged frames and
    invalid faces never become references.
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
        check(output is video, "an unsupported pixel format passes through")
    if faces is not None and recipe[18] % 8 == 7:
        check(output is video, "a frame with invalid faces passes through")
    if enhancer.stats.admitted["stream"] != before:
        check(not damaged, "a damaged frame does not become a reference")
        _check_references(enhancer)


def _check_references(enhancer: Enhancer) -> None:
    for person in enhancer.people:
        check(
            bool(np.isfinite(person.recent[-1].appearance).all()), "a person's appearance is finite"
        )
        for keyframe in person.keyframes:
            check(bool(np.isfinite(keyframe.landmarks).all()), "a reference's landmarks are finite")


@cache
def _enhancer(by_quality: bool) -> Enhancer:
    """Returns one of two enhancers for all inputs, so that each frame meets the state of others."""
    return Enhancer(untrained(), admission="quality" if by_quality else "i-frames")


def _frame(recipe: bytes) -> av.VideoFrame | None:
    """Returns the recipe's frame; None if PyAV cannot make it."""
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
    """Returns up to twenty faces: inside and outside, at all angles, some with equal landmarks.

    In half of the recipes some faces contain a value of `WRONG`, in an eighth all faces do.
    """
    chance = np.random.default_rng(list(recipe))
    found = []
    for number in range(recipe[6] % (21 if recipe[6] > 200 else 4)):
        spread = chance.choice([0.0, 0.3, 1.0, 40.0, 400.0, 1e4])
        centre = chance.normal(0.5, 0.5, 2) * (video.width, video.height)
        points = (centre + spread * chance.normal(size=(68, 2))).astype(np.float32)
        if recipe[15] & 1:
            points = np.rint(points)  # as dlib returns them
        box = np.concatenate([points.min(axis=0), points.max(axis=0)]).astype(np.float64)
        affine = crop_from_frame(points)
        if recipe[18] % 8 == 7 or (recipe[18] % 8 >= 4 and chance.random() < 0.5):
            wrong = (points, points, box, affine)[chance.integers(4)]
            wrong.flat[chance.integers(wrong.size)] = chance.choice(WRONG)
        found.append(Face(points, box, int(recipe[16] % 4 + number), affine))
    return found
