"""Which pictures of a face may become references."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from keyframes.keyframe_set import Keyframe, KeyframeSet, Landmarks

Admission: TypeAlias = Literal["quality", "i-frames"]
"""How references are admitted: by measured quality, or every key frame as in the paper."""

SAME_POSE = 30.0
"""Landmark distance in crop pixels within which two faces show one pose: 3.6 px a landmark."""
BETTER = 3.0
"""QP steps by which a picture has to be better to take another's place."""
WORSE = 3.0
"""QP steps by which a new pose may be worse than the picture that it displaces."""
BLURRED = 0.6
"""Share of the known pictures' sharpness below which a picture is a blur."""
MAX_ROLL = 35.0
"""Degrees by which a reference's face may be tilted."""
MAX_ENLARGED = 3.0
"""Crop pixels for one pixel of the frame beyond which a face is too small to be a reference."""


@dataclass(frozen=True)
class FaceObservation:
    """A face as it arrived, and what is known of its quality.

    Attributes:
        landmarks: 68x2 float32 in crop pixels.
        qp: of the face, see `crop_qp`; None where the codec does not tell.
        is_keyframe: whether the picture was decoded from a random access point.
        damaged: whether a loss came before it in its prediction chain.
        roll: degrees by which the face is tilted.
        enlarged: crop pixels for one pixel of the frame.
        sharpness: measures what `Keyframe` calls so; called only where it may decide.
        detail: measures what stills are compared by; called only for them.
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
    """Where an admitted picture goes: into the place of another, or into one of its own."""

    replaces: Keyframe | None = None


def admit(
    keyframes: KeyframeSet, observation: FaceObservation, admission: Admission = "quality"
) -> Admitted | None:
    """The place of `observation` in the set, None if it is not to become a reference.

    By `i-frames` every undamaged key frame gets a place of its own, as in the paper. By `quality`
    I-frames have no privilege (real-time encoders make them worse than their neighbours): a pose
    that the set knows is replaced by a clearly better picture of it, a new pose is taken in if it
    is about as good as what it may displace.
    """
    if observation.damaged:
        return None
    if admission == "i-frames":
        return Admitted() if observation.is_keyframe else None
    if abs(observation.roll) > MAX_ROLL or observation.enlarged > MAX_ENLARGED:
        return None
    if observation.qp is None:  # unknown to this codec: its key frames are the best guess
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
    displaced = keyframes.least_used() if len(keyframes) == keyframes.capacity else None
    if displaced is None or displaced.qp is None or observation.qp <= displaced.qp + WORSE:
        return Admitted()
    return None


def _blurred(observation: FaceObservation, known: Keyframe) -> bool:
    # A better picture of the same face has more detail, never less, unless it moved.
    return observation.sharpness() < BLURRED * known.sharpness


def crop_qp(qp: float, enlarged: float) -> float:
    """QP of a crop: that of the picture, and six steps for each doubling of its size.

    Six QP steps double the quantiser (H.264, 8.5.9), which takes about as much detail as halving
    the resolution: so faces of different sizes, before and after the sender changed its
    resolution, can be compared.
    """
    return qp + 6.0 * math.log2(max(1.0, enlarged))
