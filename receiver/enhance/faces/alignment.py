"""Cuts an aligned 256x256 crop of a face out of a frame and pastes its restoration back."""

from collections.abc import Iterable
from functools import lru_cache
from math import ceil, floor, hypot
from typing import Any, TypeAlias

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from keyframes import Landmarks, Picture
from receiver.media.pixels import DEEP_BITS
from receiver.media.planes import (
    Plane,
    bits_of_sample,
    colours_of,
    planes,
    rgb_from_yuv_matrix,
    yuv_from_rgb_matrix,
)

CROP = 256
"""Side of a face crop in pixels."""

EYE_X, EYE_Y = (0.38, 0.62), 0.45
"""Places of the two eye centroids in the crop, as fractions of its side; the paper's values."""

FEATHER = 24
"""Width of the border over which a pasted crop fades out, in crop pixels."""

EYES_APART = (1.0, 10_000.0)
"""Smallest and largest distance between the eyes of a face that can be cropped, in frame pixels."""
FARTHEST = 1e5
"""Largest coordinate of a face that can be cropped, in frame pixels."""

_DOT = 5
"""Maximum distance in pixels from the centre of a landmark's dot to its edge."""
_AROUND = 2 * _DOT + 1
"""Border around the landmark image, in pixels, for dots that are partly or wholly outside."""

Affine: TypeAlias = NDArray[np.float64]
"""2x3 float64: maps a point (x, y, 1)."""

Crop: TypeAlias = NDArray[np.float32]
"""3x256x256 float32 RGB in [0, 1]: a face with aligned eyes, the input and output of a
generator."""


def crop_from_frame(landmarks: Landmarks) -> Affine:
    """Returns the similarity that maps both eye centroids of 68x2 frame landmarks to the crop."""
    eyes = landmarks[36:48].reshape(2, 6, 2).mean(axis=1, dtype=np.float64).tolist()
    right, left = (complex(x, y) for x, y in eyes)
    turn = (EYE_X[1] - EYE_X[0]) * CROP / (left - right or 1e-9)
    offset = complex(EYE_X[0] * CROP, EYE_Y * CROP) - turn * right
    return np.array([[turn.real, -turn.imag, offset.real], [turn.imag, turn.real, offset.imag]])


def can_be_cropped(
    landmarks: Landmarks, box: NDArray[np.float64], affine: Affine, width: int, height: int
) -> bool:
    """Returns whether a tracked face is valid and lies in the frame; a tracker may go astray.

    Args:
        landmarks: 68x2, in pixels of the frame.
        box: left, top, right, bottom in pixels of the frame.
        affine: the face's `crop_from_frame`.
        width: of the frame in pixels.
        height: of the frame in pixels.
    """
    # Also false for a NaN.
    if not (abs(landmarks).max() < FARTHEST and abs(box).max() < FARTHEST):
        return False
    left, top, right, bottom = box.tolist()
    if not (max(left, 0.0) < min(right, width) and max(top, 0.0) < min(bottom, height)):
        return False
    (a, b, _), (c, d, _) = affine.tolist()
    enlarged = a * d - b * c  # squared crop pixels for a squared frame pixel
    most, least = (((EYE_X[1] - EYE_X[0]) * CROP / apart) ** 2 for apart in EYES_APART)
    if not (least <= enlarged <= most and abs(a - d) + abs(b + c) <= 1e-6 * most):
        return False
    x, y = affine[:, :2] @ landmarks[36:48].mean(axis=0, dtype=np.float64) + affine[:, 2]
    return bool(0.0 <= x <= CROP and 0.0 <= y <= CROP)


def transform(points: Landmarks, affine: Affine) -> Landmarks:
    """Returns Kx2 points after a 2x3 affine map, as float32."""
    moved = points.astype(np.float64) @ affine[:, :2].T + affine[:, 2]
    return moved.astype(np.float32)


def extract_crop(frame: av.VideoFrame, affine: Affine) -> Crop:
    """Returns the face crop of a 4:2:0 frame. Converts only the crop to RGB.

    Beyond the frame its border is repeated. `affine` is the face's `crop_from_frame`.
    """
    y, u, v = planes(frame)
    chroma = _at_half_size(affine)
    yuv = (_sample(y, affine, cv2.INTER_CUBIC), _sample(u, chroma), _sample(v, chroma))
    rgb = np.empty((3, CROP, CROP), np.float32)
    for channel, (*weights, offset) in zip(
        rgb, rgb_from_yuv_matrix(*colours_of(frame)), strict=True
    ):
        _mix(yuv, weights, offset, channel)
    np.clip(rgb, 0.0, 1.0, out=rgb)
    return rgb


