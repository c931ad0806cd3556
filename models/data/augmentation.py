"""Random augmentations that change all pictures of a sample in the same way.

Each takes a generator of random numbers, the sample's pictures (HxWxC, 0 to 255) followed by its
landmark image (HxWx1, 0 to 1), and the side S of the cut. It returns SxSxC float images in [0, 1].
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from receiver.enhance.faces.alignment import CROP

Images: TypeAlias = list[NDArray[Any]]

PROBABILITY = 0.2
"""Probability of each augmentation of the paper."""
SHIFT = round(0.13 * CROP)
"""Largest shift of the paper, in pixels."""
HOLE = (16, 64)
"""Shortest and longest side of the paper's hole, in pixels."""


def mirrored(rng: np.random.Generator, images: Images, side: int) -> Images:
    """Cuts, flips horizontally in half of the cases, and changes the exposure."""
    cut = _cut(rng, images, side)
    if rng.random() < 0.5:
        cut = [image[:, ::-1] for image in cut]
    gain = rng.uniform(0.8, 1.15) * rng.uniform(0.93, 1.07, size=3)
    pictures = [np.clip(image * (gain.astype(np.float32) / 255.0), 0.0, 1.0) for image in cut[:-1]]
    return [*pictures, cut[-1]]


def paper(rng: np.random.Generator, images: Images, side: int) -> Images:
    """Shifts, turns by quarters and punches a hole, each with PROBABILITY; then cuts."""
    if rng.random() < PROBABILITY:
        dx, dy = (int(value) for value in rng.integers(-SHIFT, SHIFT + 1, size=2))
        margin = ((SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0))
        rows, columns = (
            slice(SHIFT + dy, SHIFT + dy + CROP),
            slice(SHIFT + dx, SHIFT + dx + CROP),
        )
        images = [np.pad(image, margin, mode="reflect")[rows, columns] for image in images]
    if rng.random() < PROBABILITY:
        turns = int(rng.integers(1, 4))
        images = [np.rot90(image, turns) for image in images]
    if rng.random() < PROBABILITY:
        height, width = (int(value) for value in rng.integers(HOLE[0], HOLE[1] + 1, size=2))
        top, left = int(rng.integers(CROP - height + 1)), int(rng.integers(CROP - width + 1))
        images = [image.copy() for image in images]
        for image in images:
            image[top : top + height, left : left + width] = 0
    cut = _cut(rng, images, side)
    return [*(image * np.float32(1.0 / 255.0) for image in cut[:-1]), cut[-1]]


AUGMENTATIONS: dict[str, Callable[[np.random.Generator, Images, int], Images]] = {
    "mirror": mirrored,
    "paper": paper,
}


def _cut(rng: np.random.Generator, images: Images, side: int) -> Images:
    """Returns the same square of each image, at a random place."""
    top, left = (int(rng.integers(0, (CROP - side) // 16 + 1)) * 16 for _ in range(2))
    return [image[top : top + side, left : left + side] for image in images]
