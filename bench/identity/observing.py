"""Observations of the people in clips, at several sizes and CRFs."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from bench.common.framing import camera_view
from keyframes import Landmarks, Picture, crop_qp
from receiver.enhance.faces.alignment import (
    extract_crop,
    picture_of,
    transform,
)
from receiver.enhance.faces.observations import scale_and_roll
from receiver.enhance.faces.recognition import FaceRecogniser
from receiver.enhance.faces.tracking import FaceTracker
from receiver.media.encoding import Encoding, through_codec
from receiver.media.planes import planes

SECONDS = 6.0
"""Length of a clip at most."""
MOMENTS = (0.08, 0.25, 0.42, 0.58, 0.75, 0.92)
"""Moments at which faces are observed, as fractions of a clip's length."""
SHRINKS = (1, 2)
"""Factors by which 640x480 is reduced."""
CRFS = (20, 28, 35, 42)


@dataclass(frozen=True)
class Observed:
    """One face that was received.

    Attributes:
        person: name of the person.
        clip: file name of the clip.
        stream: size and CRF.
        second: time within the clip.
        qp: QP of the crop; see `crop_qp`.
        embedding: 128 numbers; see `receiver.enhance.faces.recognition`.
    """

    person: str
    clip: str
    stream: str
    second: float
    qp: float
    embedding: list[float]


def observe(clip: Path, person: str, recogniser: FaceRecogniser) -> list[Observed]:
    """Sends a clip in every size and CRF, and returns observations of its nearest face."""
    frames, rate = camera_view(clip, SECONDS)
    found = []
    for shrink in SHRINKS if frames else ():
        sent = [
            frame.reformat(frame.width // shrink // 2 * 2, frame.height // shrink // 2 * 2)
            for frame in frames
        ]
        for crf in CRFS:
            stream = f"{sent[0].width}x{sent[0].height} crf{crf}"
            for second, picture, landmarks, qp in _faces(sent, rate, crf):
                embedding = recogniser.submit(picture, landmarks).result()
                found.append(Observed(person, clip.name, stream, second, qp, embedding.tolist()))
    return found


def _faces(
    frames: list[av.VideoFrame], rate: Fraction, crf: float
) -> list[tuple[float, Picture, Landmarks, float]]:
    """Returns the nearest face at each of `MOMENTS`: second, crop, landmarks, QP of the crop."""
    wanted = {min(len(frames) - 1, int(len(frames) * moment)) for moment in MOMENTS}
    tracker, found = FaceTracker(), []
    sent = through_codec(frames, Encoding(crf=crf, keyframe_every=300), rate)
    for index, (_, decoded, _) in enumerate(sent):
        faces = tracker.track(planes(decoded.video)[0])
        if index in wanted and faces:
            affine = faces[0].crop_from_frame
            picture = picture_of(extract_crop(decoded.video, affine))
            qp = crop_qp(decoded.qp_within(faces[0].box) or 51.0, scale_and_roll(affine)[0])
            landmarks = transform(faces[0].landmarks, affine)
            found.append((index / float(rate), picture, landmarks, qp))
    return found