def picture_of(crop: Crop) -> Picture:
    """Returns a crop as a 256x256x3 uint8 RGB picture, rounded."""
    levels = np.clip(np.round(crop * 255.0), 0.0, 255.0).astype(np.uint8)
    picture: Picture = cv2.merge(list(levels))
    return picture


def crop_of(picture: Picture) -> Crop:
    """Returns a 256x256x3 uint8 RGB picture as a crop."""
    crop = np.empty((3, *picture.shape[:2]), np.float32)
    for levels, channel in zip(cv2.split(picture), crop, strict=True):
        np.multiply(levels, np.float32(1.0 / 255.0), out=channel)
    return crop


def shifted(crop: Crop, flow: NDArray[np.float32]) -> Crop:
    """Returns the crop sampled bilinearly at each pixel's place plus `flow`.

    Beyond the crop its border is repeated.

    Args:
        crop: the crop.
        flow: 2xHxW, x and y in crop pixels, enlarged bilinearly to the crop's size.
    """
    x, y = (cv2.resize(part, (CROP, CROP), interpolation=cv2.INTER_LINEAR) for part in flow)
    places = np.arange(CROP, dtype=np.float32)
    x += places
    y += places[:, None]
    moved = np.empty_like(crop)
    for plane, to in zip(crop, moved, strict=True):
        cv2.remap(plane, x, y, cv2.INTER_LINEAR, dst=to, borderMode=cv2.BORDER_REPLICATE)
    return moved


def psnr_db(a: Crop, b: Crop) -> float:
    """Returns the peak signal-to-noise ratio of two crops over all three channels, in dB."""
    return float(cv2.PSNR(a.reshape(3, -1), b.reshape(3, -1), R=1.0))


def paste_residual(frame: av.VideoFrame, residual: Crop, affine: Affine) -> None:
    """Adds the change that a generator made to a face crop to the frame, in place.

    Adding the difference, instead of replacing the pixels, keeps the detail of faces larger than
    the crop. Changes only the region of the crop and fades out at its border.

    Args:
        frame: 4:2:0, 8 or more bits per sample.
        residual: restored crop minus degraded crop.
        affine: the crop's `crop_from_frame`.
    """
    chroma = _at_half_size(affine)
    delta = np.empty((CROP, CROP), np.float32)
    kind, most = (
        (cv2.CV_8U, 255) if bits_of_sample(frame) == 8 else (cv2.CV_16U, (1 << DEEP_BITS) - 1)
    )
    for plane, weights, to_crop in zip(
        planes(frame),
        yuv_from_rgb_matrix(*colours_of(frame)),
        (affine, chroma, chroma),
        strict=True,
    ):
        left, top, right, bottom = _region(to_crop, plane.shape)
        if left >= right or top >= bottom:
            continue
        _mix(residual, weights, 0.0, delta)
        cv2.multiply(delta, feather_mask(), dst=delta)
        moved = cv2.warpAffine(
            delta,
            _from_corner(to_crop, left, top),
            (right - left, bottom - top),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        )
        region = plane[top:bottom, left:right]
        cv2.add(region, moved, dst=region, dtype=kind)
        if most > 255:
            np.minimum(region, most, out=region)


@lru_cache(maxsize=1)
def feather_mask() -> NDArray[np.float32]:
    """Returns 256x256 float32: 1 inside, falling smoothly to 0 at the crop's border."""
    ramp = np.clip((np.arange(CROP) + 0.5) / FEATHER, 0.0, 1.0)
    ramp = np.minimum(ramp, ramp[::-1])
    ramp = ramp * ramp * (3.0 - 2.0 * ramp)
    return np.outer(ramp, ramp).astype(np.float32)


def draw_landmarks(landmarks: Landmarks) -> NDArray[np.float32]:
    """Returns the generator's landmark image of 68x2 crop landmarks.

    It is 256x256 float32, white dots (1) on black (0).
    """
    # np.clip takes three times as long for so few values.
    near = np.maximum(np.minimum(landmarks, CROP + _DOT), -1 - _DOT)
    whole, part = np.divmod(np.rint(near * 16).astype(np.intp) + 16 * _AROUND, 16)
    width = CROP + 2 * _AROUND
    pixels, shades = _dots(width)
    places = (whole[:, 1] * width + whole[:, 0])[:, None] + pixels
    dark = np.ones((width, width), np.float32)
    np.multiply.at(dark.ravel(), places.ravel(), shades[part[:, 1] * 16 + part[:, 0]].ravel())
    return 1.0 - dark[_AROUND:-_AROUND, _AROUND:-_AROUND]


