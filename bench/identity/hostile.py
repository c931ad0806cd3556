"""Genuine and hostile stills, and what a receiver does with them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
from rich.progress import Progress

from bench.common.framing import camera_view
from bench.common.people import people_of
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
from receiver.stills.picture import decode_still, encode_still

SOFT = 16.0
"""Standard deviation in crop pixels of the blur that leaves the low-frequency colours."""
STILL_AT = 24
"""Index of the frame that becomes a still: by then the receiver knows who is on screen."""
MIN_FACE = 60.0
"""Height in pixels of the detector's box below which a face is not that of the clip's person."""
CAMERA_SECONDS = 2.0
"""Seconds of a clip. At 15 frames a second they contain frame `STILL_AT` and those after it."""
STILL_CRF, STILL_BYTES = 35, 8000
"""CRF of the call, at half the size, and size of each still."""
VERDICTS = ("still", "nobody's", "worse")
"""Outcomes of a still, as `Stats.admitted` counts them."""
OTHERS = (0, 6, 12)
"""Offsets, from a clip's own index, of other people's clips that give faces for hostile stills."""
SAME_COLOURS = 0.85
"""Likeness of appearance descriptors at which two faces have the same colours."""


def hostile_still(
    theirs: Picture, their_landmarks: Landmarks, own: Picture, own_landmarks: Landmarks
) -> Picture:
    """Returns another person's face in this one's pose, with this one's low-frequency colours.

    All are 256x256x3 uint8 RGB crops and 68x2 landmarks in their pixels.
    """
    warped = warp(theirs, their_landmarks, own_landmarks).astype(np.float32)
    soft = [cv2.GaussianBlur(one, (0, 0), SOFT) for one in (warped, own.astype(np.float32))]
    return np.clip(np.round(warped - soft[0] + soft[1]), 0, 255).astype(np.uint8)


@dataclass
class Judged:
    """Outcomes of stills, and how hostile stills would pass weaker checks.

    Attributes:
        genuine, hostile: number of stills by outcome.
        same_colours: hostile stills with the colours of the face on screen; see `SAME_COLOURS`.
        same_embedding: hostile stills that the embedding alone would admit.
    """

    genuine: Counter[str] = field(default_factory=Counter)
    hostile: Counter[str] = field(default_factory=Counter)
    same_colours: int = 0
    same_embedding: int = 0


def attack(clips: list[Path], generator: Generator, progress: Progress) -> Judged:
    """Sends a receiver each person's call, a genuine still and hostile stills."""
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
        if not call.faces:
            continue
        others = [one for one in shown[number:] + shown[:number] if people[one] != people[clip]]
        for step in OTHERS if others else ():
            other = faces[others[step % len(others)]]
            still = hostile_still(*other, camera.picture, camera.landmarks)
            theirs, own = (appearance_descriptor(crop_of(one)) for one in (still, camera.picture))
            judged.same_colours += likeness(theirs, own) >= SAME_COLOURS
            judged.same_embedding += call.accepts(still, camera.landmarks)
            judged.hostile[call.judge(camera.with_face(still))] += 1
        judged.genuine[call.judge(camera.still)] += 1
    return judged


@dataclass(frozen=True)
class Camera:
    """The first frames of a clip, and the nearest face of the frame that becomes a still.

    Attributes:
        frames: as a call shows them.
        rate: frames a second.
        face: in frame `STILL_AT`.
        picture: the face's crop, 256x256x3 uint8 RGB.
        landmarks: 68x2 in crop pixels.
    """

    frames: list[av.VideoFrame]
    rate: Fraction
    face: Face
    picture: Picture
    landmarks: Landmarks

    @property
    def still(self) -> av.VideoFrame:
        """The frame that becomes a still."""
        return self.frames[STILL_AT]

    def with_face(self, picture: Picture) -> av.VideoFrame:
        """Returns that frame with another picture in place of the face's crop."""
        frame = copy_frame(self.still)
        change = crop_of(picture) - crop_of(self.picture)
        paste_residual(frame, change, self.face.crop_from_frame)
        return frame


def _camera(clip: Path) -> Camera | None:
    """Returns None if a clip is too short, or if the tracker does not find or loses its face."""
    frames, rate = camera_view(clip, CAMERA_SECONDS)
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
    """A receiver of a camera at 320x240, up to the frame that becomes a still.

    Attributes:
        enhancer: of the received frames.
        faces: in that frame.
    """

    def __init__(self, camera: Camera, generator: Generator) -> None:
        sent = [
            frame.reformat(frame.width // 4 * 2, frame.height // 4 * 2) for frame in camera.frames
        ]
        self._coming = through_codec(sent, Encoding(crf=STILL_CRF, keyframe_every=300), camera.rate)
        self.enhancer = Enhancer(generator)
        self.faces: Sequence[Face] = ()
        for _, decoded, _ in islice(self._coming, STILL_AT + 1):
            self.faces = self.enhancer.process(decoded).faces

    def accepts(self, picture: Picture, landmarks: Landmarks) -> bool:
        """Returns whether the embedding alone takes a face for that on screen."""
        person = self.enhancer.people[self.faces[0].track_id]
        return person.identity.accepts(shared_recogniser().submit(picture, landmarks).result())

    def judge(self, frame: av.VideoFrame) -> str:
        """Sends a frame as a WebP still and returns the outcome."""
        before = dict(self.enhancer.stats.admitted)
        if not self.enhancer.add_still(decode_still(*encode_still(frame, STILL_BYTES))):
            return "no face"
        for _, decoded, _ in islice(self._coming, 1):
            self.enhancer.enhance(decoded)
        after = self.enhancer.stats.admitted
        return next((name for name in VERDICTS if after[name] > before[name]), "waits")
