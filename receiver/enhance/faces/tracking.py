"""Detects faces at intervals and tracks them in between, with 68 landmarks each."""

import math
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import Any

import cv2
import dlib
import numpy as np
from numpy.typing import NDArray

from keyframes import Landmarks
from receiver.enhance.faces.alignment import Affine, crop_from_frame
from receiver.enhance.faces.motion import FaceBefore
from receiver.inference.package_models import LANDMARKS, package_model
from receiver.media.frame import Box as Box  # also for the importers of this module

MAX_FACES = 4
"""Maximum number of tracked faces."""
SEARCH_EVERY = 30
"""Frames from one search of the whole frame to the next while a face is tracked."""
SEARCH_EVERY_EMPTY = 5
"""The same while no face is tracked."""
SEARCH_SIDES = (320, 640)
"""Longer sides to which the frame is reduced for a coarse and a fine search. The detector finds
faces of at least 80 px there: a coarse search takes a quarter of the time and finds near faces."""
FINE_EVERY, FINE_EVERY_EMPTY = 5, 2
"""One search in this many is fine, while a face is tracked and while none is."""
CHECK_EVERY = 10
"""Frames from one check that a tracked face is still there to the next."""
CHECK_SIDE = 88
"""Side in pixels to which a tracked face is reduced for a check."""
MISSES = 2
"""Failed checks in a row after which a face is no longer tracked."""


@dataclass(frozen=True)
class DetectionRate:
    """How often the face detector runs while a face is tracked.

    Attributes:
        search_every: frames from one search of the whole frame to the next.
        check_every: frames from one check of a tracked face to the next.
    """

    search_every: int = SEARCH_EVERY
    check_every: int = CHECK_EVERY

    def __post_init__(self) -> None:
        """Raises ValueError for a rate below 1 frame."""
        if min(self.search_every, self.check_every) < 1:
            raise ValueError(f"{self} is invalid: both rates must be at least 1 frame")


@dataclass(frozen=True)
class Face:
    """A face of a frame.

    Attributes:
        landmarks: 68x2 float32, smoothed over time, in pixels of the frame.
        box: left, top, right, bottom in pixels of the frame, a box as the detector returns it.
        track_id: stays the same as long as the face is tracked.
        crop_from_frame: 2x3 affine map from the frame to the aligned 256x256 crop.
    """

    landmarks: Landmarks
    box: Box
    track_id: int
    crop_from_frame: Affine


def landmark_file() -> Path:
    """Returns the path of the 68-point predictor. Raises as `package_model`."""
    return package_model(LANDMARKS)


class OneEuroFilter:
    """Smooths an array of coordinates: strongly at rest, hardly in motion.

    Implements Casiez, Roussel and Vogel, "1 Euro Filter", CHI 2012, with one speed for the whole
    array. Times are in frames and coordinates in units of the face's size, so that the settings
    hold for any frame rate and size.
    """

    MIN_CUTOFF = 0.08  # per frame: at rest a new measurement weighs about a third
    BETA = 30.0  # a face that moves by 1 % of its size a frame has almost no lag
    SPEED_CUTOFF = 0.15

    def __init__(self) -> None:
        self._value: NDArray[np.float64] | None = None
        self._speed = 0.0

    def __call__(self, value: NDArray[np.float64], size: float) -> NDArray[np.float64]:
        """Returns the smoothed array; `size` is the face's size in the units of `value`."""
        if self._value is None:
            self._value = value
            return value
        change = value - self._value
        moved = math.hypot(*change.sum(axis=0).tolist()) / len(change) / size
        self._speed += _weight(self.SPEED_CUTOFF) * (moved - self._speed)
        weight = _weight(self.MIN_CUTOFF + self.BETA * self._speed * self.SPEED_CUTOFF)
        self._value = self._value + weight * change
        return self._value


def _weight(cutoff: float) -> float:
    return 1.0 / (1.0 + 1.0 / (2.0 * math.pi * cutoff))


@dataclass
class _Track:
    track_id: int
    box: Box
    # The box's centre and side in crop coordinates: the box moves with the landmarks.
    box_in_crop: tuple[complex, float] | None = None
    smooth: OneEuroFilter = field(default_factory=OneEuroFilter)
    misses: int = 0
    measured: Landmarks | None = (
        None  # in the last frame, by the predictor; None if moved by `motion`
    )
    looked_at: Box | None = None  # where the last frame was searched for it
    before: "Future[FaceBefore] | None" = None  # the face in the last frame


@dataclass
class _Detection:
    """A run of the detector in the background, and the use of its boxes."""

    look: Callable[[], list[Box]]
    use: Callable[[list[Box]], None]
    found: "Future[list[Box]] | None" = None  # None before it is submitted


