"""Tests that landmarks follow the motion of the picture, or are reported as lost."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.enhance.faces.motion import FaceBefore

BOX = np.array([200.0, 140.0, 400.0, 340.0])


@pytest.fixture(scope="module")
def luma() -> np.ndarray:
    """A 480x640 luma plane with structure at several scales."""
    rng = np.random.default_rng(0)
    picture = np.zeros((480, 640), np.float32)
    for cells in (6, 20, 60):
        coarse = rng.random((cells, cells)).astype(np.float32)
        picture += cv2.resize(coarse, (640, 480), interpolation=cv2.INTER_CUBIC)
    return np.clip(picture * 85, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def landmarks() -> np.ndarray:
    return np.random.default_rng(1).uniform(210, 330, (68, 2)).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(
    shift=st.tuples(st.floats(-8, 8), st.floats(-8, 8)),
    turn=st.floats(-0.05, 0.05),
    growth=st.floats(0.96, 1.04),
)
def test_landmarks_follow_the_motion_of_the_picture(luma, landmarks, shift, turn, growth):
    move = cv2.getRotationMatrix2D((300, 240), np.degrees(turn), growth)
    move[:, 2] += shift
    later = cv2.warpAffine(luma, move, (640, 480), borderMode=cv2.BORDER_REFLECT)
    expected = landmarks @ move[:, :2].T + move[:, 2]
    found = FaceBefore.of(luma, landmarks, BOX).now(later)
    assert found is not None
    assert found.dtype == np.float32
    assert np.median(np.linalg.norm(found - expected, axis=1)) < 0.5
    assert np.percentile(np.linalg.norm(found - expected, axis=1), 90) < 1.5


def test_landmarks_stay_in_the_same_picture(luma, landmarks):
    np.testing.assert_allclose(FaceBefore.of(luma, landmarks, BOX).now(luma), landmarks, atol=0.01)


def test_a_face_is_not_found_in_another_picture(luma, landmarks):
    before = FaceBefore.of(luma, landmarks, BOX)
    assert before.now(np.ascontiguousarray(luma[::-1, ::-1])) is None
    assert before.now(255 - luma) is None


def test_a_covered_point_moves_with_the_others(luma, landmarks):
    later = np.roll(luma, (3, 4), axis=(0, 1))
    x, y = (landmarks[5] + (4, 3)).astype(int)
    later[y - 12 : y + 12, x - 12 : x + 12] = np.random.default_rng(2).integers(0, 255, (24, 24))
    found = FaceBefore.of(luma, landmarks, BOX).now(later)
    assert found is not None
    np.testing.assert_allclose(found[5], landmarks[5] + (4, 3), atol=2.0)


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (-500, -500, -300, -300), (0, 0, 5000, 5000)])
def test_a_box_may_lie_anywhere(luma, landmarks, box):
    found = FaceBefore.of(luma, landmarks, np.array(box, np.float64)).now(luma)
    assert found is None or found.shape == (68, 2)
