"""One frame in, one frame out: everything about pictures, nothing about time or networks."""

import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import av
import numpy as np
from numpy.typing import NDArray

from keyframes import (
    Admission,
    FaceObservation,
    Keyframe,
    Landmarks,
    People,
    Person,
    Policy,
    admit,
    crop_qp,
    warp,
)
from keyframes.requests import ReferenceNeed
from receiver.enhance.faces.alignment import (
    Crop,
    can_be_cropped,
    crop_of,
    draw_landmarks,
    extract_crop,
    paste_residual,
    picture_of,
    transform,
)
from receiver.enhance.faces.generator import Generator
from receiver.enhance.faces.identities import IdentityWatch
from receiver.enhance.faces.observations import detail, scale_and_roll, sharpness
from receiver.enhance.faces.recognition import FaceRecogniser, shared_recogniser
from receiver.enhance.faces.still_faces import StillFace, faces_of_still
from receiver.enhance.faces.temporal import TemporalFilter
from receiver.enhance.faces.tracking import MAX_FACES, DetectionRate, Face, FaceTracker
from receiver.media.frame import DecodedFrame
from receiver.media.pixels import RESTORABLE
from receiver.media.planes import WHOLE, Region, copy_frame, luma_of
from receiver.stats import Stats

STAGES = (
    "faces",
    "crop",
    "admit",
    "choose",
    "warp",
    "landmarks",
    "generator",
    "temporal",
    "paste",
)
"""In the order in which a frame meets them, as `Stats` times them; `choose` and `warp` a face."""

MUCH_BETTER = 6.0
"""QP steps by which a reference has to be better than a face that is to lack nothing."""
STILL_POSE = 15.0
"""Landmark distance in crop pixels within which a still takes another reference's place: less than
between pictures of the stream, since a sharp one repays every pixel that it is nearer."""
CLEARLY = 1.25
"""Times as large as one that was restored before is a face that takes its place."""
STILLS_WAITING = 8
"""Faces of stills that wait for the next frame, or for it to be known who is on screen; of more,
the oldest goes."""
STILL_WAITS = 300
"""Frames for which a still's face waits until it is known who is on screen."""


BLEND_QP = (18.0, 24.0, 28.0, 32.0, 36.0, 40.0)
BLEND_WEIGHTS = {False: (0.0, 0.4, 0.6, 0.75, 0.9, 1.0), True: (0.0, 0.6, 0.85, 1.0, 1.0, 1.0)}
"""Share of its change that is best at those QPs, without a reference and with one."""


def blend_weight(qp: float | None, *, guided: bool) -> float:
    """How much of what the generator changes is to be taken, by the QP with which the face came.

    The better it came, the more of what is added to it is guessed.
    """
    if qp is None:
        return 1.0
    return float(np.interp(qp, BLEND_QP, BLEND_WEIGHTS[guided]))


