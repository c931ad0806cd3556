"""Training samples out of the shards that `models.prepare` wrote."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from keyframes import landmark_distance, warp
from receiver.alignment import CROP, draw_landmarks

APART = 5
"""Samples of a shard between a picture and its reference, at the least."""


@dataclass(frozen=True)
class ReferenceMix:
    """How often a sample's reference is what; the rest of the probability is no reference."""

    raw: float = 0.4  # an original picture, as a still would bring
    decoded: float = 0.25  # a picture of the same stream
    other: float = 0.15  # a picture of another encoding of the clip: better or worse minutes


class Shard:
    """One shard, memory-mapped (see `models.prepare` for its arrays)."""

    def __init__(self, folder: Path) -> None:
        self.clip: str = json.loads((folder / "shard.json").read_text())["clip"]
        self.degraded = np.load(folder / "degraded.npy", mmap_mode="r")
        self.target = np.load(folder / "target.npy", mmap_mode="r")
        self.landmarks = np.load(folder / "landmarks.npy")
        self.raw = np.load(folder / "raw.npy", mmap_mode="r")
        self.raw_landmarks = np.load(folder / "raw_landmarks.npy")

    def __len__(self) -> int:
        return len(self.landmarks)


class Crops(Dataset[dict[str, Tensor]]):
    """Random samples; an index is only the seed of its sample, so that runs repeat.

    A sample holds `degraded`, `reference`, `target` (3xSxS), `landmarks` (1xSxS), all float32 in
    [0, 1], cut out at one random place, and `guided` (1 where there is a reference, else 0).
    """

    def __init__(self, folder: Path, length: int, side: int, mix: ReferenceMix, seed: int) -> None:
        """Raises FileNotFoundError if there are no shards in `folder`."""
        paths = sorted(path.parent for path in folder.glob("*/shard.json"))
        if not paths:
            raise FileNotFoundError(f"no shards in {folder}: run python -m models.prepare first")
        self.shards = [Shard(path) for path in paths]
        self.by_clip: dict[str, list[Shard]] = {}
        for shard in self.shards:
            self.by_clip.setdefault(shard.clip, []).append(shard)
        self.clips = sorted(self.by_clip)
        self.length, self.side, self.mix, self.seed = length, side, mix, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, index))
        shards = self.by_clip[self.clips[rng.integers(len(self.clips))]]
        shard = shards[rng.integers(len(shards))]
        i = int(rng.integers(len(shard)))
        reference = self._reference(rng, shards, shard, i)
        images = [
            shard.degraded[i],
            shard.degraded[i] if reference is None else reference,
            shard.target[i],
            draw_landmarks(shard.landmarks[i])[..., None],
        ]
        images = _augmented(rng, images, self.side)
        names = ("degraded", "reference", "target", "landmarks")
        sample = {name: _tensor(image) for name, image in zip(names, images, strict=True)}
        return sample | {"guided": torch.tensor(float(reference is not None))}

    def _reference(
        self, rng: np.random.Generator, shards: list[Shard], shard: Shard, i: int
    ) -> NDArray[np.uint8] | None:
        """A picture warped onto the landmarks of picture i, or None."""
        kind = rng.random()
        if kind < self.mix.raw:
            pictures, landmarks, apart = shard.raw, shard.raw_landmarks, APART
        elif kind < self.mix.raw + self.mix.decoded:
            pictures, landmarks, apart = shard.degraded, shard.landmarks, APART
        elif kind < self.mix.raw + self.mix.decoded + self.mix.other:
            other = shards[rng.integers(len(shards))]
            pictures, landmarks, apart = other.degraded, other.landmarks, 0
        else:
            return None
        candidates = [j for j in range(len(landmarks)) if abs(i - j) >= apart]
        if not candidates:
            return None
        # The nearest of a few, as out of a keyframe set that has filled more or less.
        few = rng.choice(candidates, size=min(len(candidates), int(rng.integers(1, 11))))
        j = min(few, key=lambda j: landmark_distance(landmarks[j], shard.landmarks[i]))
        return warp(np.ascontiguousarray(pictures[j]), landmarks[j], shard.landmarks[i])


def _augmented(rng: np.random.Generator, images: list[NDArray], side: int) -> list[NDArray]:
    """The same random cut, mirroring and exposure for all; the last is the landmark image."""
    top, left = (int(rng.integers(0, (CROP - side) // 16 + 1)) * 16 for _ in range(2))
    cut = [image[top : top + side, left : left + side] for image in images]
    if rng.random() < 0.5:
        cut = [image[:, ::-1] for image in cut]
    gain = rng.uniform(0.8, 1.15) * rng.uniform(0.93, 1.07, size=3)
    pictures = [np.clip(image * (gain.astype(np.float32) / 255.0), 0.0, 1.0) for image in cut[:-1]]
    return [*pictures, cut[-1]]


def _tensor(image: NDArray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32))