@lru_cache(maxsize=1)
def _dots(width: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Draws a landmark's dot of radius 2 at each sixteenth of a pixel down and across.

    Returns:
        The N offsets of the dot's pixels from its centre's pixel in a flat image of this width, and
        256xN factors of the darkness there, 1 (unchanged) to 0 (white).
    """
    drawn = np.zeros((256, 2 * _DOT + 1, 2 * _DOT + 1), np.uint8)
    for index, dot in enumerate(drawn):
        centre = (16 * _DOT + index % 16, 16 * _DOT + index // 16)
        cv2.circle(dot, centre, 32, 255, cv2.FILLED, cv2.LINE_AA, shift=4)
    rows, columns = np.nonzero(drawn.any(axis=0))
    pixels = ((rows - _DOT) * width + columns - _DOT).astype(np.intp)
    return pixels, np.float32(1.0) - drawn[:, rows, columns].astype(np.float32) / np.float32(255.0)


def _sample(plane: Plane, affine: Affine, interpolation: int = cv2.INTER_LINEAR) -> Plane:
    """Returns the 256x256 crop of a plane. Averages a face larger than the crop down first."""
    shrink = round(1.0 / max(hypot(affine[0, 0], affine[1, 0]), 1e-6))
    if shrink > 1:
        left, top, right, bottom = _region(affine, plane.shape)
        width, height = (right - left) // shrink, (bottom - top) // shrink
        if width > 0 and height > 0:
            part = plane[top : top + height * shrink, left : left + width * shrink]
            plane = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
            # The centre of reduced pixel i is at shrink * i + (shrink - 1) / 2 in the plane.
            middle = (shrink - 1) / 2
            affine = _from_corner(affine, left + middle, top + middle)
            affine[:, :2] *= shrink
    return cv2.warpAffine(
        plane, affine, (CROP, CROP), flags=interpolation, borderMode=cv2.BORDER_REPLICATE
    )


def _region(affine: Affine, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Returns left, top, right, bottom (exclusive) of the crop in a plane of this shape."""
    (a, b, x), (c, d, y) = cv2.invertAffineTransform(affine).tolist()
    middle, half = (CROP - 1) / 2, (CROP + 1) / 2
    x, y = x + middle * (a + b), y + middle * (c + d)
    width, height = half * (abs(a) + abs(b)), half * (abs(c) + abs(d))
    left, top = max(floor(x - width), 0), max(floor(y - height), 0)
    return left, top, min(ceil(x + width) + 1, shape[1]), min(ceil(y + height) + 1, shape[0])


def _at_half_size(affine: Affine) -> Affine:
    """Returns the map for a chroma plane, whose samples are centred between four luma samples."""
    half = _from_corner(affine, 0.5, 0.5)
    half[:, :2] *= 2.0
    return half


def _from_corner(affine: Affine, left: float, top: float) -> Affine:
    """Returns the map for places relative to (left, top)."""
    (a, b, x), (c, d, y) = affine.tolist()
    return np.array([[a, b, x + a * left + b * top], [c, d, y + c * left + d * top]])


def _mix(
    channels: Iterable[NDArray[Any]], weights: Iterable[float], offset: float, out: Plane
) -> None:
    """Writes the weighted sum of three channels plus an offset to `out`.

    Does not use `@`: BLAS would spread so large a product over threads that keep spinning
    afterwards, which would make the generator, the next step, a fifth slower.
    """
    first, second, *others = (pair for pair in zip(channels, weights, strict=True) if pair[1])
    cv2.addWeighted(*first, *second, offset, dst=out, dtype=cv2.CV_32F)
    for channel, weight in others:
        cv2.addWeighted(out, 1.0, channel, weight, 0.0, dst=out, dtype=cv2.CV_32F)


def scaled(crop_from_frame: Affine, scale: float) -> Affine:
    """Returns the same crop's map from a frame that is `scale` times as large.

    Pixel centres lie at whole numbers, so the corners of both frames coincide at -0.5.
    """
    if scale == 1.0:
        return crop_from_frame
    # A point at q in the larger frame is at (q + 0.5) / scale - 0.5 in the smaller one.
    larger = _from_corner(crop_from_frame, 0.5 / scale - 0.5, 0.5 / scale - 0.5)
    larger[:, :2] /= scale
    return larger
