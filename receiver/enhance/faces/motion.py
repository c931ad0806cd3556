"""Moves landmarks that were measured in one frame to the next frame.

That is faster than measuring them again. It uses pyramidal Lucas-Kanade (Bouguet, "Pyramidal
Implementation of the Lucas Kanade Feature Tracker", 2000) in a cut-out of the face, which is
reduced to the same size for every face.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from keyframes import Landmarks

CUTOUT_SIDE = 128
"""Side of the reduced cut-out of a face, in pixels."""
CUTOUT_TO_BOX = 1.6
"""Side of what the cut-out shows, relative to the longer side of the face's box."""
FLOW_WINDOW, FLOW_LEVELS = (13, 13), 2
"""Pixels around a point that are compared, and halvings of the cut-out."""
STOP_CRITERIA = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 10, 0.03)
MAX_DIFFERENCE = 18.0
"""Largest mean difference, in 8-bit levels, between the surroundings of a point in both frames."""
MAX_LOST = 7
"""Maximum number of lost points: with more it is another face, or the face moved too fast."""


@dataclass(frozen=True)
class FaceBefore:
    """A face with its landmarks, to be found again in the next frame.

    Attributes:
        cutout: `CUTOUT_SIDE`x`CUTOUT_SIDE` uint8, sampled from the luma plane.
        landmarks: 68x2 float32, in pixels of the frame.
        scale: pixels of the cut-out for one pixel of the frame.
        corner: x and y in the frame of the cut-out's first pixel.
    """

    cutout: NDArray[np.uint8]
    landmarks: Landmarks
    scale: float
    corner: NDArray[np.float64]

    @classmethod
    def of(
        cls, luma: NDArray[np.uint8], landmarks: Landmarks, box: NDArray[np.float64]
    ) -> "FaceBefore":
        """Returns the face of a frame.

        Args:
            luma: HxW, the frame's Y plane.
            landmarks: 68x2, in pixels of the frame.
            box: left, top, right, bottom around which the next frame is searched, in pixels.
        """
        side = CUTOUT_TO_BOX * float(max(box[2] - box[0], box[3] - box[1], 1.0))
        scale, corner = CUTOUT_SIDE / side, (box[:2] + box[2:] - side) / 2
        return cls(_cut(luma, scale, corner), landmarks, scale, corner)

    def now(self, luma: NDArray[np.uint8]) -> Landmarks | None:
        """Returns the landmarks in the next frame, 68x2 float32; None if the face is not found.

        `luma` is the next frame's Y plane, HxW.
        """
        before = ((self.landmarks - self.corner) * self.scale).astype(np.float32)
        found: Any = cv2.calcOpticalFlowPyrLK(
            self.cutout,
            _cut(luma, self.scale, self.corner),
            before,
            np.empty_like(before),
            winSize=FLOW_WINDOW,
            maxLevel=FLOW_LEVELS,
            criteria=STOP_CRITERIA,
        )
        after, status, difference = found
        good = (status.ravel() == 1) & (difference.ravel() < MAX_DIFFERENCE)
        if np.count_nonzero(~good) > MAX_LOST:
            return None
        moved = after - before
        moved[~good] = np.median(moved[good], axis=0)
        result: Landmarks = self.landmarks + moved / np.float32(self.scale)
        return result


def _cut(luma: NDArray[np.uint8], scale: float, corner: NDArray[np.float64]) -> NDArray[np.uint8]:
    x, y = (-corner * scale).tolist()
    to_cutout = np.array([[scale, 0.0, x], [0.0, scale, y]])
    size = CUTOUT_SIDE, CUTOUT_SIDE
    cut: Any = cv2.warpAffine(luma, to_cutout, size, borderMode=cv2.BORDER_REPLICATE)
    result: NDArray[np.uint8] = cut
    return result
