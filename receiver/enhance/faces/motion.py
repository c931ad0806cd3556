"""Where landmarks measured in one frame are in the next: that is known sooner than new ones.

Pyramidal Lucas-Kanade (Bouguet, "Pyramidal Implementation of the Lucas Kanade Feature Tracker",
2000) in a picture of the face that is reduced to the same size for every face.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from keyframes import Landmarks

SIDE = 128
"""Pixels of the reduced picture of a face."""
AROUND = 1.6
"""Sides of the face's box that it shows."""
WINDOW, LEVELS = (13, 13), 2
"""Pixels around a point that are looked for, and halvings above the reduced picture."""
ENOUGH = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 10, 0.03)
LIKE = 18.0
"""Mean difference in levels of 255 between the surroundings of a point there and here, at most."""
LOST = 7
"""Points that may be lost; with more it is not the same face, or it moved too fast."""


@dataclass(frozen=True)
class FaceBefore:
    """A face with its landmarks, to be found again in the next frame.

    Attributes:
        picture: `SIDE`x`SIDE` uint8, cut out of the luma plane.
        landmarks: 68x2, in pixels of the frame.
        scale, corner: pixels of the picture for one of the frame; where in the frame its first
            pixel lies.
    """

    picture: NDArray[np.uint8]
    landmarks: Landmarks
    scale: float
    corner: NDArray[np.float64]

    @classmethod
    def of(
        cls, luma: NDArray[np.uint8], landmarks: Landmarks, box: NDArray[np.float64]
    ) -> "FaceBefore":
        """As it is in `luma` (HxW), looking around `box`, where it will be in the next frame."""
        side = AROUND * float(max(box[2] - box[0], box[3] - box[1], 1.0))
        scale, corner = SIDE / side, (box[:2] + box[2:] - side) / 2
        return cls(_cut(luma, scale, corner), landmarks, scale, corner)

    def now(self, luma: NDArray[np.uint8]) -> Landmarks | None:
        """Its landmarks in the next frame's luma plane, float32; None if it is not found again."""
        before = ((self.landmarks - self.corner) * self.scale).astype(np.float32)
        found: Any = cv2.calcOpticalFlowPyrLK(
            self.picture,
            _cut(luma, self.scale, self.corner),
            before,
            np.empty_like(before),
            winSize=WINDOW,
            maxLevel=LEVELS,
            criteria=ENOUGH,
        )
        after, status, difference = found
        good = (status.ravel() == 1) & (difference.ravel() < LIKE)
        if np.count_nonzero(~good) > LOST:
            return None
        moved = after - before
        moved[~good] = np.median(moved[good], axis=0)
        result: Landmarks = self.landmarks + moved / np.float32(self.scale)
        return result


def _cut(luma: NDArray[np.uint8], scale: float, corner: NDArray[np.float64]) -> NDArray[np.uint8]:
    x, y = (-corner * scale).tolist()
    to_picture = np.array([[scale, 0.0, x], [0.0, scale, y]])
    cut: Any = cv2.warpAffine(luma, to_picture, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE)
    result: NDArray[np.uint8] = cut
    return result
