"""Statistics of values that are one a person."""

from collections.abc import Sequence

import numpy as np

RESAMPLES = 10_000
"""Draws of a bootstrap interval."""


def bootstrap_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Returns the 95 % bootstrap interval of the mean: draws of as many values with replacement."""
    rng = np.random.default_rng(seed)
    draws = rng.choice(np.asarray(values, np.float64), (RESAMPLES, len(values)))
    low, high = np.percentile(draws.mean(axis=1), [2.5, 97.5])
    return float(low), float(high)
