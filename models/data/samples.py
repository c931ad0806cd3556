"""Draws random training samples from shards."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from keyframes import landmark_distance, warp
from models.data.augmentation import AUGMENTATIONS, Images
from models.data.shards import Shard, load_shards
from receiver.enhance.faces.alignment import draw_landmarks

MIN_DISTANCE = 5
"""Smallest distance between a picture and its reference, in samples of the shard."""


@dataclass(frozen=True)
class ReferenceMix:
    """Probabilities of the kinds of reference; the rest is that of no reference."""

    raw: float = 0.4  # an original picture, like a still
    decoded: float = 0.25  # a picture of the same stream
    other: float = 0.15  # a picture of another encoding of the clip, of better or worse quality


class Crops(Dataset[dict[str, Tensor]]):
    """Random samples. An index is only the seed of its sample, so that runs are repeatable.

    A sample holds `degraded`, `reference` and `target` (3xSxS) and `landmarks` (1xSxS), all float32
    in [0, 1] and cut at the same random place, and `guided` (1 if there is a reference, else 0).
    Without a reference, `reference` equals `degraded`.
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
            length: number of samples.
            side: S, in pixels.
            augmentation: a name in AUGMENTATIONS.
            pairs: make samples 2n and 2n + 1 successive pictures of one shard, with the same
                reference and augmentation.
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
        images: Images = [
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
        """Chooses a reference for picture i of a shard, or None."""
        kind = rng.random()
        if kind < self.mix.raw:
            source, pictures, landmarks, apart = shard, "raw", shard.raw_landmarks, MIN_DISTANCE
        elif kind < self.mix.raw + self.mix.decoded:
            source, pictures, landmarks, apart = shard, "degraded", shard.landmarks, MIN_DISTANCE
        elif kind < self.mix.raw + self.mix.decoded + self.mix.other:
            source = shards[rng.integers(len(shards))]
            pictures, landmarks, apart = "degraded", source.landmarks, 0
        else:
            return None
        candidates = [j for j in range(len(landmarks)) if abs(i - j) >= apart]
        if not candidates:
            return None
        # The nearest of a few, as if the keyframe set were more or less full.
        few = rng.choice(candidates, size=min(len(candidates), int(rng.integers(1, 11))))
        j = min(few, key=lambda j: landmark_distance(landmarks[j], shard.landmarks[i]))
        return _Chosen(source.picture(pictures, int(j)), landmarks[j])


@dataclass(frozen=True)
class _Chosen:
    """A reference, 256x256x3 uint8, and its landmarks, 68x2 in crop pixels."""

    picture: NDArray[np.uint8]
    landmarks: NDArray[np.float32]

    def warped(self, landmarks: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Returns the picture, warped onto the landmarks of another picture."""
        return warp(self.picture, self.landmarks, landmarks)


def _tensor(image: NDArray[Any]) -> Tensor:
    """Converts HxWxC to CxHxW float32."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32))