class Enhancer:
    """Restores the faces of successive frames of one stream.

    Synchronous and without I/O: a call, a file tool and a test use it alike. Keeps a keyframe set
    for each person that it sees; references never go from one person to another.

    Attributes:
        generator: the network that it runs.
        stats: counts and timings; `stats.frames` is kept by whoever feeds the frames.
        faces: those of the last frame.
        people: whose faces they are, and were.
        need: what references the nearest restored face of the last frame lacks; None without one.
        most_faces: of a frame that are restored, the nearest ones; may be set at any time.
    """

    def __init__(
        self,
        generator: Generator,
        *,
        strength: float = 1.0,
        capacity: int = 10,
        policy: Policy = "lfu",
        admission: Admission = "quality",
        recogniser: FaceRecogniser | None = None,
    ) -> None:
        """
        Args:
            strength: 0 (leave as it is) to 1 (all that the generator changes).
            capacity: keyframes a person, see `KeyframeSet`.
            policy: how keyframes are evicted, see `KeyframeSet`.
            admission: which pictures become keyframes, see `keyframes.admit`.
            recogniser: tells people apart; the process's shared one by default.

        Raises:
            ValueError: for a strength outside 0 to 1, or as `KeyframeSet`.
            MissingError: if the landmark file is missing.
        """
        if not 0.0 <= strength <= 1.0:
            raise ValueError(f"strength {strength} is not within 0 to 1")
        self.people = People(capacity, policy)
        self.generator = generator
        self.stats = Stats(generator.device)
        self.faces: list[Face] = []
        self.need: ReferenceNeed | None = None
        self.most_faces = MAX_FACES
        self._strength, self._admission = strength, admission
        self._tracker = FaceTracker()
        self._executor: Executor | None = None
        self._recogniser = recogniser or shared_recogniser()
        self._identities = IdentityWatch(self.people, self._recogniser, self.stats.faults.count)
        self._stills: deque[tuple[StillFace, int]] = deque(maxlen=STILLS_WAITING)
        self._filters: dict[int, TemporalFilter] = {}  # by track id

    def enhance(self, frame: DecodedFrame) -> av.VideoFrame:
        """Returns the frame with its faces restored, pts and time base unchanged.

        A frame without a face, or in none of the pixel formats `RESTORABLE`, comes back as the very
        same object, and so does one whose faces are of high quality already.
        """
        video = frame.video
        self.faces, self.need = [], None
        if video.format.name not in RESTORABLE or min(video.width, video.height) < 2:
            return video
        with self.stats.stage("faces"):
            self.faces = faces = [
                face
                for face in self._tracker.track(luma_of(video))
                if can_be_cropped(
                    face.landmarks, face.box, face.crop_from_frame, video.width, video.height
                )
            ]
        self.people.retain(face.track_id for face in faces)
        if not faces or self._strength == 0.0:
            return video
        seen = [one for one in self._look_at(frame, self._nearest(faces)) if one.blend_weight > 0.0]
        if not seen:
            self._filters.clear()
            self.stats.high_quality_inputs += 1
            return video
        return self._restored(video, seen)

    def _nearest(self, faces: list[Face]) -> list[Face]:
        """At most `most_faces`; those restored before stay until another is clearly nearer."""
        if len(faces) <= self.most_faces:
            return faces

        def size(face: Face) -> float:
            side = float(face.box[2] - face.box[0])
            return side * CLEARLY if face.track_id in self._filters else side

        return sorted(faces, key=size, reverse=True)[: self.most_faces]

    def _look_at(self, frame: DecodedFrame, faces: list[Face]) -> list["FaceInput"]:
        """Cuts the faces out, sees whose they are, and takes references in and out for them."""
        with self.stats.stage("crop"):
            crops = [extract_crop(frame.video, face.crop_from_frame) for face in faces]
            landmarks = [transform(face.landmarks, face.crop_from_frame) for face in faces]
        with self.stats.stage("admit"):
            self._identities.collect(wait=False)
            observations = [
                self._admit(frame, *seen) for seen in zip(faces, crops, landmarks, strict=True)
            ]
            self._take_stills(frame.video, faces, observations)
        self.stats.keyframes = sum(len(self.people[face.track_id].keyframes) for face in faces)
        seen = []
        for face, crop, observation in zip(faces, crops, observations, strict=True):
            reference = self._reference(face, crop, observation)
            weight = self._strength * blend_weight(observation.qp, guided=reference is not crop)
            seen.append(FaceInput(face, observation, crop, reference, weight))
        return seen

    def _restored(self, video: av.VideoFrame, seen: list["FaceInput"]) -> av.VideoFrame:
        """A copy of the picture with these faces restored."""
        with self.stats.stage("landmarks"):
            drawn = _batch([draw_landmarks(one.observation.landmarks)[None] for one in seen])
        filters = self._filters_of(seen)
        copied = _submitted(self._executor, partial(_prepared, video, filters, seen))
        with self.stats.stage("generator"):
            crops, references = [one.crop for one in seen], [one.reference for one in seen]
            restored = self.generator.restore(_batch(crops), _batch(references), drawn)
            self.stats.device = self.generator.device
            np.clip(restored, 0.0, 1.0, out=restored)
        with self.stats.stage("temporal"):
            enhanced = copied()
            for its, picture in zip(filters, restored, strict=True):
                its.apply(picture)
        with self.stats.stage("paste"):
            for one, picture in zip(seen, restored, strict=True):
                residual = np.subtract(picture, one.crop, out=picture)
                if one.blend_weight < 1.0:
                    residual *= np.float32(one.blend_weight)
                paste_residual(enhanced, residual, one.face.crop_from_frame)
        return enhanced

    def warm_up(self) -> None:
        """Runs the network once: the first run is several times as slow as the others."""
        self.generator.warm_up()

    def recover(self) -> None:
        """Begins anew with all that a failure may have left in disorder; references are kept.

        Takes as long as opening a session; not to be called beside `enhance`. Raises
        MissingError for the landmark file, else as `Generator.rebuild`; what could not be made
        anew goes on as it is.
        """
        self._filters.clear()
        self.people.retain(())  # the new tracker's ids have nothing to do with the old one's
        try:
            self.generator.rebuild()
        finally:
            self._tracker = FaceTracker(self._tracker.rate)
            if self._executor is not None:
                self._tracker.set_executor(self._executor)

    def set_detection(self, rate: DetectionRate) -> None:
        """How often faces are searched for and checked from now on; from any thread."""
        self._tracker.rate = rate

    def search_finely(self) -> None:
        """Lets far faces be found in the next frame already, which takes longer: for files."""
        self._tracker.search_finely()

    def set_executor(self, executor: Executor) -> None:
        """Lets what can be done at the same time be done in `executor`, a thread of its own.

        That is what the temporal filter can do while the generator runs, and what
        `FaceTracker.set_executor` tells. `between_frames` has to be called after every frame.
        """
        self._executor = executor
        self._tracker.set_executor(executor)

    def between_frames(self) -> None:
        """Begins what is best done between two frames; quick itself. Not beside `enhance`."""
        self._tracker.between_frames()

    def add_reference(self, track_id: int, keyframe: Keyframe) -> None:
        """Gives a followed face a reference that came another way than in the stream.

        It takes the place of one in nearly the same pose.
        """
        _add_reference(self.people[track_id], keyframe)

    def add_still(self, still: av.VideoFrame, region: Region = WHOLE) -> bool:
        """Takes a better picture of what the stream shows, in any size; see `receiver.stills`.

        `region` is the part of the stream's picture that it shows.

        May be called from any thread. Its faces are found and recognised at once; those of people
        who are on screen become references with the next frame, see `StillFace.judge`. Returns
        whether there is a face.
        """
        faces = faces_of_still(still, self._recogniser, region)
        overflow = max(0, len(self._stills) + len(faces) - STILLS_WAITING)
        self.stats.admitted["nobody's"] += overflow if faces else 1
        self._stills.extend((face, self.people.frames + STILL_WAITS) for face in faces)
        return bool(faces)

    def _admit(
        self, frame: DecodedFrame, face: Face, crop: Crop, landmarks: Landmarks
    ) -> FaceObservation:
        """Sees whose face it is, and takes it in as a keyframe if it is good enough."""
        person = self.people.see(face.track_id, crop, landmarks)
        enlarged, roll = scale_and_roll(face.crop_from_frame)
        qp = frame.qp_within(face.box)
        observation = FaceObservation(
            landmarks,
            None if qp is None else crop_qp(qp, enlarged),
            frame.is_keyframe,
            frame.damaged,
            roll,
            enlarged,
            partial(sharpness, crop),
            partial(detail, crop),
        )
        self._identities.observe(person, crop, observation)
        if self._executor is None:  # nothing runs beside the frames: the same result every time
            self._identities.collect(wait=True)
        keyframes = self.people[face.track_id].keyframes
        person = self.people[face.track_id]
        place = None if person.is_doubtful else admit(keyframes, observation, self._admission)
        if place is not None:
            self.stats.admitted["stream"] += 1
            keyframe = Keyframe(
                picture_of(crop), landmarks, observation.qp, "stream", observation.sharpness()
            )
            keyframe.frame = self.people.frames
            if place.replaces is None:
                keyframes.add(keyframe)
            else:
                keyframes.replace(place.replaces, keyframe)
        return observation

    def _take_stills(
        self, video: av.VideoFrame, faces: list[Face], observations: list[FaceObservation]
    ) -> None:
        """Makes the faces of stills that have come references of the people whose they are."""
        size = np.array([video.width, video.height] * 2, np.float64)
        for _ in range(len(self._stills)):
            still, until = self._stills.popleft()
            face = still.among(faces, size)
            if face is None:
                self.stats.admitted["nobody's"] += 1
                continue
            observation = next(
                observation
                for one, observation in zip(faces, observations, strict=True)
                if one is face
            )
            person = self.people[face.track_id]
            verdict, keyframe = still.judge(person, observation)
            if verdict == "waits" and self.people.frames < until:
                self._stills.append((still, until))
                continue
            self.stats.admitted["nobody's" if verdict == "waits" else verdict] += 1
            if verdict == "still":
                _add_reference(person, keyframe)

    def _filters_of(self, seen: list["FaceInput"]) -> list[TemporalFilter]:
        """Each face's own; those of faces that are not seen any more go."""
        filters = [self._filters.get(one.face.track_id) or TemporalFilter() for one in seen]
        self._filters = {one.face.track_id: its for one, its in zip(seen, filters, strict=True)}
        return filters

    def _reference(self, face: Face, crop: Crop, observation: FaceObservation) -> Crop:
        """The nearest helpful keyframe bent onto the face; the crop itself where there is none."""
        person = self.people[face.track_id]
        if person.is_doubtful:  # somebody else's references may be worse than none
            return crop
        keyframes = person.keyframes
        by_quality = self._admission == "quality"
        with self.stats.stage("choose"):
            choice = keyframes.choose(observation.landmarks, observation.qp if by_quality else None)
            if self.need is None:  # the nearest comes first
                highest = math.inf if observation.qp is None else observation.qp - MUCH_BETTER
                self.need = ReferenceNeed(
                    keyframes.nearest_better(observation.landmarks, highest), observation.qp
                )
        if choice is None or choice[1] == 0.0:  # the face itself: by `i-frames` it is in the set
            return crop
        with self.stats.stage("warp"):
            return crop_of(warp(choice[0].crop, choice[0].landmarks, observation.landmarks))


