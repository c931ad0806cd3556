"""Faces of a clip, as sent, received and restored with each origin of references."""

from collections import defaultdict
from collections.abc import Callable
from fractions import Fraction
from itertools import compress

import av
import numpy as np
from numpy.typing import NDArray

from bench.common.call import WAYS, Call, Faces
from bench.references.scenarios import Scenario, send
from keyframes import Landmarks
from receiver.enhance.faces.alignment import extract_crop, picture_of, transform
from receiver.enhance.faces.generator import Generator
from receiver.enhance.faces.tracking import FaceTracker
from receiver.media.planes import planes

JUDGED_EVERY = 2
"""Frames from one whose face is judged to the next."""


def turned(landmarks: list[Landmarks]) -> NDArray[np.bool_]:
    """Which of a clip's faces are turned away from where it mostly looks.

    The tip of the nose moves against the eyes, whose place in the crop is fixed.
    """
    noses = np.array([points[30, 0] for points in landmarks])
    return np.asarray(np.abs(noses - np.median(noses)) > TURN)


TURN = 12.0
"""Crop pixels by which the nose is off its median place from which on a head counts as turned."""


MIN_TURNED = 15
"""Turned faces of a clip, at least, for it to say anything."""


def restore_clip(
    frames: list[av.VideoFrame],
    rate: Fraction,
    scenario: Scenario,
    generator: Generator,
    advance: Callable[[], None],
) -> dict[str, Faces]:
    """The largest face of each judged frame: the original's, the input's, each way's."""
    calls = {way: Call(way, generator) for way in WAYS}
    seen: dict[str, Faces] = defaultdict(Faces)
    seen |= {way: call.faces for way, call in calls.items()}
    for index, (raw, decoded, _) in enumerate(send(frames, rate, scenario)):
        advance()
        now = index / float(rate)
        restored = {way: call.see(now, raw, decoded) for way, call in calls.items()}
        faces = calls["none"].enhancer.faces
        if not faces or now < scenario.judged_from or index % JUDGED_EVERY:
            continue
        pictures = {"original": raw, "input": decoded.video, **restored}
        for name, picture in pictures.items():
            crop = extract_crop(picture, faces[0].crop_from_frame)
            seen[name].pictures.append(picture_of(crop))
        landmarks = transform(faces[0].landmarks, faces[0].crop_from_frame)
        seen["landmarks"].pictures.append(landmarks)
    if scenario.turning:
        kept = turned(seen["landmarks"].pictures)
        for faces_seen in seen.values():
            faces_seen.pictures = list(compress(faces_seen.pictures, kept))
    return dict(seen)


def face_height(frames: list[av.VideoFrame]) -> float:
    """Height in pixels of the detector's box in the first frames; 0 without a face."""
    tracker = FaceTracker()
    faces = [face for frame in frames[:10] for face in tracker.track(planes(frame)[0])[:1]]
    return float(np.median([face.box[3] - face.box[1] for face in faces])) if faces else 0.0
