"""Distinguishes people by the embeddings of a few faces."""

import numpy as np

from keyframes.keyframe_set import Embedding

SAME_PERSON = 0.36
"""Distance of embeddings below which two faces count as one person's."""
OTHER_PERSON = 0.5
"""Distance of embeddings above which an observation contradicts the earlier ones."""
UNCLEAR = 0.5
"""Weight of an observation that neither fits nor contradicts the earlier ones: most observations
between `SAME_PERSON` and `OTHER_PERSON` show the same person in bad quality."""
ENOUGH = 3
"""Observations after which an identity is known: a mean of several decides better than one."""
BEST = 5
"""Maximum number of observations in the mean of an identity: those of the best quality."""


class Identity:
    """Holds the mean embedding of a person's best observations.

    Each observation must fit the mean, and also the mean of the first `ENOUGH` observations. That
    first mean keeps a weight of one half, because otherwise a face that turns into another one step
    by step would pull the mean along with it.

    Attributes:
        contradictions: how many of the latest observations in a row contradict the earlier ones;
            an unclear one counts as `UNCLEAR`.
    """

    def __init__(self) -> None:
        self.contradictions = 0.0
        self._observations: list[tuple[float, Embedding]] = []  # QP and embedding, best first
        self._anchor: Embedding | None = None

    def __len__(self) -> int:
        """Returns how many observations are kept, at most `BEST`."""
        return len(self._observations)

    @property
    def mean(self) -> Embedding | None:
        """The mean embedding, of length 1; None before there are `ENOUGH` observations."""
        if len(self) < ENOUGH:
            return None
        found: Embedding = self._mean()
        return found

    def observe(self, embedding: Embedding, qp: float) -> None:
        """Adds an observation of this QP (see `crop_qp`), unless it contradicts the earlier ones.

        If it contradicts them or is unclear, only `contradictions` grows.
        """
        known = [one for one in (self._anchor, self.mean) if one is not None]
        if not known and len(self):
            known = [self._mean()]
        farthest = max((_distance(one, embedding) for one in known), default=0.0)
        if farthest > OTHER_PERSON:
            self.contradictions += 1.0
            return
        if self._anchor is not None and farthest >= SAME_PERSON:
            self.contradictions += UNCLEAR
            return
        self.contradictions = 0.0
        self._observations.append((qp, embedding))
        self._observations.sort(key=lambda one: one[0])  # stable: of equals, the older one first
        del self._observations[BEST:]
        if self._anchor is None:
            self._anchor = self.mean

    def distance(self, other: Embedding) -> float:
        """Returns the Euclidean distance of an embedding to the mean; infinite without a mean."""
        mean = self.mean
        return np.inf if mean is None else _distance(mean, other)

    def accepts(self, other: Embedding) -> bool:
        """Returns whether an embedding counts as the same person's."""
        return self.distance(other) < SAME_PERSON

    def _mean(self) -> Embedding:
        found = _mean_of([one for _, one in self._observations])
        return found if self._anchor is None else _mean_of([found, self._anchor])


def _mean_of(embeddings: list[Embedding]) -> Embedding:
    """Returns the mean, scaled to length 1."""
    found: Embedding = np.sum(embeddings, axis=0)
    found /= max(1e-6, float(np.linalg.norm(found)))
    return found


def _distance(a: Embedding, b: Embedding) -> float:
    return float(np.linalg.norm(a - b))