def _add_reference(person: Person, keyframe: Keyframe) -> None:
    nearest = person.keyframes.nearest(keyframe.landmarks)
    if nearest is not None and nearest[1] <= STILL_POSE:
        person.keyframes.replace(nearest[0], keyframe)
    else:
        person.keyframes.add(keyframe)


@dataclass(frozen=True)
class FaceInput:
    """A face of a frame, its reference, and the weight of the change that is applied, 0 to 1."""

    face: Face
    observation: FaceObservation
    crop: Crop
    reference: Crop
    blend_weight: float


def _prepared(
    video: av.VideoFrame, filters: list[TemporalFilter], seen: list[FaceInput]
) -> av.VideoFrame:
    """Lets the filters see the faces; returns a copy of the frame to paste them into."""
    for one, face in zip(filters, seen, strict=True):
        one.see(face.crop, face.observation.qp)
    return copy_frame(video)


Result = TypeVar("Result")


def _submitted(executor: Executor | None, work: Callable[[], Result]) -> Callable[[], Result]:
    """Begins `work` in `executor`; returns what waits for its result.

    Where it has not begun by then, or there is no executor, that does it itself.
    """
    if executor is None:
        return work
    future = executor.submit(work)
    return lambda: work() if future.cancel() else future.result()


def _batch(pictures: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """N pictures as one array; a single one, the usual case, without a copy."""
    return pictures[0][None] if len(pictures) == 1 else np.stack(pictures)
