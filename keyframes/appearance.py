"""Descriptors of how a received face looks, to compare it with other frames and with stills."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from keyframes.keyframe_set import (
    Landmarks,
)

AppearanceDescriptor: TypeAlias = NDArray[np.float32]
"""192 numbers of length 1: the colours of a crop in 8x8 fields, each channel less its mean. It
follows a face from frame to frame; it does not tell who it is."""


Thumbnail: TypeAlias = NDArray[np.float32]
"""32x32: the green channel of a crop, in levels of any range."""


FIELDS, STEP = 8, 8
"""Fields a side, and pixels from one that is looked at to the next."""


THUMBNAIL = 32
"""Side of a thumbnail in pixels."""


SOFT = 2.0
"""Standard deviation, in thumbnail pixels, of the blur whose result is the light on a face: what is
left is the face's structure."""


def appearance_descriptor(crop: NDArray[Any]) -> AppearanceDescriptor:
    """What a 3x256x256 crop, of any type and range, looks like from afar."""
    some = crop[:, STEP // 2 :: STEP, STEP // 2 :: STEP].astype(np.float32)
    fields = some.reshape(3, FIELDS, some.shape[1] // FIELDS, FIELDS, -1).mean(axis=(2, 4))
    fields -= fields.mean(axis=(1, 2), keepdims=True)
    length = np.sqrt(np.square(fields).sum())
    found: AppearanceDescriptor = (fields / np.maximum(length, 1e-6)).ravel()
    return found


def likeness(a: AppearanceDescriptor, b: AppearanceDescriptor) -> float:
    """Cosine of two signatures: 1 for the same picture, about 0 for strangers."""
    return float((a * b).sum())


def thumbnail(crop: NDArray[Any]) -> Thumbnail:
    """Returns the thumbnail of a 3x256x256 crop."""
    small: Thumbnail = cv2.resize(
        crop[1], (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA
    ).astype(np.float32)
    return small


def resemblance(a: Thumbnail, b: Thumbnail) -> float:
    """Returns the correlation of two faces' structure, -1 to 1, without the light on them.

    For pictures of one moment it is about 0.95, even if one of them came at QP 42; for another
    person's face in the same pose and the same light 0.6.
    """
    first, second = ((one - cv2.GaussianBlur(one, (0, 0), SOFT))[_face()] for one in (a, b))
    first, second = first - first.mean(), second - second.mean()
    length = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float((first * second).sum()) / max(length, 1e-6)


@lru_cache(maxsize=1)
def _face() -> NDArray[np.bool_]:
    """Where the face is in a thumbnail: an ellipse around the place to which crops align it."""
    drawn = np.zeros((THUMBNAIL, THUMBNAIL), np.uint8)
    centre = THUMBNAIL // 2, round(0.55 * THUMBNAIL)
    axes = round(0.26 * THUMBNAIL), round(0.34 * THUMBNAIL)
    cv2.ellipse(drawn, centre, axes, 0, 0, 360, 1, cv2.FILLED)
    return drawn.astype(bool)


@dataclass(frozen=True, eq=False)
class Received:
    """What is remembered of a face that was received: 68x2 landmarks in crop pixels, and looks."""

    landmarks: Landmarks
    look: AppearanceDescriptor
    thumbnail: Thumbnail
