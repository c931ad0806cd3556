"""The face stage: chooses references, restores the faces and pastes them."""

import math
from collections import deque
from collections.abc import Callable, Sequence
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
    ReferenceNeed,
    admit,
    crop_qp,
    warp,
)
from receiver.enhance.faces.alignment import (
    Affine,
    Crop,
    crop_of,
    draw_landmarks,
    extract_crop,
    paste_residual,
    picture_of,
    scaled,
    transform,
)
from receiver.enhance.faces.generator import Generator
from receiver.enhance.faces.identities import IdentityWatch
from receiver.enhance.faces.levels import LEVELS
from receiver.enhance.faces.observations import detail, scale_and_roll, sharpness
from receiver.enhance.faces.recognition import FaceRecogniser
from receiver.enhance.faces.still_faces import StillFace, faces_of_still
from receiver.enhance.faces.temporal import TemporalFilter
from receiver.enhance.faces.tracking import MAX_FACES, Face
from receiver.enhance.stage import Canvas, FrameContext, Stage, StageLevel
from receiver.media.frame import DecodedFrame
from receiver.media.planes import WHOLE, Region
from receiver.stats import Stats

TIMED = ("faces", "crop", "admit", "choose", "warp", "landmarks", "generator", "temporal", "paste")
"""The parts that are timed in `Stats`, in the order in which they run; `choose` and
`warp` run once per face."""

MUCH_BETTER = 6.0
"""QP steps by which a reference must be better than a face so that no other one is needed."""
STILL_POSE = 15.0
"""Landmark distance in crop pixels within which a still replaces another reference: less than
between frames of the stream, because a sharp one gains from every pixel that it is nearer."""
CLEARLY_LARGER = 1.25
"""A face replaces a restored one if it is this many times as large."""
STILLS_WAITING = 8
"""Faces of stills that wait for the next frame, or until it is known who is on screen; beyond that
the oldest is discarded."""
STILL_WAITS = 300
"""Frames for which a still's face waits until it is known who is on screen."""

BLEND_QP = (18.0, 24.0, 28.0, 32.0, 36.0, 40.0)
BLEND_WEIGHTS = {False: (0.0, 0.4, 0.6, 0.75, 0.9, 1.0), True: (0.0, 0.6, 0.85, 1.0, 1.0, 1.0)}
"""The best blend weights at those QPs, without a reference and with one."""


def blend_weight(qp: float | None, *, guided: bool) -> float:
    """Returns the share of the network's change to apply to a face with this QP, 0 to 1.

    The lower the QP, the more of the network's change is guesswork.
    """
    if qp is None:
        return 1.0
    return float(np.interp(qp, BLEND_QP, BLEND_WEIGHTS[guided]))


@dataclass(frozen=True)
class FaceInput:
    """What restores a face of a frame.

    Attributes:
        face: as tracked, in pixels of the decoded frame.
        observation: of the face as received.
        crop: of the canvas, which the network restores.
        reference: for the network; `crop` itself if there is none.
        blend_weight: share of the network's change that is applied, 0 to 1.
        crop_from_canvas: maps pixels of the canvas to pixels of the crop.
    """

    face: Face
    observation: FaceObservation
    crop: Crop
    reference: Crop
    blend_weight: float
    crop_from_canvas: Affine


