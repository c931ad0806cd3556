"""What admission needs to know of a face's picture, and the faces of stills."""

import math
from dataclasses import dataclass

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from keyframes import Keyframe, Signature, crop_qp, signature
from receiver.alignment import (
    CROP,
    PLANAR_420,
    WHOLE,
    Affine,
    Crop,
    Region,
    extract_crop,
    picture_of,
    planes,
    transform,
)
from receiver.faces import Box, Face, FaceTracker, overlap

STILL_QP = 18.0
"""The H.264 QP that a still of some 30 kB is worth."""
SEARCHES = 2
"""Searches of a still, the coarse and the fine one."""
MARGIN = 0.05
"""Of a crop's side: room around it in a still that is asked for."""
SAME_PLACE = 0.2
"""Overlap of a still's face and a followed one beyond which they are one face."""


def sharpness(crop: Crop) -> float:
    """Mean absolute Laplacian of a 3x256x256 crop's green channel, in 8-bit levels."""
    edges = cv2.Laplacian(crop[1], cv2.CV_32F)
    return float(cv2.norm(edges, cv2.NORM_L1) * 255.0 / edges.size)


def scale_and_roll(crop_from_frame: Affine) -> tuple[float, float]:
    """Crop pixels for one pixel of the frame, and degrees by which the face is tilted."""
    across, down = crop_from_frame[0, 0], crop_from_frame[1, 0]
    return math.hypot(across, down), math.degrees(math.atan2(down, across))


@dataclass(frozen=True)
class StillFace:
    """A face of a still.

    Attributes:
        keyframe: what it becomes.
        look: its signature.
        box: left, top, right, bottom as fractions of the camera's picture.
        alone: whether it is the still's only one.
    """

    keyframe: Keyframe
    look: Signature
    box: Box
    alone: bool

    def among(self, faces: list[Face], size: NDArray[np.float64]) -> Face | None:
        """Which of a frame's faces it shows: the one in its place, or the only one.

        Args:
            size: the frame's width, height, width, height.
        """
        if self.alone and len(faces) == 1:
            return faces[0]
        overlaps = [overlap(self.box, face.box / size) for face in faces]
        best = int(np.argmax(overlaps)) if overlaps else 0
        return faces[best] if overlaps and overlaps[best] > SAME_PLACE else None


def region_of(face: Face, width: int, height: int) -> Region:
    """The part of a frame that holds a face's crop, and some room for it to move."""
    corners = np.array([(-MARGIN, -MARGIN), (1 + MARGIN, -MARGIN), (1 + MARGIN, 1 + MARGIN)])
    corners = np.vstack([corners, (-MARGIN, 1 + MARGIN)]) * CROP
    frame_from_crop = np.asarray(cv2.invertAffineTransform(face.crop_from_frame), np.float64)
    inside = corners @ frame_from_crop[:, :2].T + frame_from_crop[:, 2]
    left, top = (float(side) for side in np.clip(inside.min(axis=0) / (width, height), 0, 0.9))
    right, bottom = (float(side) for side in np.clip(inside.max(axis=0) / (width, height), 0, 1))
    return left, top, max(right, left + 0.1), max(bottom, top + 0.1)


def faces_of_still(still: av.VideoFrame, region: Region = WHOLE) -> list[StillFace]:
    """The faces of a picture, each with landmarks of its own; none if it is not 8-bit 4:2:0.

    Args:
        region: the part of the camera's picture that it shows.
    """
    if still.format.name not in PLANAR_420:
        return []
    luma, tracker = planes(still)[0], FaceTracker()
    faces: list[Face] = []
    for _ in range(SEARCHES):
        faces = faces or tracker.find(luma)
    size = np.array([still.width, still.height] * 2, np.float64)
    corner, part = np.array(region[:2] * 2), np.array(region[2:] * 2) - np.array(region[:2] * 2)
    return [
        StillFace(*_keyframe_of(still, face), corner + face.box / size * part, len(faces) == 1)
        for face in faces
    ]


def _keyframe_of(still: av.VideoFrame, face: Face) -> tuple[Keyframe, Signature]:
    crop = extract_crop(still, face.crop_from_frame)
    qp = crop_qp(STILL_QP, scale_and_roll(face.crop_from_frame)[0])
    landmarks = transform(face.landmarks, face.crop_from_frame)
    keyframe = Keyframe(picture_of(crop), landmarks, qp, "still", sharpness(crop))
    return keyframe, signature(crop)
