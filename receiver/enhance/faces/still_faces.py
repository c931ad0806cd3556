"""Finds the faces of stills and decides whether they become references."""

import logging
import math
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from keyframes import (
    AppearanceDescriptor,
    FaceObservation,
    Keyframe,
    Person,
    appearance_descriptor,
    crop_qp,
    likeness,
    resemblance,
    thumbnail,
    warp,
)
from keyframes.people import CUT
from receiver.enhance.faces.alignment import (
    CROP,
    can_be_cropped,
    crop_of,
    extract_crop,
    picture_of,
    transform,
)
from receiver.enhance.faces.observations import detail, scale_and_roll, sharpness
from receiver.enhance.faces.recognition import ANSWERS_WITHIN, FaceRecogniser
from receiver.enhance.faces.tracking import Face, FaceTracker, overlap
from receiver.media.frame import Box
from receiver.media.pixels import PLANAR_420
from receiver.media.planes import WHOLE, Region, planes

logger = logging.getLogger(__name__)

Verdict: TypeAlias = Literal["still", "nobody's", "worse", "waits"]
"""The decision about a face of a still: it becomes a reference; it is refused because it shows
another person, or because it is no better than the stream; or it waits until the person on screen
is identified."""

STILL_QP = 18.0
"""The H.264 QP that the best still is equivalent to."""
SAME_MOMENT = 0.8
"""Resemblance above which a still and a received face show the same moment. Measured on 92 clips at
320x240 and CRF 35: genuine stills have 0.96 (98 % above 0.8), another person's face warped into the
same pose and colours has 0.61 (98 % below 0.82)."""
CLEARLY_SHARPER = 0.2
"""Doublings of the received face's detail above which a still counts as the best one. Measured on
20 people: nine of ten stills of 8 kB have at least 0.20 against 320x240 at 100 kbit/s, half of them
at least 0.12 against 480x360 at 250; against 640x480 at 600, which has the same PSNR, they have
0."""
CLEAN_BLOCKS, CLEAN_BLOCKS_QP, QP_PER_DOUBLING = 1.3, 20.0, 12.0
"""Blockiness of a good WebP still, the QP that it is equivalent to, and the QP steps for each
doubling of it: a line through JPEGs of quality 50 (1.65) to 3 (8.7)."""
MAX_BLOCKINESS = 2.5
"""Blockiness above which a still is refused if the QP of the received face is unknown."""
BLOCK = 8
"""Side in pixels of a JPEG block, and of half a WebP macroblock."""
SEARCHES = 2
"""Searches for faces in a still: a coarse one and a fine one."""
MARGIN = 0.05
"""Room around a face's crop in the still that is requested, as a share of the crop's side."""
SAME_PLACE = 0.2
"""Intersection over union above which a still's face and a tracked face are the same face."""


@dataclass(frozen=True)
class StillFace:
    """A face of a still.

    Attributes:
        keyframe: the reference that it may become; `judge` sets its QP.
        appearance: appearance descriptor of the crop.
        box: left, top, right, bottom as fractions of the camera's picture.
        alone: whether it is the only face of the still.
        detail: detail of the crop, see `detail`.
        enlarged: crop pixels per pixel of the still.
        blockiness: blockiness of the still within the face's box, see `blockiness`.
    """

    keyframe: Keyframe
    appearance: AppearanceDescriptor
    box: Box
    alone: bool
    detail: float
    enlarged: float = 1.0
    blockiness: float = 1.0

    def among(self, faces: list[Face], size: NDArray[np.float64]) -> Face | None:
        """Returns the face of a frame that it shows: the one in its place, or the only one.

        Returns None if there is no such face.

        Args:
            faces: faces of the frame.
            size: width, height, width, height of the frame.
        """
        if self.alone and len(faces) == 1:
            return faces[0]
        overlaps = [overlap(self.box, face.box / size) for face in faces]
        best = int(np.argmax(overlaps)) if overlaps else 0
        return faces[best] if overlaps and overlaps[best] > SAME_PLACE else None

    def judge(self, person: Person, received: FaceObservation) -> tuple[Verdict, Keyframe]:
        """Decides whether it becomes a reference; returns the verdict and it with its measured QP.

        Its embedding must be the person's. It must resemble the received face of the same moment,
        because a sender could also send another moment or a lookalike. And it must be better than
        the received face.

        Args:
            person: the person whose face is received in its place.
            received: that face in the current frame.
        """
        embedding = self.keyframe.embedding
        if embedding is None:
            return "nobody's", self.keyframe
        if person.identity.mean is None:
            return "waits", self.keyframe
        if not person.identity.accepts(embedding) or not self._is_of_a_received_moment(person):
            return "nobody's", self.keyframe
        qp = still_qp(self, received.detail(), received.qp)
        if qp is None:
            return "worse", self.keyframe
        return "still", replace(self.keyframe, qp=qp)

    def _is_of_a_received_moment(self, person: Person) -> bool:
        """Returns whether it resembles the face received in its pose, in colours and structure."""
        keyframe = self.keyframe
        moment = person.nearest_received(keyframe.landmarks)
        if moment is None or likeness(moment.appearance, self.appearance) < CUT:
            return False
        warped = warp(keyframe.crop, keyframe.landmarks, moment.landmarks)
        return resemblance(moment.thumbnail, thumbnail(crop_of(warped))) >= SAME_MOMENT


