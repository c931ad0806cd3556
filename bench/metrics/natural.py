"""Statistics of natural pictures that BRISQUE and NIQE share (Mittal et al., TIP 2012).

Pixels less their local mean, over their local deviation, are nearly Gaussian in a natural picture;
blur, noise and compression change the shape of their distribution and that of neighbours' products.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

WINDOW, SIGMA = 7, 7 / 6
"""Width and standard deviation, in pixels, of the Gaussian window of local statistics."""
SHAPES = np.arange(0.2, 10, 0.001)
"""Candidates for the shape of a distribution: 2 is a Gaussian's, 1 a Laplacian's."""


class Fit(NamedTuple):
    """An asymmetric generalized Gaussian distribution.

    Attributes:
        shape: 2 is a Gaussian's, 1 a Laplacian's, within `SHAPES`.
        mean: of the distribution.
        left, right: root mean square of the negative and of the other values.
        scale: factor from `left` and `right` to the distribution's scales.
    """

    shape: float
    mean: float
    left: float
    right: float
    scale: float


def normalize(luma: NDArray[Any], steady: float) -> NDArray[Any]:
    """Returns HxW luma less its local mean over its local deviation; outside of it all is 0.

    `steady` is added to the deviation: 1/255 of the luma's range. The result has the luma's type,
    float32 or float64. Sums are rounded to it: the sign of what is left in flat areas counts.
    """
    from scipy.ndimage import correlate1d

    offsets = np.arange(WINDOW) - WINDOW // 2
    kernel = np.exp(-0.5 * (offsets / SIGMA) ** 2)
    mean, square = luma, luma**2
    for axis in (0, 1):
        mean, square = (
            correlate1d(one, kernel / kernel.sum(), axis, luma.dtype, mode="constant")
            for one in (mean, square)
        )
    values: NDArray[Any] = (luma - mean) / (np.sqrt(np.abs(square - mean**2)) + steady)
    return values


def fit(values: NDArray[Any]) -> Fit:
    """Fits an asymmetric generalized Gaussian distribution by its moments.

    The shape of values that are all 0 is the least of `SHAPES`.
    """
    squares = values * values
    negative = values < 0
    left, right = (
        float(np.sqrt(squares[side].mean())) if side.any() else 0.0
        for side in (negative, ~negative)
    )
    power = float(squares.mean())
    ratio = float(np.abs(values).mean()) ** 2 / power if power else 0.0
    # Both halves weigh in, which is symmetric in left and right.
    total = left**2 + right**2
    skew = (left**3 + right**3) * (left + right) / total**2 if total else 0.0
    ratios, gammas = _shapes()
    nearest = int(np.argmin(np.abs(ratios - ratio * skew)))
    one, two, three = gammas[:, nearest].tolist()
    scale = float(np.sqrt(one / three))
    return Fit(float(SHAPES[nearest]), scale * (right - left) * two / one, left, right, scale)


def neighbours(values: NDArray[Any], wrap: bool) -> list[NDArray[Any]]:
    """Returns each value's product with its right, lower, lower right and lower left neighbour.

    With `wrap` the last pixel's neighbour is the first one, else it has none.
    """
    if wrap:
        below = np.roll(values, 1, 0)
        others = (np.roll(values, 1, 1), below, np.roll(below, 1, 1), np.roll(below, -1, 1))
        return [values * other for other in others]
    return [
        values[:, :-1] * values[:, 1:],
        values[:-1] * values[1:],
        values[:-1, :-1] * values[1:, 1:],
        values[1:, :-1] * values[:-1, 1:],
    ]


@lru_cache(maxsize=1)
def _shapes() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the squared mean over the power by shape, and the gamma functions of it (3 x n)."""
    from scipy.special import gamma

    gammas = np.array([gamma(order / SHAPES) for order in (1, 2, 3)])
    return gammas[1] ** 2 / (gammas[0] * gammas[2]), gammas
