"""Tests the recogniser, also when its process fails."""

import os
import signal
import threading
import time

import numpy as np
import pytest

from receiver.enhance.faces import recognition
from receiver.enhance.faces.alignment import extract_crop, picture_of, transform
from receiver.enhance.faces.recognition import MAX_WAITING, FaceRecogniser, RecognitionError
from receiver.enhance.faces.tracking import FaceTracker
from receiver.media.planes import planes

pytestmark = pytest.mark.slow


@pytest.fixture
def recogniser():
    recogniser = FaceRecogniser()
    yield recogniser
    recogniser.close()


@pytest.fixture(scope="module")
def faces(portrait):
    """Crops and landmarks of the portrait at two moments."""
    found = []
    for frame in (portrait[0], portrait[20]):
        (face,) = FaceTracker().track(planes(frame)[0])
        crop = picture_of(extract_crop(frame, face.crop_from_frame))
        found.append((crop, transform(face.landmarks, face.crop_from_frame)))
    return found


def test_a_person_has_nearly_the_same_embedding_at_two_moments(recogniser, faces):
    first, second = (recogniser.submit(*face).result(30) for face in faces)
    assert (first.shape, first.dtype) == ((128,), np.float32)
    assert np.linalg.norm(first) == pytest.approx(1.0, abs=1e-5)
    assert 0.0 < np.linalg.norm(first - second) < 0.2
    assert np.array_equal(recogniser.submit(*faces[0]).result(30), first)  # deterministic


def test_the_embedding_equals_that_of_dlib_in_this_process(recogniser, faces):
    from bench.metrics.faces import identity

    theirs = identity(*faces[0])
    ours = recogniser.submit(*faces[0]).result(30)
    assert np.allclose(ours, theirs / np.linalg.norm(theirs), atol=1e-5)


def test_faces_of_another_shape_are_refused(recogniser, faces):
    crop, landmarks = faces[0]
    for face in ((crop[:128], landmarks), (crop, landmarks[:5])):
        with pytest.raises(ValueError, match="a face of shapes"):
            recogniser.submit(*face)


def test_a_process_that_ends_is_restarted_after_a_while(recogniser, faces, monkeypatch):
    first = recogniser.submit(*faces[0]).result(30)
    recogniser._process.kill()
    with pytest.raises(RecognitionError, match="ended with code -9"):
        recogniser.submit(*faces[0]).result(30)
    with pytest.raises(RecognitionError, match="not restarted yet"):
        recogniser.submit(*faces[0]).result(30)
    monkeypatch.setattr(recognition, "RESTARTS_AFTER", 0.0)
    recogniser._may_start = 0.0
    assert np.array_equal(recogniser.submit(*faces[0]).result(30), first)


def test_a_process_that_hangs_is_killed(recogniser, faces, monkeypatch):
    recogniser.submit(*faces[0]).result(30)
    process = recogniser._process
    os.kill(process.pid, signal.SIGSTOP)
    monkeypatch.setattr(recognition, "ANSWERS_WITHIN", 0.2)
    with pytest.raises(RecognitionError, match="ended with code -9"):
        recogniser.submit(*faces[0]).result(30)
    assert process.poll() is not None


def test_nan_landmarks_cost_only_their_own_embedding(recogniser, faces):
    crop, landmarks = faces[0]
    wrong = landmarks.copy()
    wrong[3] = np.nan
    with pytest.raises(RecognitionError):
        recogniser.submit(crop, wrong).result(30)
    recogniser._may_start = 0.0
    recogniser.submit(crop, landmarks).result(30)


def test_printed_text_is_not_taken_for_an_embedding(recogniser, faces, monkeypatch, tmp_path):
    """Hooks that Python runs at its start may print, such as those of coverage tools."""
    (tmp_path / "sitecustomize.py").write_text("print('hello ' * 200, flush=True)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RecognitionError):
        recogniser.submit(*faces[0]).result(30)
    assert recogniser._process is None


def test_a_python_that_cannot_be_started_is_reported(recogniser, faces, monkeypatch):
    monkeypatch.setattr("sys.executable", "")
    with pytest.raises(RecognitionError, match="cannot be started"):
        recogniser.submit(*faces[0]).result(30)


def test_restarts_close_their_pipes(recogniser, faces):
    for _ in range(3):
        recogniser._may_start = 0.0
        recogniser.submit(*faces[0]).result(30)
        process = recogniser._process
        process.kill()
        with pytest.raises(RecognitionError):
            recogniser.submit(*faces[0]).result(30)
        assert process.stdin.closed
        assert process.stdout.closed


def test_at_most_max_waiting_faces_wait(recogniser, faces):
    recogniser.submit(*faces[0]).result(30)
    os.kill(recogniser._process.pid, signal.SIGSTOP)
    waiting = [recogniser.submit(*faces[0]) for _ in range(MAX_WAITING)]
    with pytest.raises(RecognitionError, match=f"{MAX_WAITING} faces are waiting"):
        recogniser.submit(*faces[0]).result(1)
    os.kill(recogniser._process.pid, signal.SIGCONT)
    for future in waiting:
        future.result(30)
    recogniser.submit(*faces[0]).result(30)


def test_python_keeps_running_while_dlib_computes(recogniser, faces):
    """In this process dlib would hold Python's lock and stop frames and packets."""
    recogniser.submit(*faces[0]).result(30)
    turns, stop = [], threading.Event()

    def count() -> None:
        while not stop.is_set():
            turns.append(None)
            time.sleep(0)

    thread = threading.Thread(target=count)
    thread.start()
    before = len(turns)
    recogniser.submit(*faces[0]).result(30)
    stop.set()
    thread.join()
    assert len(turns) - before > 10


def test_closing_ends_the_process(faces):
    recogniser = FaceRecogniser()
    recogniser.submit(*faces[0]).result(30)
    process = recogniser._process
    recogniser.close()
    assert process.poll() is not None
