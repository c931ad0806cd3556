"""Decides which observations of a face become references."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from keyframes.keyframe_set import Keyframe, KeyframeSet, Landmarks

Admission: TypeAlias = Literal["quality", "i-frames"]
"""How references are admitted: by measured quality, or from every I-frame as in the paper."""

SAME_POSE = 30.0
"""Landmark distance in crop pixels up to which two faces show the same pose: 3.6 px a landmark."""
BETTER = 3.0
"""QP steps by which an observation must be better to replace a reference of the same pose."""
WORSE_THAN_EVICTED = 3.0
"""QP steps by which a new pose may be worse than the reference that it evicts."""
BLURRED = 0.6
"""An observation is blurred if its sharpness is below this share of the nearest reference's."""
MAX_ROLL = 35.0
"""Largest tilt of a reference's face, in degrees."""
MAX_ENLARGED = 3.0
"""Maximum number of crop pixels per frame pixel: a face that is enlarged more is too small to be a
reference."""


@dataclass(frozen=True)
class FaceObservation:
    """A face in the current frame and what is known of its quality.

    Attributes:
        landmarks: 68x2 float32 in crop pixels.
        qp: QP of the face, see `crop_qp`; None if the codec does not report it.
        is_keyframe: whether the frame is an I-frame.
        damaged: whether the frame, or one that it was predicted from, was damaged.
        roll: tilt of the face in degrees.
        enlarged: crop pixels per frame pixel.
        sharpness: returns the sharpness as in `Keyframe`; called only if the decision needs it.
        detail: returns the detail that stills are compared by; called only for stills.
    """

    landmarks: Landmarks
    qp: float | None
    is_keyframe: bool
    damaged: bool = False
    roll: float = 0.0
    enlarged: float = 1.0
    sharpness: Callable[[], float] = float
    detail: Callable[[], float] = float


@dataclass(frozen=True)
class Admitted:
    """An admitted observation: it replaces a keyframe of the set, or is added to the set."""

    replaces: Keyframe | None = None


def admit(
    keyframes: KeyframeSet, observation: FaceObservation, admission: Admission = "quality"
) -> Admitted | None:
    """Decides how `observation` enters the set; returns None if it does not become a reference.

    With `i-frames` every undamaged I-frame is added, as in the paper. With `quality` I-frames have
    no privilege, because real-time encoders make them worse than their neighbours: a clearly better
    observation of a known pose replaces the reference of that pose, and a new pose is added if it
    is about as good as the reference that it may evict.
    """
    if observation.damaged:
        return None
    if admission == "i-frames":
        return Admitted() if observation.is_keyframe else None
    if abs(observation.roll) > MAX_ROLL or observation.enlarged > MAX_ENLARGED:
        return None
    if observation.qp is None:  # the codec does not report it: I-frames are the best guess
        return Admitted() if observation.is_keyframe else None
    nearest = keyframes.nearest(observation.landmarks)
    if nearest is None:
        return Admitted()
    known, distance = nearest
    if distance <= SAME_POSE:
        better = known.qp is not None and observation.qp <= known.qp - BETTER
        return Admitted(replaces=known) if better and not _blurred(observation, known) else None
    if _blurred(observation, known):
        return None
    evicted = keyframes.evicted_by(observation.landmarks)
    if evicted is None or evicted.qp is None or observation.qp <= evicted.qp + WORSE_THAN_EVICTED:
        return Admitted()
    return None


def _blurred(observation: FaceObservation, known: Keyframe) -> bool:
    # A better picture of the same face has more detail, never less, unless the face moved.
    return observation.sharpness() < BLURRED * known.sharpness


def crop_qp(qp: float, enlarged: float) -> float:
    """Returns the QP of a crop: the frame's QP plus six steps for each doubling of the face's size.

    Six QP steps double the quantiser step (H.264, 8.5.9), which removes about as much detail as
    halving the resolution. So faces of different sizes can be compared, also before and after the
    sender changed its resolution.

    Args:
        qp: of the face in the frame.
        enlarged: crop pixels per frame pixel; below 1 it counts as 1.
    """
    return qp + 6.0 * math.log2(max(1.0, enlarged))
