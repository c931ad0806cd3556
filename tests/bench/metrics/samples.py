"""Pictures that the tests of metrics judge."""

import cv2
import numpy as np
from skimage.data import astronaut


def noise(seed: int, low: int = 60, high: int = 190) -> np.ndarray:
    """Returns 64x64 RGB noise that depends on its seed alone."""
    return np.random.default_rng(seed).integers(low, high, (64, 64, 3)).astype(np.uint8)


def grey(level: int, side: int = 64) -> np.ndarray:
    return np.full((side, side, 3), level, np.uint8)


def photograph(side: int = 512) -> np.ndarray:
    """Returns a face in the upper middle of a real photograph."""
    left = (512 - side) // 2 - 32 * (side < 512)
    return np.ascontiguousarray(astronaut()[:side, left : left + side])


def blurred(picture: np.ndarray, deviation: float) -> np.ndarray:
    return cv2.GaussianBlur(picture, (0, 0), deviation)


def noisy(picture: np.ndarray, deviation: float) -> np.ndarray:
    added = np.random.default_rng(0).normal(0, deviation, picture.shape)
    return np.clip(picture + added, 0, 255).astype(np.uint8)


def compressed(picture: np.ndarray, quality: int) -> np.ndarray:
    """Returns a picture after JPEG; quality is 0 to 100."""
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


WORSE = {
    "blur": [lambda p, x=x: blurred(p, x) for x in (1, 2, 4)],
    "noise": [lambda p, x=x: noisy(p, x) for x in (5, 15, 40)],
    "compression": [lambda p, x=x: compressed(p, x) for x in (60, 20, 5)],
}
"""Ways to make a picture worse and worse."""
