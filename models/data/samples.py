"""Training samples out of the shards that `models.prepare` wrote."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from keyframes import landmark_distance, warp
from receiver.enhance.faces.alignment import CROP, draw_landmarks

APART = 5
"""Samples of a shard between a picture and its reference, at the least."""
PICTURE = (CROP, CROP, 3)
BROKEN = (OSError, ValueError, EOFError, KeyError, TypeError)
"""What reading a broken shard raises."""
OFTEN = 0.2
"""Probability of each of the paper's augmentations."""
SHIFT = round(0.13 * CROP)
HOLE = (16, 64)
"""Sides of the paper's hole, in pixels."""


@dataclass(frozen=True)
class ReferenceMix:
    """How often a sample's reference is what; the rest of the probability is no reference."""

    raw: float = 0.4  # an original picture, as a still would bring
    decoded: float = 0.25  # a picture of the same stream
    other: float = 0.15  # a picture of another encoding of the clip: better or worse minutes


class Shard:
    """One shard (see `models.prepare` for its arrays).

    Each picture is read when it is asked for: neither memory nor open files grow with the shards.
    """

    def __init__(self, folder: Path) -> None:
        """Raises one of BROKEN if an array is missing, cut off or of another shape."""
        about = json.loads((folder / "shard.json").read_text())
        self.folder, self.clip, self.qp = folder, str(about["clip"]), list(about["qp"])
        self.landmarks = np.load(folder / "landmarks.npy")
        self.raw_landmarks = np.load(folder / "raw_landmarks.npy")
        for name in ("landmarks", "raw_landmarks"):
            self._check(name, getattr(self, name), (68, 2), np.float32)
        self._begins = {}
        for name in ("degraded", "target", "raw"):
            pictures = np.load(folder / f"{name}.npy", mmap_mode="r")
            self._check(name, pictures, PICTURE, np.uint8)
            self._begins[name] = pictures.offset

    def __len__(self) -> int:
        return len(self.landmarks)

    def picture(self, name: str, i: int) -> NDArray[np.uint8]:
        """Picture i of `degraded`, `target` or `raw`, 256x256x3 RGB."""
        size = math.prod(PICTURE)
        begin = self._begins[name] + i * size
        return np.fromfile(self.folder / f"{name}.npy", np.uint8, size, offset=begin).reshape(
            PICTURE
        )

    def _check(self, name: str, array: NDArray, size: tuple[int, ...], kind: type) -> None:
        wanted = (len(self.qp), *size)
        if not self.qp or array.shape != wanted or array.dtype != kind:
            raise ValueError(f"{name}.npy is {array.dtype} {array.shape} instead of {wanted}")


def load_shards(folder: Path) -> list[Shard]:
    """The shards of a folder; broken ones are named and passed over.

    Raises FileNotFoundError if there are none.
    """
    shards = []
    for path in sorted(path.parent for path in folder.glob("*/shard.json")):
        try:
            shards.append(Shard(path))
        except BROKEN as error:
            print(f"passed over {path}: {type(error).__name__}: {error}")
    if not shards:
        raise FileNotFoundError(f"no shards in {folder}: run python -m models.prepare first")
    return shards


class Crops(Dataset[dict[str, Tensor]]):
    """Random samples; an index is only the seed of its sample, so that runs repeat.

    A sample holds `degraded`, `reference`, `target` (3xSxS), `landmarks` (1xSxS), all float32 in
    [0, 1], cut out at one random place, and `guided` (1 where there is a reference, else 0).
    """

    def __init__(
        self,
        folder: Path,
        length: int,
        side: int,
        mix: ReferenceMix,
        seed: int,
        augmentation: str = "mirror",
        pairs: bool = False,
    ) -> None:
        """Raises FileNotFoundError if there are no shards in `folder`.

        Args:
            augmentation: a name of AUGMENTATIONS.
            pairs: samples 2n and 2n + 1 are successive pictures of one shard, with one reference
                and the same augmentation.
        """
        self.by_clip: dict[str, list[Shard]] = {}
        for shard in load_shards(folder):
            self.by_clip.setdefault(shard.clip, []).append(shard)
        self.clips = sorted(self.by_clip)
        self.length, self.side, self.mix, self.seed = length, side, mix, seed
        self.pairs = pairs
        self.augment = AUGMENTATIONS[augmentation]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, index // 2 if self.pairs else index))
        shards = self.by_clip[self.clips[rng.integers(len(self.clips))]]
        shard = shards[rng.integers(len(shards))]
        i = int(rng.integers(len(shard)))
        chosen = self._choose(rng, shards, shard, i)
        if self.pairs and index % 2:
            i = min(i + 1, len(shard) - 1)
        degraded = shard.picture("degraded", i)
        images = [
            degraded,
            degraded if chosen is None else chosen.warped(shard.landmarks[i]),
            shard.picture("target", i),
            draw_landmarks(shard.landmarks[i])[..., None],
        ]
        images = self.augment(rng, images, self.side)
        names = ("degraded", "reference", "target", "landmarks")
        sample = {name: _tensor(image) for name, image in zip(names, images, strict=True)}
        return sample | {"guided": torch.tensor(float(chosen is not None))}

    def _choose(
        self, rng: np.random.Generator, shards: list[Shard], shard: Shard, i: int
    ) -> "_Chosen | None":
        """A reference for picture i of a shard, or None."""
        kind = rng.random()
        if kind < self.mix.raw:
            source, pictures, landmarks, apart = shard, "raw", shard.raw_landmarks, APART
        elif kind < self.mix.raw + self.mix.decoded:
            source, pictures, landmarks, apart = shard, "degraded", shard.landmarks, APART
        elif kind < self.mix.raw + self.mix.decoded + self.mix.other:
            source = shards[rng.integers(len(shards))]
            pictures, landmarks, apart = "degraded", source.landmarks, 0
        else:
            return None
        candidates = [j for j in range(len(landmarks)) if abs(i - j) >= apart]
        if not candidates:
            return None
        # The nearest of a few, as out of a keyframe set that has filled more or less.
        few = rng.choice(candidates, size=min(len(candidates), int(rng.integers(1, 11))))
        j = min(few, key=lambda j: landmark_distance(landmarks[j], shard.landmarks[i]))
        return _Chosen(source.picture(pictures, int(j)), landmarks[j])


@dataclass(frozen=True)
class _Chosen:
    """A reference, 256x256x3 uint8, with its 68x2 landmarks."""

    picture: NDArray[np.uint8]
    landmarks: NDArray[np.float32]

    def warped(self, landmarks: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Bent onto the landmarks of another picture."""
        return warp(self.picture, self.landmarks, landmarks)


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


def _tensor(image: NDArray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32))