class FaceTracker:
    """Finds the faces of successive frames; each keeps its track id as long as it is visible.

    dlib's HOG detector searches a reduced frame about once a second. Between searches each face's
    box moves along with its landmarks, and the detector checks the surroundings of the box.

    Attributes:
        rate: how often the detector runs; may be set at any time, from any thread.
    """

    def __init__(self, rate: DetectionRate | None = None) -> None:
        """Raises MissingError if the landmark file is missing."""
        self.rate = rate or DetectionRate()
        self._detect = _detector()
        self._predict = _predictor(str(landmark_file()))
        self._executor: Executor | None = None
        self._detection: _Detection | None = None
        self._tracks: list[_Track] = []
        self._searches = 0
        self._frames = 0
        self._next_search = 0
        self._next_id = 0
        self._luma: NDArray[np.uint8] | None = None  # of the last frame, until `between_frames`
        self._shape: tuple[int, ...] = ()

    def set_executor(self, executor: Executor) -> None:
        """Does the slowest work between the frames, in `executor`.

        While a face is tracked the detector runs there, and its result is used a frame or two
        later, which makes the result depend on timing. (While no face is tracked it runs at once: a
        frame has no other work then, and it may hold the first reference.) Landmarks are measured
        there too and moved to the next frame, see `motion`. From now on `between_frames` must be
        called after every frame.
        """
        self._executor, self._detection = executor, None

    def between_frames(self) -> None:
        """Submits work to the executor: between frames, because dlib holds Python's lock."""
        luma, self._luma = self._luma, None
        if self._executor is None:
            return
        for track in self._tracks:
            if luma is not None and track.looked_at is not None:
                remember = partial(
                    self._face_before, luma, track.looked_at, track.measured, track.box
                )
                track.before = self._executor.submit(remember)
        detection = self._detection
        if detection is not None and detection.found is None:
            detection.found = self._executor.submit(detection.look)

    def track(self, luma: NDArray[np.uint8]) -> list[Face]:
        """Returns the faces of the next frame, nearest (largest) first, at most `MAX_FACES`.

        Args:
            luma: HxW uint8, the Y plane. A change of its size restarts the tracking.
        """
        if luma.shape != self._shape:
            self._tracks.clear()
            self._detection = None
            self._shape, self._next_search = luma.shape, self._frames
        self._luma = luma
        self._use_detection()
        if self._detection is None and self._frames >= self._next_search:
            self._search(luma)
        for track in list(self._tracks):
            due = (self._frames + track.track_id) % self.rate.check_every == 0
            if due and self._detection is None:
                self._check(luma, track)
        faces = [self._follow(luma, track) for track in self._tracks]
        self._frames += 1
        return sorted(faces, key=lambda face: face.box[0] - face.box[2])

    def search_finely(self) -> None:
        """Makes the next search a fine one, for a frame without a deadline."""
        self._searches = FINE_EVERY_EMPTY - 1

    def find(self, luma: NDArray[np.uint8]) -> list[Face]:
        """Returns the faces of a picture, as `track` does, without regard to earlier frames."""
        self._tracks.clear()
        self._next_search = self._frames
        return self.track(luma)

    def _search(self, luma: NDArray[np.uint8]) -> None:
        """Searches the frame for faces that are not tracked yet."""
        fine_every = FINE_EVERY if self._tracks else FINE_EVERY_EMPTY
        fine = self._searches % fine_every == fine_every - 1
        self._searches += 1
        every = self.rate.search_every if self._tracks else SEARCH_EVERY_EMPTY
        self._next_search = self._frames + every

        def use(boxes: list[Box]) -> None:
            for box in boxes:
                if len(self._tracks) < MAX_FACES and all(
                    overlap(box, track.box) < 0.3 for track in self._tracks
                ):
                    self._add_track(box)

        self._run_detector(luma, max(1.0, max(luma.shape) / SEARCH_SIDES[fine]), use)

    def _add_track(self, box: Box) -> None:
        self._tracks.append(_Track(self._next_id, box))
        self._next_id += 1
        self._next_search = max(self._next_search, self._frames + self.rate.search_every)

    def _check(self, luma: NDArray[np.uint8], track: _Track) -> None:
        """Checks with the detector that a tracked face is still there."""
        then = track.box
        size = then[2] - then[0]
        left, top = np.maximum(then[:2] - 0.4 * size, 0).astype(int).tolist()
        right, bottom = (then[2:] + 0.4 * size).astype(int).tolist()
        corner = np.array([left, top, left, top])

        def use(boxes: list[Box]) -> None:
            found = [box + corner for box in boxes]
            here = [box for box in found if overlap(box, then) > 0.3]
            track.misses = 0 if here else track.misses + 1
            if here:
                # The detector's own box, so that errors of the landmarks do not accumulate.
                track.box = track.box + max(here, key=lambda box: overlap(box, then)) - then
            elif track.misses == MISSES and track in self._tracks:
                self._tracks.remove(track)
                self._next_search = self._frames + 1

        self._run_detector(luma[top:bottom, left:right], max(1e-3, size / CHECK_SIDE), use)

    def _run_detector(
        self, luma: NDArray[np.uint8], shrink: float, use: Callable[[list[Box]], None]
    ) -> None:
        """Runs the detector on `luma` reduced by `shrink`, now or later; then calls `use`."""
        height, width = (max(1, round(length / shrink)) for length in luma.shape)
        if min(luma.shape) < 2:
            use([])
            return

        def look() -> list[Box]:
            reduced = cv2.resize(luma, (width, height), interpolation=cv2.INTER_AREA)
            scale = np.array([luma.shape[1] / width, luma.shape[0] / height] * 2)
            return [
                np.array([box.left(), box.top(), box.right() + 1, box.bottom() + 1]) * scale
                for box in self._detect(reduced)
            ]

        if self._executor is None or not self._tracks:
            use(look())
        else:
            self._detection = _Detection(look, use)

    def _use_detection(self) -> None:
        detection = self._detection
        if detection is not None and detection.found is not None and detection.found.done():
            self._detection = None
            detection.use(detection.found.result())

    def _follow(self, luma: NDArray[np.uint8], track: _Track) -> Face:
        measured = self._measured(luma, track)
        size = float(track.box[2] - track.box[0])
        landmarks = track.smooth(measured.astype(np.float64), size).astype(np.float32)
        to_crop = crop_from_frame(landmarks)
        face = Face(landmarks, track.box, track.track_id, to_crop)
        # The measured, not the smoothed, landmarks place the box for the next frame. In complex
        # numbers a point of the crop is turn * point of the frame + offset.
        measured_crop = crop_from_frame(measured)
        turn, offset = complex(*measured_crop[:, 0]), complex(*measured_crop[:, 2])
        if track.box_in_crop is None:
            centre, side = _square(track.box)
            track.box_in_crop = turn * centre + offset, abs(turn) * side
        centre, side = track.box_in_crop
        track.box = _box((centre - offset) / turn, side / abs(turn))
        return face

    def _measured(self, luma: NDArray[np.uint8], track: _Track) -> Landmarks:
        """Returns the landmarks: those of the last frame, moved, or else from the predictor."""
        track.looked_at, track.measured = track.box, None
        before, track.before = track.before, None
        if before is not None and not before.cancel():
            moved = before.result().now(luma)
            if moved is not None:
                return moved
        track.measured = self._landmarks(luma, track.box)
        return track.measured

    def _face_before(
        self, luma: NDArray[np.uint8], box: Box, measured: Landmarks | None, next_box: Box
    ) -> FaceBefore:
        """Returns a face for the next frame; measures its landmarks if `measured` is None."""
        landmarks = self._landmarks(luma, box) if measured is None else measured
        return FaceBefore.of(luma, landmarks, next_box)

    def _landmarks(self, luma: NDArray[np.uint8], box: Box) -> Landmarks:
        left, top, right, bottom = (round(side) for side in box.tolist())
        shape: Any = self._predict(luma, dlib.rectangle(left, top, right - 1, bottom - 1))
        # Parsed from text: two calls a point for its coordinates take 0.1 ms more.
        points = str(shape.parts()).removeprefix("points[(").removesuffix(")]")
        return np.fromstring(points.replace("), (", ","), np.float32, sep=",").reshape(-1, 2)


