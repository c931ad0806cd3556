"""Random cuts, flips and exposures, the same for all pictures of a sample."""

import numpy as np
from numpy.typing import NDArray

from receiver.enhance.faces.alignment import CROP

OFTEN = 0.2
"""Probability of each of the paper's augmentations."""


SHIFT = round(0.13 * CROP)


HOLE = (16, 64)
"""Sides of the paper's hole, in pixels."""


def _mirrored(rng: np.random.Generator, images: list[NDArray], side: int) -> list[NDArray]:
    """The same random cut, mirroring and exposure for all; the last is the landmark image."""
    cut = _cut(rng, images, side)
    if rng.random() < 0.5:
        cut = [image[:, ::-1] for image in cut]
    gain = rng.uniform(0.8, 1.15) * rng.uniform(0.93, 1.07, size=3)
    pictures = [np.clip(image * (gain.astype(np.float32) / 255.0), 0.0, 1.0) for image in cut[:-1]]
    return [*pictures, cut[-1]]


def _paper(rng: np.random.Generator, images: list[NDArray], side: int) -> list[NDArray]:
    """The paper's: a shift, a quarter turn and a hole, each now and then, the same for all."""
    if rng.random() < OFTEN:
        dx, dy = (int(value) for value in rng.integers(-SHIFT, SHIFT + 1, size=2))
        margin = ((SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0))
        rows, columns = slice(SHIFT + dy, SHIFT + dy + CROP), slice(SHIFT + dx, SHIFT + dx + CROP)
        images = [np.pad(image, margin, mode="reflect")[rows, columns] for image in images]
    if rng.random() < OFTEN:
        turns = int(rng.integers(1, 4))
        images = [np.rot90(image, turns) for image in images]
    if rng.random() < OFTEN:
        height, width = (int(value) for value in rng.integers(HOLE[0], HOLE[1] + 1, size=2))
        top, left = int(rng.integers(CROP - height + 1)), int(rng.integers(CROP - width + 1))
        images = [image.copy() for image in images]
        for image in images:
            image[top : top + height, left : left + width] = 0
    cut = _cut(rng, images, side)
    return [*(image * np.float32(1.0 / 255.0) for image in cut[:-1]), cut[-1]]


AUGMENTATIONS = {"mirror": _mirrored, "paper": _paper}


def _cut(rng: np.random.Generator, images: list[NDArray], side: int) -> list[NDArray]:
    """The same square of all, at a random place."""
    top, left = (int(rng.integers(0, (CROP - side) // 16 + 1)) * 16 for _ in range(2))
    return [image[top : top + side, left : left + side] for image in images]
