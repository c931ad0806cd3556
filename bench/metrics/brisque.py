"""BRISQUE, by the support vectors that the package `brisque` ships.

Only its two files are read: its code breaks with NumPy 2.4 (an array of one number is no number)
and imports a library that has to be compiled.
"""

import pickle
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bench.command_line import MissingPackageError, package_file
from bench.metrics.natural import fit, neighbours, normalize
from keyframes import Picture

WEIGHTS = (0.2125, 0.7154, 0.0721)
"""Luma of red, green and blue, as the support vectors were made with."""


def brisque(picture: Picture) -> float:
    """Returns BRISQUE of one HxWx3 uint8 RGB picture, about 0 (natural) to 100 (distorted).

    A support vector regression of natural scene statistics, trained by people's judgement of
    photographs that were blurred, compressed and noisy (Mittal et al., TIP 2012). Single values
    may be below 0 and above 100. Raises MissingPackageError.
    """
    grey = picture.astype(np.float64) @ (np.array(WEIGHTS) / 255)
    half = cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_CUBIC)
    return _judge(np.array(_features(grey) + _features(half)))


def brisque_problem() -> str | None:
    """Returns why BRISQUE cannot be measured here; None if it can."""
    try:
        package_file("brisque", "models", "svm.txt")
    except MissingPackageError as error:
        return str(error)
    return None


def _features(grey: NDArray[Any]) -> list[float]:
    """Returns the 18 features of one scale; grey is HxW, 0 to 1."""
    values = normalize(grey, 1 / 255)
    own = fit(values)
    features = [own.shape, (own.left**2 + own.right**2) / 2]
    for product in neighbours(values, wrap=False):
        one = fit(product)
        features += [one.shape, one.mean, one.left**2, one.right**2]
    return features


def _judge(features: NDArray[Any]) -> float:
    """Returns the support vector regression of 36 features."""
    low, high, gamma, offset, weights, vectors = _parameters()
    scaled = 2 * (features - low) / (high - low) - 1
    kernel = np.exp(-gamma * ((vectors - scaled) ** 2).sum(axis=1))
    return float(weights @ kernel - offset)


@lru_cache(maxsize=1)
def _parameters() -> tuple[Any, Any, float, float, Any, Any]:
    """Reads the features' limits, and the kernel's gamma, the offset, weights and vectors."""
    limits = pickle.loads(package_file("brisque", "models", "normalize.pickle").read_bytes())
    text = package_file("brisque", "models", "svm.txt").read_text()
    head, _, body = text.partition("\nSV\n")
    settings = dict(line.split(maxsplit=1) for line in head.splitlines())
    weights, vectors = [], []
    for line in body.splitlines():
        weight, *entries = line.split()
        weights.append(float(weight))
        vector = np.zeros(len(limits["min_"]))
        for entry in entries:  # libsvm leaves out zeros; it counts from 1
            index, _, value = entry.partition(":")
            vector[int(index) - 1] = float(value)
        vectors.append(vector)
    low, high = (np.array(limits[name], np.float64) for name in ("min_", "max_"))
    gamma, offset = float(settings["gamma"]), float(settings["rho"])
    return low, high, gamma, offset, np.array(weights), np.array(vectors)
