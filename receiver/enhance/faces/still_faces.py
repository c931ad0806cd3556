"""The faces of stills: whose they are, what quality they have, whether they become references."""

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
from receiver.enhance.faces.tracking import Box, Face, FaceTracker, overlap
from receiver.media.pixels import PLANAR_420
from receiver.media.planes import WHOLE, Region, planes

logger = logging.getLogger(__name__)


Verdict: TypeAlias = Literal["still", "nobody's", "worse", "waits"]
"""What becomes of a still's face: a reference; refused as another person's, or as one of no better
quality than the stream's; or undecided as long as it is not known who is on screen."""


STILL_QP = 18.0
"""The H.264 QP that the best still is worth."""


SAME_MOMENT = 0.8
"""Resemblance from which a still and a received face are taken to show one moment. Measured on 92
clips at 320x240 and CRF 35: genuine stills have 0.96 (98 % above 0.8), another person's face bent
into the pose and the colours 0.61 (98 % below 0.82)."""


CLEARLY_SHARPER = 0.2
"""Doublings of the received face's detail from which a still counts as the best one. Measured on 20
people: nine of ten stills of 8 kB have 0.20 and more against 320x240 at 100 kbit/s, half of them
0.12 and more against 480x360 at 250; against 640x480 at 600, whose PSNR is theirs, they have 0."""


CLEAN_BLOCKS, CLEAN_BLOCKS_QP, QP_PER_DOUBLING = 1.3, 20.0, 12.0
"""Blockiness of a good WebP still, the QP that it is worth, and QP steps by which a still is worth
less for each doubling of it: a line along JPEGs of quality 50 (1.65) to 3 (8.7)."""


MAX_BLOCKINESS = 2.5
"""Blockiness beyond which a still is refused where the received face's QP is not known."""


BLOCK = 8
"""Side in pixels of the blocks of JPEG, and of half a macroblock of WebP."""


SEARCHES = 2
"""Searches of a still, the coarse and the fine one."""


MARGIN = 0.05
"""Of a crop's side: room around it in a still that is asked for."""


SAME_PLACE = 0.2
"""Overlap of a still's face and a followed one beyond which they are one face."""


@dataclass(frozen=True)
class StillFace:
    """A face of a still.

    Attributes:
        keyframe: what it becomes; its QP is set by `judge`.
        look: its appearance descriptor.
        box: left, top, right, bottom as fractions of the camera's picture.
        alone: whether it is the still's only one.
        detail: of its crop, see `detail`.
        enlarged: crop pixels for one pixel of the still.
        blockiness: of the still around the face, see `blockiness`.
    """

    keyframe: Keyframe
    appearance: AppearanceDescriptor
    box: Box
    alone: bool
    detail: float
    enlarged: float = 1.0
    blockiness: float = 1.0

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

    def judge(self, person: Person, received: FaceObservation) -> tuple[Verdict, Keyframe]:
        """Decides whether it becomes a reference, and returns it with its measured QP.

        It has to be of the same person by its embedding, like the received face of the same moment
        (a sender may also send another moment or something else that resembles the person), and
        better than the received face.

        Args:
            person: whose face is received in its place.
            received: that face in the frame at hand.
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
        """Whether it resembles what was received in the same pose, in colours and structure."""
        keyframe = self.keyframe
        moment = person.nearest_received(keyframe.landmarks)
        if moment is None or likeness(moment.appearance, self.appearance) < CUT:
            return False
        bent = warp(keyframe.crop, keyframe.landmarks, moment.landmarks)
        return resemblance(moment.thumbnail, thumbnail(crop_of(bent))) >= SAME_MOMENT


def still_qp(still: StillFace, received_detail: float, received_qp: float | None) -> float | None:
    """Returns the QP that a still is worth by its detail and blockiness.

    None if it is no better than the face as received.

    Args:
        received_detail: see `detail`.
        received_qp: see `crop_qp`; None where the codec does not tell.
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
    """Returns how much larger the steps across block borders are than those between them.

    1 for a picture without blocks. The borders may lie anywhere: each of the `BLOCK` places counts
    as theirs in turn, and the largest ratio is returned.
    """
    steps = luma.astype(np.float32)
    ratios = []
    for across in (np.abs(np.diff(steps, axis=1)).mean(0), np.abs(np.diff(steps, axis=0)).mean(1)):
        whole = len(across) // BLOCK * BLOCK
        if not whole:
            return 1.0
        places = across[:whole].reshape(-1, BLOCK).mean(axis=0)
        border = int(places.argmax())
        ratios.append(float(places[border]) / max(1e-3, float(np.delete(places, border).mean())))
    return max(1.0, sum(ratios) / 2)


def region_of(face: Face, width: int, height: int) -> Region:
    """The part of a frame that holds a face's crop, and some room for it to move."""
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
    """The faces of a picture, each with landmarks of its own; none if it is not 8-bit 4:2:0.

    Takes as long as their embeddings do. A face whose embedding fails has none.

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
    except Exception as error:  # the process may fail in any way: then the still is of no use
        logger.warning("a still is not used, because its face cannot be recognised: %s", error)
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
