"""Faces of a clip, as sent, received and restored with references of each origin."""

from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray

from bench.common.call import ORIGINS, Call
from bench.common.sequences import FaceSequence, kbps_of_bytes
from bench.references.scenarios import Scenario, send
from keyframes import Landmarks
from receiver.enhance.faces.generator import Generator
from receiver.enhance.faces.tracking import FaceTracker
from receiver.media.planes import planes

JUDGED_EVERY = 2
"""Frames from one whose face is judged to the next."""
TURN = 12.0
"""Crop pixels from the nose's median place at which a head counts as turned."""
MIN_TURNED = 15
"""Minimum number of turned faces that make a clip worth judging."""


def restore_clip(
    frames: list[av.VideoFrame],
    rate: Fraction,
    scenario: Scenario,
    generator: Generator,
    advance: Callable[[], None],
) -> FaceSequence:
    """Returns the nearest face of each judged frame; receivers are named by their origin.

    Args:
        rate: frames a second.
        advance: called for each frame.
    """
    calls = {origin: Call(origin, generator) for origin in ORIGINS}
    sequence = FaceSequence({name: [] for name in ("original", "input", *ORIGINS)})
    for index, (raw, decoded, _) in enumerate(send(frames, rate, scenario)):
        advance()
        now = index / float(rate)
        restored: dict[str, av.VideoFrame] = {}
        for origin, call in calls.items():
            enhanced = call.see(now, raw, decoded)
            restored[origin], faces = enhanced.video, enhanced.faces  # all find the same faces
        if not faces or now < scenario.judged_from or index % JUDGED_EVERY:
            continue
        sequence.add(faces[0], {"original": raw, "input": decoded.video, **restored})
    if scenario.turning:
        sequence.keep(turned(sequence.landmarks))
    for origin, call in calls.items():
        sequence.reference_kbps[origin] = kbps_of_bytes(call.reference_bytes, scenario.seconds)
    return sequence


def turned(landmarks: list[Landmarks]) -> NDArray[np.bool_]:
    """Returns which of a clip's faces are turned away from their usual direction.

    The tip of the nose moves against the eyes, whose place in the crop is fixed.
    """
    noses = np.array([points[30, 0] for points in landmarks])
    return np.asarray(np.abs(noses - np.median(noses)) > TURN)


def face_height(frames: list[av.VideoFrame]) -> float:
    """Returns the median height of the detector's box in the first frames; 0 without a face."""
    tracker = FaceTracker()
    faces = [face for frame in frames[:10] for face in tracker.track(planes(frame)[0])[:1]]
    return float(np.median([face.box[3] - face.box[1] for face in faces])) if faces else 0.0
