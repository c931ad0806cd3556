"""A small set of keyframes, of which the one nearest in pose becomes the reference."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Landmarks: TypeAlias = NDArray[np.float32]
"""68x2 float32, x then y, in pixels."""

Picture: TypeAlias = NDArray[Any]
"""HxWx3 RGB, uint8 in [0, 255] or float32 in [0, 1]; each use says which."""

Policy: TypeAlias = Literal["lfu", "max-distance"]


@dataclass(slots=True, eq=False)
class Keyframe:
    """A face that arrived well enough to help restore others.

    Attributes:
        crop: 256x256x3 uint8 RGB, eyes aligned.
        landmarks: 68x2 float32, in pixels of the crop.
        qp: mean luma QP of the picture it came from, None where unknown.
        source: how it came: an I-frame of the stream, or a still sent beside it.
        uses: how often it was chosen, halved at every insertion (a float: the halves are exact).
    """

    crop: Picture
    landmarks: Landmarks
    qp: float | None = None
    source: Literal["i-frame", "still"] = "i-frame"
    uses: float = 0.0


def landmark_distance(a: Landmarks, b: Landmarks) -> float:
    """Euclidean distance over all 136 coordinates of two 68x2 landmark arrays, in pixels."""
    return float(np.linalg.norm(a.astype(np.float64) - b.astype(np.float64)))


class KeyframeSet:
    """At most `capacity` keyframes, oldest first.

    Policies, for the moment when a keyframe arrives and the set is full:

    - `lfu`: the least used one goes (of equals the oldest); the newcomer starts at zero uses.
      Then every count is halved, also while the set is still filling, so that old fame fades.
    - `max-distance`: of the `capacity + 1` candidates that one goes (of equals the oldest)
      without which the rest keeps the largest sum of pairwise landmark distances.
      This may be the newcomer itself. Counts are kept, and halved, but do not matter.

    ("Perceptual Quality Improvement in Videoconferencing using Keyframes-based GAN", section III.)
    """

    def __init__(self, capacity: int = 10, policy: Policy = "lfu") -> None:
        """Raises ValueError for a capacity below 1 or an unknown policy."""
        if capacity < 1:
            raise ValueError(f"capacity {capacity} is below 1")
        if policy not in ("lfu", "max-distance"):
            raise ValueError(f"policy {policy!r} is neither 'lfu' nor 'max-distance'")
        self.capacity = capacity
        self.policy = policy
        self._keyframes: list[Keyframe] = []
        self._coordinates = np.empty(
            (0, 136), np.float64
        )  # one row a keyframe, for one-pass lookup

    def __len__(self) -> int:
        return len(self._keyframes)

    def __iter__(self) -> Iterator[Keyframe]:
        return iter(self._keyframes)

    def add(self, keyframe: Keyframe) -> None:
        """Takes `keyframe` in, evicting by the policy if the set is full."""
        self._keyframes.append(keyframe)
        self._coordinates = np.vstack([self._coordinates, _row(keyframe.landmarks)])
        if len(self) > self.capacity:
            evicted = self._least_used() if self.policy == "lfu" else self._least_distant()
            del self._keyframes[evicted]
            self._coordinates = np.delete(self._coordinates, evicted, axis=0)
        for kept in self._keyframes:
            kept.uses /= 2

    def choose(self, landmarks: Landmarks) -> tuple[Keyframe, float]:
        """Returns the keyframe nearest to `landmarks` (of equals the oldest) and its distance.

        Counts as one use of it. `landmarks` is 68x2 in crop pixels, the distance is in pixels.
        Raises LookupError if the set is empty.
        """
        if not self._keyframes:
            raise LookupError("an empty keyframe set has no nearest keyframe")
        offsets = self._coordinates - _row(landmarks)
        squares = np.einsum("ij,ij->i", offsets, offsets)
        nearest = int(squares.argmin())
        chosen = self._keyframes[nearest]
        chosen.uses += 1
        return chosen, float(np.sqrt(squares[nearest]))

    def _least_used(self) -> int:
        # The newcomer, last in the list, does not stand for eviction.
        return int(np.argmin([keyframe.uses for keyframe in self._keyframes[:-1]]))

    def _least_distant(self) -> int:
        offsets = self._coordinates[:, None] - self._coordinates[None]  # (n, n, 136)
        return int(np.linalg.norm(offsets, axis=2).sum(axis=1).argmin())


def _row(landmarks: Landmarks) -> NDArray[np.float64]:
    return np.asarray(landmarks, np.float64).reshape(1, 136)
