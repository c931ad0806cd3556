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

Embedding: TypeAlias = NDArray[np.float32]
"""128 float32 of length 1, which lie near each other for pictures of one person."""

Policy: TypeAlias = Literal["lfu", "max-distance"]

REACH = 100.0
"""Landmark distance in crop pixels beyond which even a raw picture brings nothing."""
WORSE = 4.0
"""QP steps by which a reference may be worse than the face, and still bring something new."""
LEAST = 100.0
"""Worth below which a face is better off without a reference: one as good as the face itself
helps up to a distance of 75, one that is 16 steps better up to 95."""
UNKNOWN = 6.0
"""QP steps by which a reference of unknown QP is taken to be better."""


@dataclass(slots=True, eq=False)
class Keyframe:
    """A face that arrived well enough to help restore others.

    Attributes:
        crop: 256x256x3 uint8 RGB, eyes aligned.
        landmarks: 68x2 float32, in pixels of the crop.
        qp: luma QP of the face in the picture it came from, None where unknown: the lower, the
            better the picture.
        source: how it came: a picture of the stream, or a still sent beside it.
        sharpness: mean absolute Laplacian of the crop's luma, in 8-bit levels.
        embedding: of the face, by which it is compared with those on screen before it is used; None
            for a picture of the stream itself.
        peer: SHA-256 of the address of the call that it comes from; empty for this one.
        frame: number of the frame that it was admitted in, see `People.frames`.
        uses: how often it was chosen, halved at every insertion (a float: the halves are exact).
    """

    crop: Picture
    landmarks: Landmarks
    qp: float | None = None
    source: Literal["stream", "still"] = "stream"
    sharpness: float = 0.0
    embedding: Embedding | None = None
    peer: bytes = b""
    frame: int = 0
    uses: float = 0.0


def landmark_distance(a: Landmarks, b: Landmarks) -> float:
    """Euclidean distance over all 136 coordinates of two 68x2 landmark arrays, in pixels."""
    return float(np.linalg.norm(a.astype(np.float64) - b.astype(np.float64)))


def worth(keyframe: Keyframe, distance: float, qp: float) -> float:
    """What a keyframe is worth to a face of this QP at this landmark distance: more is better.

    Measured on unseen people, what a reference adds falls about linearly to nothing with the
    distance and grows about linearly with the QP steps by which it is the better picture. Below
    `LEAST` the face is better off without it.
    """
    better = UNKNOWN if keyframe.qp is None else qp - keyframe.qp
    return max(0.0, better + WORSE) * max(0.0, REACH - distance)


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
            evicted = (
                self._least_used(len(self) - 1) if self.policy == "lfu" else self._least_distant()
            )
            del self._keyframes[evicted]
            self._coordinates = np.delete(self._coordinates, evicted, axis=0)
        for kept in self._keyframes:
            kept.uses /= 2

    def discard(self, keyframe: Keyframe) -> None:
        """Removes one of the set's keyframes."""
        place = next(i for i, kept in enumerate(self._keyframes) if kept is keyframe)
        del self._keyframes[place]
        self._coordinates = np.delete(self._coordinates, place, axis=0)

    def replace(self, old: Keyframe, new: Keyframe) -> None:
        """Puts `new` into the place of `old`, one of the set's, with its count of uses."""
        place = next(i for i, kept in enumerate(self._keyframes) if kept is old)
        new.uses = old.uses
        self._keyframes[place] = new
        self._coordinates[place] = _row(new.landmarks)

    def least_used(self) -> Keyframe | None:
        """The one that is used least (of equals the oldest); None if the set is empty."""
        return self._keyframes[self._least_used(len(self))] if self._keyframes else None

    def nearest(self, landmarks: Landmarks) -> tuple[Keyframe, float] | None:
        """The keyframe nearest to `landmarks` (of equals the oldest) and its distance.

        None if the set is empty. `landmarks` is 68x2 in crop pixels, the distance is in pixels.
        """
        if not self._keyframes:
            return None
        distances = self._distances(landmarks)
        place = int(distances.argmin())
        return self._keyframes[place], float(distances[place])

    def choose(
        self, landmarks: Landmarks, qp: float | None = None
    ) -> tuple[Keyframe, float] | None:
        """The keyframe to restore a face with, and its landmark distance; None if there is none.

        Counts as one use of it, or, if none is worth using, of the nearest: its pose came up.

        Args:
            landmarks: 68x2 in crop pixels.
            qp: of the face, see `crop_qp`. With it, the keyframe that is worth most to such a
                face, see `worth`; without it, the nearest (of equals the oldest), as in the paper.
        """
        if not self._keyframes:
            return None
        distances = self._distances(landmarks)
        place = nearest = int(distances.argmin())
        if qp is not None:
            worths = [
                worth(keyframe, float(distance), qp)
                for keyframe, distance in zip(self._keyframes, distances, strict=True)
            ]
            place = int(np.argmax(worths))
            if worths[place] < LEAST:
                self._keyframes[nearest].uses += 1
                return None
        self._keyframes[place].uses += 1
        return self._keyframes[place], float(distances[place])

    def nearest_better(self, landmarks: Landmarks, highest_qp: float) -> float | None:
        """Distance to the nearest keyframe of at most this QP, or of none; None without one."""
        distances = self._distances(landmarks)
        fine = [
            float(distance)
            for keyframe, distance in zip(self._keyframes, distances, strict=True)
            if keyframe.qp is None or keyframe.qp <= highest_qp
        ]
        return min(fine, default=None)

    def _distances(self, landmarks: Landmarks) -> NDArray[np.float64]:
        offsets = self._coordinates - _row(landmarks)
        squares: NDArray[np.float64] = np.einsum("ij,ij->i", offsets, offsets)
        return np.sqrt(squares)

    def _least_used(self, count: int) -> int:
        """The place of the least used of the first `count`: a newcomer, last, does not stand."""
        return int(np.argmin([keyframe.uses for keyframe in self._keyframes[:count]]))

    def _least_distant(self) -> int:
        offsets = self._coordinates[:, None] - self._coordinates[None]  # (n, n, 136)
        return int(np.linalg.norm(offsets, axis=2).sum(axis=1).argmin())


def _row(landmarks: Landmarks) -> NDArray[np.float64]:
    return np.asarray(landmarks, np.float64).reshape(1, 136)
