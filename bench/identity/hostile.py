"""Genuine and hostile stills, and what a receiver does with them."""

from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
from rich.progress import Progress

from bench.identity.observing import _framed, people_of
from keyframes import Landmarks, Picture, appearance_descriptor, likeness, warp
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.alignment import (
    crop_of,
    extract_crop,
    paste_residual,
    picture_of,
    transform,
)
from receiver.enhance.faces.generator import Generator
from receiver.enhance.faces.recognition import shared_recogniser
from receiver.enhance.faces.tracking import Face, FaceTracker
from receiver.media.encoding import Encoding, through_codec
from receiver.media.planes import copy_frame, planes
from receiver.stills.protocol import decode_still, encode_still

SOFT = 16.0
"""Standard deviation in crop pixels of the blur that leaves the low-frequency colours."""


STILL_AT = 24
"""Frame of which stills are made: it is known by then who is on screen."""


MIN_FACE = 60.0
"""Height in pixels of the detector's box below which it is not the face of any of these clips."""


CAMERA_SECONDS = 2.0
"""Of a clip that hold this frame and those after it, at 15 frames a second and more."""


STILL_CRF, STILL_BYTES = 35, 8000
"""Of the call, at half the size, and of the stills."""


VERDICTS = ("still", "nobody's", "worse")
"""What may become of a still, as `Stats.admitted` counts it."""


OTHERS = (0, 6, 12)
"""Places, after a clip's own, of other people's clips whose faces are used for hostile stills."""


def hostile_still(
    theirs: Picture, their_landmarks: Landmarks, own: Picture, own_landmarks: Landmarks
) -> Picture:
    """Returns another person's face in this one's pose, with this one's low-frequency colours.

    All are 256x256x3 uint8 RGB crops and 68x2 landmarks in their pixels.
    """
    bent = warp(theirs, their_landmarks, own_landmarks).astype(np.float32)
    soft = [cv2.GaussianBlur(one, (0, 0), SOFT) for one in (bent, own.astype(np.float32))]
    return np.clip(np.round(bent - soft[0] + soft[1]), 0, 255).astype(np.uint8)


@dataclass
class Judged:
    """What became of stills, by verdict, and how the hostile ones look to weaker judges.

    Attributes:
        genuine, hostile: stills by what became of them.
        same_colours: hostile stills whose appearance descriptors are at least 0.85 alike.
        same_embedding: hostile stills that the embedding alone would have let in.
    """

    genuine: Counter[str] = field(default_factory=Counter)
    hostile: Counter[str] = field(default_factory=Counter)
    same_colours: int = 0
    same_embedding: int = 0


def attack(clips: list[Path], generator: Generator, progress: Progress) -> Judged:
    """Sends everybody's call and stills to a receiver: their own, and others' made to resemble."""
    judged, people = Judged(), people_of(clips)
    faces: dict[Path, tuple[Picture, Landmarks]] = {}
    for clip in progress.track(clips, description="cameras"):
        camera = _camera(clip)
        if camera is not None:
            faces[clip] = camera.picture, camera.landmarks
    shown = list(faces)
    for number, clip in enumerate(progress.track(shown, description="stills")):
        camera = _camera(clip)
        assert camera is not None
        call = Call(camera, generator)
        if not call.enhancer.faces:
            continue
        others = [one for one in shown[number:] + shown[:number] if people[one] != people[clip]]
        for step in OTHERS if others else ():
            other = faces[others[step % len(others)]]
            still = hostile_still(*other, camera.picture, camera.landmarks)
            look, own = (appearance_descriptor(crop_of(one)) for one in (still, camera.picture))
            judged.same_colours += likeness(look, own) >= 0.85
            judged.same_embedding += call.accepts(still, camera.landmarks)
            judged.hostile[call.judge(camera.with_face(still))] += 1
        judged.genuine[call.judge(camera.still)] += 1
    return judged


@dataclass(frozen=True)
class Camera:
    """The first frames of a clip, and the face of the one of which stills are made.

    Attributes:
        frames: as a call shows them.
        face: the nearest one of frame `STILL_AT`, its crop and landmarks in the crop.
    """

    frames: list[av.VideoFrame]
    rate: Fraction
    face: Face
    picture: Picture
    landmarks: Landmarks

    @property
    def still(self) -> av.VideoFrame:
        """The frame of which stills are made."""
        return self.frames[STILL_AT]

    def with_face(self, picture: Picture) -> av.VideoFrame:
        """Returns that frame with another picture in the place of the face's crop."""
        frame = copy_frame(self.still)
        change = crop_of(picture) - crop_of(self.picture)
        paste_residual(frame, change, self.face.crop_from_frame)
        return frame


def _camera(clip: Path) -> Camera | None:
    """None for a clip that is too short, or whose face is not found or lost by the tracker."""
    frames, rate = _framed(clip, CAMERA_SECONDS)
    if len(frames) <= STILL_AT + 1 + len(OTHERS):
        return None
    frames, tracker = frames[: STILL_AT + 2 + len(OTHERS)], FaceTracker()
    faces = [tracker.track(planes(frame)[0]) for frame in frames[: STILL_AT + 1]][-1]
    if not faces or faces[0].box[3] - faces[0].box[1] < MIN_FACE:
        return None
    picture = picture_of(extract_crop(frames[STILL_AT], faces[0].crop_from_frame))
    landmarks = transform(faces[0].landmarks, faces[0].crop_from_frame)
    return Camera(frames, rate, faces[0], picture, landmarks)


class Call:
    """A receiver that sees a camera at 320x240, up to the frame of which stills are made."""

    def __init__(self, camera: Camera, generator: Generator) -> None:
        sent = [
            frame.reformat(frame.width // 4 * 2, frame.height // 4 * 2) for frame in camera.frames
        ]
        self._coming = through_codec(sent, Encoding(crf=STILL_CRF, keyframe_every=300), camera.rate)
        self.enhancer = Enhancer(generator)
        for _, decoded, _ in islice(self._coming, STILL_AT + 1):
            self.enhancer.enhance(decoded)

    def accepts(self, picture: Picture, landmarks: Landmarks) -> bool:
        """Returns whether a face is taken for that on screen by its embedding alone."""
        person = self.enhancer.people[self.enhancer.faces[0].track_id]
        return person.identity.accepts(shared_recogniser().submit(picture, landmarks).result())

    def judge(self, frame: av.VideoFrame) -> str:
        """Returns what becomes of a still of this frame, which is sent as WebP."""
        before = dict(self.enhancer.stats.admitted)
        if not self.enhancer.add_still(decode_still(*encode_still(frame, STILL_BYTES))):
            return "no face"
        for _, decoded, _ in islice(self._coming, 1):
            self.enhancer.enhance(decoded)
        after = self.enhancer.stats.admitted
        return next((name for name in VERDICTS if after[name] > before[name]), "waits")
