"""One frame in, one frame out: everything about pictures, nothing about time or networks."""

from concurrent.futures import Executor

import av
import numpy as np

from keyframes import Keyframe, KeyframeSet, Landmarks, Policy, warp
from receiver.alignment import (
    CROP,
    PLANAR_420,
    Crop,
    copy_frame,
    crop_of,
    draw_landmarks,
    extract_crop,
    paste_residual,
    picture_of,
    planes,
    transform,
)
from receiver.decoding import DecodedFrame
from receiver.faces import Face, FaceTracker
from receiver.generator import Generator
from receiver.stats import Stats


class Enhancer:
    """Restores the faces of successive frames of one stream.

    Synchronous and without I/O: a call, a file tool and a test use it alike. Keeps a keyframe set
    for each face that it follows; references never go from one face to another.

    Attributes:
        generator: the network that it runs.
        stats: counts and timings; `stats.frames` is kept by whoever feeds the frames.
        faces: those of the last frame.
    """

    def __init__(
        self,
        generator: Generator,
        *,
        strength: float = 1.0,
        capacity: int = 10,
        policy: Policy = "lfu",
    ) -> None:
        """
        Args:
            strength: 0 (leave as it is) to 1 (all that the generator changes).
            capacity: keyframes a face, see `KeyframeSet`.
            policy: how keyframes are evicted, see `KeyframeSet`.

        Raises:
            ValueError: for a strength outside 0 to 1, or as `KeyframeSet`.
            MissingError: if the landmark file is missing.
        """
        if not 0.0 <= strength <= 1.0:
            raise ValueError(f"strength {strength} is not within 0 to 1")
        KeyframeSet(capacity, policy)
        self.generator = generator
        self.stats = Stats(generator.device)
        self.faces: list[Face] = []
        self._strength, self._capacity, self._policy = strength, capacity, policy
        self._tracker = FaceTracker()
        self._sets: dict[int, KeyframeSet] = {}

    def enhance(self, frame: DecodedFrame) -> av.VideoFrame:
        """Returns the frame with its faces restored, pts and time base unchanged.

        A frame without a face, or not 8-bit 4:2:0, comes back as the very same object.
        """
        video = frame.video
        self.faces = []
        if video.format.name not in PLANAR_420 or min(video.width, video.height) < 2:
            return video
        with self.stats.stage("faces"):
            self.faces = faces = self._tracker.track(planes(video)[0])
        self._forget_lost(faces)
        if not faces or self._strength == 0.0:
            return video
        with self.stats.stage("crop"):
            crops = [extract_crop(video, face.crop_from_frame) for face in faces]
            landmarks = [transform(face.landmarks, face.crop_from_frame) for face in faces]
        references = [
            self._reference(frame, *face_crop)
            for face_crop in zip(faces, crops, landmarks, strict=True)
        ]
        with self.stats.stage("landmarks"):
            drawn = np.stack([draw_landmarks(points)[None] for points in landmarks])
        with self.stats.stage("generator"):
            restored = self.generator.restore(np.stack(crops), np.stack(references), drawn)
            np.clip(restored, 0.0, 1.0, out=restored)
        with self.stats.stage("copy"):
            enhanced = copy_frame(video)
        with self.stats.stage("paste"):
            for face, crop, picture in zip(faces, crops, restored, strict=True):
                residual = (picture - crop) * np.float32(self._strength)
                paste_residual(enhanced, residual, face.crop_from_frame)
        return enhanced

    def warm_up(self) -> None:
        """Runs the network once: the first run is several times as slow as the others."""
        crop = np.zeros((1, 3, CROP, CROP), np.float32)
        self.generator.restore(crop, crop, crop[:, :1])

    def detect_in(self, executor: Executor) -> None:
        """Lets faces be searched for beside the frames, see `FaceTracker.detect_in`."""
        self._tracker.detect_in(executor)

    def add_reference(self, track_id: int, keyframe: Keyframe) -> None:
        """Gives a followed face a reference that came another way than in the stream."""
        self._set_of(track_id).add(keyframe)

    def _reference(
        self,
        frame: DecodedFrame,
        face: Face,
        crop: Crop,
        landmarks: Landmarks,
    ) -> Crop:
        """The nearest keyframe bent onto the face; the crop itself where there is none.

        A keyframe is taken in before the choice, so it may choose itself.
        """
        keyframes = self._set_of(face.track_id)
        if frame.is_keyframe and not frame.damaged:
            keyframes.add(Keyframe(picture_of(crop), landmarks, frame.qp))
        if not len(keyframes):
            return crop
        with self.stats.stage("choose"):
            chosen, distance = keyframes.choose(landmarks)
        if distance == 0.0:
            return crop
        with self.stats.stage("warp"):
            return crop_of(warp(chosen.crop, chosen.landmarks, landmarks))

    def _set_of(self, track_id: int) -> KeyframeSet:
        return self._sets.setdefault(track_id, KeyframeSet(self._capacity, self._policy))

    def _forget_lost(self, faces: list[Face]) -> None:
        followed = {face.track_id for face in faces}
        self._sets = {key: kept for key, kept in self._sets.items() if key in followed}
        self.stats.keyframes = sum(len(kept) for kept in self._sets.values())
