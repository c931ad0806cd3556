"""A small set of keyframes; the one that suits a face's pose best becomes its reference."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Landmarks: TypeAlias = NDArray[np.float32]
"""68x2 float32, x then y, in pixels."""

Picture: TypeAlias = NDArray[Any]
"""HxWx3 RGB, either uint8 in [0, 255] or float32 in [0, 1], as each use states."""

Embedding: TypeAlias = NDArray[np.float32]
"""128 float32 of Euclidean length 1; embeddings of one person are close to each other."""

Policy: TypeAlias = Literal["lfu", "max-distance"]

REACH = 100.0
"""Landmark distance in crop pixels beyond which even an uncompressed reference adds nothing."""
WORSE_THAN_FACE = 4.0
"""QP steps by which a reference may be worse than the face and still add something."""
LEAST_WORTH = 100.0
"""Minimum worth of a reference that helps. A reference as good as the face itself helps up to a
distance of 75, one that is 16 QP steps better up to 95."""
ASSUMED_BETTER = 6.0
"""QP steps by which a reference of unknown QP is assumed to be better than the face."""


@dataclass(slots=True, eq=False)
class Keyframe:
    """A face crop that is good enough to guide the restoration of other crops.

    Attributes:
        crop: 256x256x3 uint8 RGB, eyes aligned.
        landmarks: 68x2 float32, in pixels of the crop.
        qp: QP of the face, see `crop_qp`; lower is better, None if unknown.
        source: where it comes from: a frame of the stream, or a still sent outside the stream.
        sharpness: mean absolute Laplacian of the crop's green channel, in 8-bit levels.
        embedding: embedding of the face, compared with the person on screen before the keyframe is
            used; None for a keyframe from the stream itself.
        peer: SHA-256 of the address of the call that it comes from; empty for the current call.
        frame: number of the frame in which it was admitted, see `People.frames`.
        uses: how often it was chosen, halved at every insertion (a float: halves are exact).
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
    """Returns the Euclidean distance in pixels of two 68x2 arrays over all 136 coordinates."""
    return float(np.linalg.norm(a.astype(np.float64) - b.astype(np.float64)))


def worth(keyframe: Keyframe, distance: float, qp: float) -> float:
    """Returns how much a keyframe helps a face of this QP at this landmark distance, 0 or more.

    Measured on people outside the training set, the gain from a reference falls about linearly to
    zero with the distance and grows about linearly with the QP steps by which the reference is
    better. A face is restored better without a reference whose worth is below `LEAST_WORTH`.
    """
    better = ASSUMED_BETTER if keyframe.qp is None else qp - keyframe.qp
    return max(0.0, better + WORSE_THAN_FACE) * max(0.0, REACH - distance)


class KeyframeSet:
    """Holds at most `capacity` keyframes, oldest first.

    The policy decides which keyframe is evicted when one is added to a full set:

    - `lfu` evicts the least used keyframe (of equals the oldest); the new one starts at zero uses.
      Then every count is halved, also while the set is still filling, so that old uses count less.
    - `max-distance` evicts the candidate, of all `capacity + 1`, whose removal leaves the largest
      sum of pairwise landmark distances (of equals the oldest). This may be the new keyframe
      itself. Uses are counted and halved too, but have no effect.

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
        self._coordinates = np.empty((0, 136), np.float64)  # one row per keyframe

    def __len__(self) -> int:
        return len(self._keyframes)

    def __iter__(self) -> Iterator[Keyframe]:
        return iter(self._keyframes)

    def add(self, keyframe: Keyframe) -> None:
        """Adds `keyframe`; evicts one by the policy if the set is full."""
        self._keyframes.append(keyframe)
        self._coordinates = np.vstack([self._coordinates, _row(keyframe.landmarks)])
        if len(self) > self.capacity:
            evicted = self._evicted(self._coordinates)
            del self._keyframes[evicted]
            self._coordinates = np.delete(self._coordinates, evicted, axis=0)
        for kept in self._keyframes:
            kept.uses /= 2

    def discard(self, keyframe: Keyframe) -> None:
        """Removes `keyframe`, which must be in the set."""
        index = next(i for i, kept in enumerate(self._keyframes) if kept is keyframe)
        del self._keyframes[index]
        self._coordinates = np.delete(self._coordinates, index, axis=0)

    def replace(self, old: Keyframe, new: Keyframe) -> None:
        """Replaces `old`, which must be in the set, with `new`; `new` takes over its uses."""
        index = next(i for i, kept in enumerate(self._keyframes) if kept is old)
        new.uses = old.uses
        self._keyframes[index] = new
        self._coordinates[index] = _row(new.landmarks)

    def evicted_by(self, landmarks: Landmarks) -> Keyframe | None:
        """Returns the keyframe that `add` would evict for one with these landmarks, or None.

        None if the set is not full, or if `max-distance` would evict the new keyframe itself.
        """
        if len(self) < self.capacity:
            return None
        evicted = self._evicted(np.vstack([self._coordinates, _row(landmarks)]))
        return self._keyframes[evicted] if evicted < len(self) else None

    def nearest(self, landmarks: Landmarks) -> tuple[Keyframe, float] | None:
        """Returns the keyframe nearest to `landmarks` (of equals the oldest) and its distance.

        Returns None if the set is empty. `landmarks` is 68x2 in crop pixels; the distance is in
        pixels, see `landmark_distance`.
        """
        if not self._keyframes:
            return None
        distances = self._distances(landmarks)
        index = int(distances.argmin())
        return self._keyframes[index], float(distances[index])

    def choose(
        self, landmarks: Landmarks, qp: float | None = None
    ) -> tuple[Keyframe, float] | None:
        """Returns the keyframe to restore a face with and its landmark distance, or None.

        Returns None if the set is empty or no keyframe is worth using. Counts one use of the chosen
        keyframe, or, if none is worth using, of the nearest one, because its pose occurred.

        Args:
            landmarks: 68x2 in crop pixels.
            qp: QP of the face, see `crop_qp`. If given, the keyframe that helps such a face most is
                chosen, see `worth`; if None, the nearest (of equals the oldest), as in the paper.
        """
        if not self._keyframes:
            return None
        distances = self._distances(landmarks)
        index = nearest = int(distances.argmin())
        if qp is not None:
            worths = [
                worth(keyframe, float(distance), qp)
                for keyframe, distance in zip(self._keyframes, distances, strict=True)
            ]
            index = int(np.argmax(worths))
            if worths[index] < LEAST_WORTH:
                self._keyframes[nearest].uses += 1
                return None
        self._keyframes[index].uses += 1
        return self._keyframes[index], float(distances[index])

    def nearest_better(self, landmarks: Landmarks, highest_qp: float) -> float | None:
        """Returns the landmark distance to the nearest keyframe whose QP is unknown or low enough.

        Returns None if there is no such keyframe.
        """
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

    def _evicted(self, candidates: NDArray[np.float64]) -> int:
        """Returns the index of the keyframe that a full set loses.

        Args:
            candidates: `capacity + 1` rows of coordinates, the new keyframe's last.
        """
        if self.policy == "lfu":
            return int(np.argmin([keyframe.uses for keyframe in self._keyframes[: self.capacity]]))
        offsets = candidates[:, None] - candidates[None]  # (n, n, 136)
        return int(np.linalg.norm(offsets, axis=2).sum(axis=1).argmin())


def _row(landmarks: Landmarks) -> NDArray[np.float64]:
    return np.asarray(landmarks, np.float64).reshape(1, 136)
