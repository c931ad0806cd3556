"""Distances of identities to the same person and to other people."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bench.identity.observing import Observed
from keyframes import Identity
from keyframes.identity import ENOUGH

MOMENTS_APART = 0.5
"""Seconds between observations of one clip that count as different moments."""


@dataclass
class Distances:
    """Distances of identities to single observations of the same person and of other people."""

    same: list[float] = field(default_factory=list)
    other: list[float] = field(default_factory=list)

    def accepted(self, kind: str, threshold: float) -> float:
        """Returns the share of `same` or `other` below the threshold; NaN if there are none."""
        distances = np.array(getattr(self, kind))
        return float((distances < threshold).mean()) if len(distances) else float("nan")


def identities(observed: list[Observed]) -> list[tuple[Observed, NDArray[np.float32]]]:
    """Returns the last of each stream's first `ENOUGH` observations, and the embedding of all."""
    streams: dict[tuple[str, str], list[Observed]] = {}
    for one in observed:
        streams.setdefault((one.clip, one.stream), []).append(one)
    found = []
    for ones in streams.values():
        identity = Identity()
        for one in sorted(ones, key=lambda one: one.second)[:ENOUGH]:
            identity.observe(np.array(one.embedding, np.float32), one.qp)
        if identity.mean is not None:
            found.append((sorted(ones, key=lambda one: one.second)[ENOUGH - 1], identity.mean))
    return found


def compare(observed: list[Observed]) -> Distances:
    """Returns the distances of every stream's identity to every other single observation."""
    embeddings = np.array([one.embedding for one in observed], np.float32)
    people = np.array([one.person for one in observed])
    clips = np.array([one.clip for one in observed])
    seconds = np.array([one.second for one in observed])
    result = Distances()
    for last, mean in identities(observed):
        distances = np.linalg.norm(embeddings - mean, axis=1)
        is_same = people == last.person
        is_later = (clips != last.clip) | (seconds > last.second + MOMENTS_APART)
        result.same += distances[is_same & is_later].tolist()
        result.other += distances[~is_same].tolist()
    return result