def still_qp(still: StillFace, received_detail: float, received_qp: float | None) -> float | None:
    """Returns the QP that a still is equivalent to by its detail and blockiness.

    Returns None if it is no better than the received face.

    Args:
        still: the still's face.
        received_detail: detail of the received face, see `detail`.
        received_qp: QP of the received face, see `crop_qp`; None if unknown.
    """
    best = crop_qp(STILL_QP, still.enlarged)
    sharper = math.log2(max(still.detail, 1e-6) / max(received_detail, 1e-6))
    if sharper <= 0.0:
        return None
    if received_qp is None:
        return best if still.blockiness <= MAX_BLOCKINESS else None
    missing = max(0.0, 1.0 - sharper / CLEARLY_SHARPER)
    by_detail = best + missing * (received_qp - best)
    doublings = math.log2(max(still.blockiness, 1e-6) / CLEAN_BLOCKS)
    by_blocks = CLEAN_BLOCKS_QP + QP_PER_DOUBLING * doublings
    qp = max(best, by_detail, by_blocks)
    return qp if qp < received_qp else None


def blockiness(luma: NDArray[np.uint8]) -> float:
    """Returns the ratio of the steps across block borders to the other steps of a luma plane.

    It is 1 for a picture without blocks. The grid may start anywhere: the largest ratio over its
    `BLOCK` possible offsets counts, averaged over both directions.

    Args:
        luma: HxW.
    """
    steps = luma.astype(np.float32)
    ratios = []
    for across in (np.abs(np.diff(steps, axis=1)).mean(0), np.abs(np.diff(steps, axis=0)).mean(1)):
        whole = len(across) // BLOCK * BLOCK
        if not whole:
            return 1.0
        offsets = across[:whole].reshape(-1, BLOCK).mean(axis=0)
        border = int(offsets.argmax())
        ratios.append(float(offsets[border]) / max(1e-3, float(np.delete(offsets, border).mean())))
    return max(1.0, sum(ratios) / 2)


def region_of(face: Face, width: int, height: int) -> Region:
    """Returns the region of a frame that holds a face's crop, with some room for it to move."""
    corners = np.array([(-MARGIN, -MARGIN), (1 + MARGIN, -MARGIN), (1 + MARGIN, 1 + MARGIN)])
    corners = np.vstack([corners, (-MARGIN, 1 + MARGIN)]) * CROP
    frame_from_crop = np.asarray(cv2.invertAffineTransform(face.crop_from_frame), np.float64)
    inside = corners @ frame_from_crop[:, :2].T + frame_from_crop[:, 2]
    left, top = (float(side) for side in np.clip(inside.min(axis=0) / (width, height), 0, 0.9))
    right, bottom = (float(side) for side in np.clip(inside.max(axis=0) / (width, height), 0, 1))
    return left, top, max(right, left + 0.1), max(bottom, top + 0.1)


def faces_of_still(
    still: av.VideoFrame, recogniser: FaceRecogniser, region: Region = WHOLE
) -> list[StillFace]:
    """Finds the faces of a still; returns none if the still is not 8-bit 4:2:0.

    Blocks until their embeddings are computed. A face whose embedding fails has None for it.

    Args:
        still: the still.
        recogniser: computes the embeddings.
        region: the region of the camera's picture that the still shows.
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
        _still_face(still, face, recogniser, corner + face.box / size * part, len(faces) == 1)
        for face in faces
        if can_be_cropped(face.landmarks, face.box, face.crop_from_frame, still.width, still.height)
    ]


def _still_face(
    still: av.VideoFrame, face: Face, recogniser: FaceRecogniser, box: Box, alone: bool
) -> StillFace:
    crop = extract_crop(still, face.crop_from_frame)
    picture, landmarks = picture_of(crop), transform(face.landmarks, face.crop_from_frame)
    embedding = None
    try:
        embedding = recogniser.submit(picture, landmarks).result(2 * ANSWERS_WITHIN)
    except Exception as error:  # the process may fail in any way; the still is useless then
        logger.warning("a still is not used because its face cannot be recognised: %s", error)
    left, top, right, bottom = (int(max(0.0, side)) for side in face.box.tolist())
    return StillFace(
        Keyframe(picture, landmarks, None, "still", sharpness(crop), embedding),
        appearance_descriptor(crop),
        box,
        alone,
        detail(crop),
        scale_and_roll(face.crop_from_frame)[0],
        blockiness(planes(still)[0][top:bottom, left:right]),
    )