@lru_cache(maxsize=1)
def _detector() -> Callable[[NDArray[Any]], Any]:
    """Returns the detector that all trackers share.

    Making one takes a third of a second with Python's lock held. The detector has state, and dlib
    does not document that it holds Python's lock while it runs, so calls are serialised.
    """
    detector, lock = dlib.get_frontal_face_detector(), Lock()

    def detect(picture: NDArray[Any]) -> Any:
        with lock:
            return detector(picture, 0)

    return detect


@lru_cache(maxsize=1)
def _predictor(path: str) -> Any:
    """Returns the landmark predictor that all trackers share: 100 MB, a second to load."""
    return dlib.shape_predictor(path)


def _square(box: Box) -> tuple[complex, float]:
    """Returns a box's centre, x + y * 1j, and the mean of its sides."""
    left, top, right, bottom = box.tolist()
    return complex(left + right, top + bottom) / 2, (right - left + bottom - top) / 2


def _box(centre: complex, side: float) -> Box:
    x, y, half = centre.real, centre.imag, side / 2
    return np.array([x - half, y - half, x + half, y + half])


def overlap(a: Box, b: Box) -> float:
    """Returns the intersection over union of two boxes."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    common = float(np.prod(np.maximum(sides, 0)))
    return common / float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - common)
