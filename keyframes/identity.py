"""Tells one person from another by the embeddings of a few faces."""

import numpy as np

from keyframes.keyframe_set import (
    Embedding,
)

SAME_PERSON = 0.36
"""Distance of embeddings below which two faces are taken for one person's."""


OTHER_PERSON = 0.5
"""Distance of embeddings beyond which an observation contradicts the ones before."""


UNCLEAR = 0.5
"""What an observation counts as that neither fits nor contradicts: of those between `SAME_PERSON`
and `OTHER_PERSON` most are of the same person in bad quality."""


ENOUGH = 3
"""Observations from which an identity is known: a mean of several decides better than one."""


BEST = 5
"""Observations of which an identity is the mean: the ones in the best quality."""


class Identity:
    """The mean embedding of a face's best observations.

    Each observation has to fit the mean, and the mean of the first `ENOUGH` too, which stays half
    of the mean: a face that goes over to another step by step would carry it along.

    Attributes:
        contradictions: the latest observations in a row that do not fit the ones before; unclear
            ones count as `UNCLEAR`.
    """

    def __init__(self) -> None:
        self.contradictions = 0.0
        self._observations: list[tuple[float, Embedding]] = []  # quality and embedding, best first
        self._anchor: Embedding | None = None

    def __len__(self) -> int:
        """Returns how many observations there are, at most `BEST`."""
        return len(self._observations)

    @property
    def mean(self) -> Embedding | None:
        """The mean embedding, of length 1; None before there are `ENOUGH` observations."""
        if len(self) < ENOUGH:
            return None
        found: Embedding = self._mean()
        return found

    def observe(self, embedding: Embedding, qp: float) -> None:
        """Adds an observation of quality `qp` (see `crop_qp`), unless it contradicts the others."""
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
        """Returns the Euclidean distance of an embedding to the mean, infinite before there is."""
        mean = self.mean
        return np.inf if mean is None else _distance(mean, other)

    def accepts(self, other: Embedding) -> bool:
        """Returns whether an embedding is taken for the same person's."""
        return self.distance(other) < SAME_PERSON

    def _mean(self) -> Embedding:
        found = _mean_of([one for _, one in self._observations])
        return found if self._anchor is None else _mean_of([found, self._anchor])


def _mean_of(embeddings: list[Embedding]) -> Embedding:
    """Returns the mean, of length 1."""
    found: Embedding = np.sum(embeddings, axis=0)
    found /= max(1e-6, float(np.linalg.norm(found)))
    return found


def _distance(a: Embedding, b: Embedding) -> float:
    return float(np.linalg.norm(a - b))
