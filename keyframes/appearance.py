"""Appearance descriptors of received faces, to compare them with other frames and with stills."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from keyframes.keyframe_set import Landmarks

AppearanceDescriptor: TypeAlias = NDArray[np.float32]
"""192 float32 of Euclidean length 1: the colours of a crop in 8x8 cells, each channel minus its
mean. Follows a face from frame to frame, but does not identify a person."""

Thumbnail: TypeAlias = NDArray[np.float32]
"""32x32 float32: the green channel of a crop, in levels of any range."""

GRID, GRID_STEP = 8, 8
"""Cells of an appearance descriptor along each side; it samples every `GRID_STEP`th pixel."""
THUMBNAIL_SIDE = 32
"""Side of a thumbnail in pixels."""
LIGHT_BLUR = 2.0
"""Standard deviation, in thumbnail pixels, of the blur that estimates the light on a face. The
thumbnail minus that light is the face's structure."""


def appearance_descriptor(crop: NDArray[Any]) -> AppearanceDescriptor:
    """Returns the appearance descriptor of a 3x256x256 crop of any type and range."""
    some = crop[:, GRID_STEP // 2 :: GRID_STEP, GRID_STEP // 2 :: GRID_STEP].astype(np.float32)
    cells = some.reshape(3, GRID, some.shape[1] // GRID, GRID, -1).mean(axis=(2, 4))
    cells -= cells.mean(axis=(1, 2), keepdims=True)
    length = np.sqrt(np.square(cells).sum())
    found: AppearanceDescriptor = (cells / np.maximum(length, 1e-6)).ravel()
    return found


def likeness(a: AppearanceDescriptor, b: AppearanceDescriptor) -> float:
    """Returns the cosine of two descriptors: 1 for the same picture, about 0 for strangers."""
    return float((a * b).sum())


def thumbnail(crop: NDArray[Any]) -> Thumbnail:
    """Returns the thumbnail of a 3x256x256 crop."""
    small: Thumbnail = cv2.resize(
        crop[1], (THUMBNAIL_SIDE, THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA
    ).astype(np.float32)
    return small


def resemblance(a: Thumbnail, b: Thumbnail) -> float:
    """Returns the correlation of two faces' structure, -1 to 1, independent of the light on them.

    It is about 0.95 for two pictures of the same moment, even if one was received at QP 42, and 0.6
    for another person's face in the same pose and light.
    """
    first, second = ((one - cv2.GaussianBlur(one, (0, 0), LIGHT_BLUR))[_face()] for one in (a, b))
    first, second = first - first.mean(), second - second.mean()
    length = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float((first * second).sum()) / max(length, 1e-6)


@lru_cache(maxsize=1)
def _face() -> NDArray[np.bool_]:
    """Returns where the face is in a thumbnail, 32x32: an ellipse, because crops align the eyes."""
    drawn = np.zeros((THUMBNAIL_SIDE, THUMBNAIL_SIDE), np.uint8)
    centre = THUMBNAIL_SIDE // 2, round(0.55 * THUMBNAIL_SIDE)
    axes = round(0.26 * THUMBNAIL_SIDE), round(0.34 * THUMBNAIL_SIDE)
    cv2.ellipse(drawn, centre, axes, 0, 0, 360, 1, cv2.FILLED)
    return drawn.astype(bool)


@dataclass(frozen=True, eq=False)
class Received:
    """A face as it was received, remembered to compare later frames and stills with it.

    Attributes:
        landmarks: 68x2 in crop pixels.
        appearance: its appearance descriptor.
        thumbnail: its thumbnail.
    """

    landmarks: Landmarks
    appearance: AppearanceDescriptor
    thumbnail: Thumbnail