class FaceStage(Stage):
    """Restores the faces of successive frames.

    Keeps a keyframe set for each person; references are never used for another person.

    Attributes:
        generator: the network that it runs.
        people: those on screen, now and before.
        most_faces: faces that are restored in a frame, the nearest ones; may be set at any time.
    """

    levels: Sequence[StageLevel] = tuple(StageLevel(level.name) for level in LEVELS)

    def __init__(
        self,
        generator: Generator,
        people: People,
        stats: Stats,
        recogniser: FaceRecogniser,
        *,
        strength: float,
        admission: Admission,
    ) -> None:
        """
        Args:
            generator: the network.
            people: whose keyframe sets it fills.
            stats: of the stream.
            recogniser: distinguishes people.
            strength: 0 (no change) to 1 (the network's whole change).
            admission: which faces become keyframes, see `keyframes.admit`.

        Raises:
            ValueError: for a strength outside 0 to 1.
        """
        if not 0.0 <= strength <= 1.0:
            raise ValueError(f"strength {strength} is not within 0 to 1")
        self.generator, self.people = generator, people
        self.most_faces = MAX_FACES
        self._stats, self._recogniser = stats, recogniser
        self._strength, self._admission = strength, admission
        self._identities = IdentityWatch(people, recogniser, stats.faults.count)
        self._stills: deque[tuple[StillFace, int]] = deque(maxlen=STILLS_WAITING)
        self._filters: dict[int, TemporalFilter] = {}  # by track id

    def run(self, context: FrameContext, canvas: Canvas) -> Canvas:
        """Returns the canvas with its faces restored.

        It is the same object if there is no face, or if all faces are high-quality inputs.
        """
        faces = context.faces
        self.people.retain(face.track_id for face in faces)
        if not faces or self._strength == 0.0:
            return canvas
        inputs = self._inputs(context, canvas, self._nearest(faces))
        inputs = [one for one in inputs if one.blend_weight > 0.0]
        if not inputs:
            self._filters.clear()
            self._stats.high_quality_inputs += 1
            context.passed = "passed: high quality"
            return canvas
        return self._restored(context, canvas, inputs)

    def reset(self) -> None:
        """Restarts the network and discards the state of the faces on screen; references are kept.

        Takes as long as opening a session. Raises as `Generator.rebuild`.
        """
        self._filters.clear()
        self.people.retain(())  # the new tracker's ids have nothing to do with the old one's
        self.generator.rebuild()

    def set_level(self, rank: int) -> None:
        """Sets how many faces are restored; the level's network is shared by all streams."""
        self.most_faces = LEVELS[min(rank, len(LEVELS) - 1)].faces

    def add_reference(self, track_id: int, keyframe: Keyframe) -> None:
        """Adds a reference for a tracked face that did not come from the stream.

        It replaces one of nearly the same pose.
        """
        _add_reference(self.people[track_id], keyframe)

    def add_still(self, still: av.VideoFrame, region: Region = WHOLE) -> bool:
        """Accepts a better still of what the stream shows, in any size; see `receiver.stills`.

        May be called from any thread. Its faces are found and recognised at once; those of people
        on screen become references with the next frame, see `StillFace.judge`.

        Args:
            still: its pixels.
            region: the part of the stream's frame that it shows.

        Returns:
            Whether there is a face.
        """
        faces = faces_of_still(still, self._recogniser, region)
        overflow = max(0, len(self._stills) + len(faces) - STILLS_WAITING)
        self._stats.admitted["nobody's"] += overflow if faces else 1
        self._stills.extend((face, self.people.frames + STILL_WAITS) for face in faces)
        return bool(faces)

    def _nearest(self, faces: list[Face]) -> list[Face]:
        """Returns at most `most_faces`; a restored face stays until another is clearly larger."""
        if len(faces) <= self.most_faces:
            return faces

        def size(face: Face) -> float:
            side = float(face.box[2] - face.box[0])
            return side * CLEARLY_LARGER if face.track_id in self._filters else side

        return sorted(faces, key=size, reverse=True)[: self.most_faces]

    def _inputs(self, context: FrameContext, canvas: Canvas, faces: list[Face]) -> list[FaceInput]:
        """Crops the faces, identifies them, admits keyframes and chooses references."""
        frame = context.frame
        with self._stats.stage("crop"):
            received = [extract_crop(frame.video, face.crop_from_frame) for face in faces]
            landmarks = [transform(face.landmarks, face.crop_from_frame) for face in faces]
            affines = [scaled(face.crop_from_frame, canvas.scale) for face in faces]
            crops = received
            if canvas.video is not frame.video:
                crops = [extract_crop(canvas.video, affine) for affine in affines]
        with self._stats.stage("admit"):
            self._identities.collect(wait=False)
            is_deterministic = context.executor is None
            observations = [
                self._admit(frame, *one, wait=is_deterministic)
                for one in zip(faces, received, landmarks, strict=True)
            ]
            self._take_stills(frame.video, faces, observations)
        people = [self.people[face.track_id] for face in faces]
        self._stats.keyframes = sum(len(person.keyframes) for person in people)
        inputs = []
        for face, crop, observation, affine in zip(
            faces, crops, observations, affines, strict=True
        ):
            reference = self._reference(context, face, crop, observation)
            weight = self._strength * blend_weight(observation.qp, guided=reference is not crop)
            inputs.append(FaceInput(face, observation, crop, reference, weight, affine))
        return inputs

    def _restored(self, context: FrameContext, canvas: Canvas, inputs: list[FaceInput]) -> Canvas:
        """Returns another canvas with these faces restored."""
        with self._stats.stage("landmarks"):
            drawn = _batch([draw_landmarks(one.observation.landmarks)[None] for one in inputs])
        filters = self._filters_of(inputs)
        prepared = _submitted(context.executor, partial(_prepared, canvas, filters, inputs))
        with self._stats.stage("generator"):
            crops, references = [one.crop for one in inputs], [one.reference for one in inputs]
            restored = self.generator.restore(_batch(crops), _batch(references), drawn)
            self._stats.device = self.generator.device
            np.clip(restored, 0.0, 1.0, out=restored)
        with self._stats.stage("temporal"):
            enhanced = prepared()
            for temporal_filter, crop in zip(filters, restored, strict=True):
                temporal_filter.apply(crop)
        with self._stats.stage("paste"):
            for one, crop in zip(inputs, restored, strict=True):
                residual = np.subtract(crop, one.crop, out=crop)
                if one.blend_weight < 1.0:
                    residual *= np.float32(one.blend_weight)
                paste_residual(enhanced.video, residual, one.crop_from_canvas)
        return enhanced

    def _admit(
        self, frame: DecodedFrame, face: Face, crop: Crop, landmarks: Landmarks, *, wait: bool
    ) -> FaceObservation:
        """Identifies a face, and admits it as a keyframe if it is good enough."""
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
        if wait:  # so that the result is the same every time
            self._identities.collect(wait=True)
        person = self.people[face.track_id]
        admitted = (
            None if person.is_doubtful else admit(person.keyframes, observation, self._admission)
        )
        if admitted is not None:
            self._stats.admitted["stream"] += 1
            keyframe = Keyframe(
                picture_of(crop), landmarks, observation.qp, "stream", observation.sharpness()
            )
            keyframe.frame = self.people.frames
            if admitted.replaces is None:
                person.keyframes.add(keyframe)
            else:
                person.keyframes.replace(admitted.replaces, keyframe)
        return observation

    def _take_stills(
        self, video: av.VideoFrame, faces: list[Face], observations: list[FaceObservation]
    ) -> None:
        """Admits the faces of stills that have arrived as references of the people they show."""
        size = np.array([video.width, video.height] * 2, np.float64)
        observed = {face.track_id: one for face, one in zip(faces, observations, strict=True)}
        for _ in range(len(self._stills)):
            still, until = self._stills.popleft()
            face = still.among(faces, size)
            if face is None:
                self._stats.admitted["nobody's"] += 1
                continue
            person = self.people[face.track_id]
            verdict, keyframe = still.judge(person, observed[face.track_id])
            if verdict == "waits" and self.people.frames < until:
                self._stills.append((still, until))
                continue
            self._stats.admitted["nobody's" if verdict == "waits" else verdict] += 1
            if verdict == "still":
                _add_reference(person, keyframe)

    def _filters_of(self, inputs: list[FaceInput]) -> list[TemporalFilter]:
        """Returns each face's own filter; discards those of faces that are gone."""
        filters = [self._filters.get(one.face.track_id) or TemporalFilter() for one in inputs]
        self._filters = {one.face.track_id: its for one, its in zip(inputs, filters, strict=True)}
        return filters

    def _reference(
        self, context: FrameContext, face: Face, crop: Crop, observation: FaceObservation
    ) -> Crop:
        """Returns the best keyframe, warped onto the face; the crop itself if there is none."""
        person = self.people[face.track_id]
        if person.is_doubtful:  # another person's references may be worse than none
            return crop
        keyframes = person.keyframes
        by_quality = self._admission == "quality"
        with self._stats.stage("choose"):
            choice = keyframes.choose(observation.landmarks, observation.qp if by_quality else None)
            if context.reference_need is None:  # the nearest face is the first
                highest = math.inf if observation.qp is None else observation.qp - MUCH_BETTER
                distance = keyframes.nearest_better(observation.landmarks, highest)
                context.reference_need = ReferenceNeed(distance, observation.qp)
        if choice is None or choice[1] == 0.0:  # the face itself: `i-frames` has admitted it
            return crop
        with self._stats.stage("warp"):
            return crop_of(warp(choice[0].crop, choice[0].landmarks, observation.landmarks))


def _add_reference(person: Person, keyframe: Keyframe) -> None:
    nearest = person.keyframes.nearest(keyframe.landmarks)
    if nearest is not None and nearest[1] <= STILL_POSE:
        person.keyframes.replace(nearest[0], keyframe)
    else:
        person.keyframes.add(keyframe)


def _prepared(canvas: Canvas, filters: list[TemporalFilter], inputs: list[FaceInput]) -> Canvas:
    """Passes the crops to the filters; returns a canvas to paste into."""
    for temporal_filter, one in zip(filters, inputs, strict=True):
        temporal_filter.see(one.crop, one.observation.qp)
    return canvas.writable()


Result = TypeVar("Result")


def _submitted(executor: Executor | None, work: Callable[[], Result]) -> Callable[[], Result]:
    """Submits `work` to `executor`; returns a function that waits for its result.

    That function runs `work` itself if it has not started by then, or without an executor.
    """
    if executor is None:
        return work
    future = executor.submit(work)
    return lambda: work() if future.cancel() else future.result()


def _batch(crops: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Stacks N crops; a single one, the usual case, is not copied."""
    return crops[0][None] if len(crops) == 1 else np.stack(crops)
