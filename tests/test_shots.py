"""Faces of stills, and what is measured of a face."""

import cv2
import numpy as np
import pytest

from keyframes import landmark_distance
from receiver.alignment import cut_frame, extract_crop, planes, transform
from receiver.faces import FaceTracker
from receiver.shots import faces_of_still, region_of, scale_and_roll, sharpness
from receiver.stills import part_of
from tests.conftest import plain_frame


@pytest.fixture
def face(portrait):
    return FaceTracker().track(planes(portrait[0])[0])[0]


def test_scale_and_roll_are_the_maps():
    turn = np.radians(20)
    affine = 2.5 * np.array([[np.cos(turn), -np.sin(turn), 7], [np.sin(turn), np.cos(turn), 9]])
    assert scale_and_roll(affine) == pytest.approx((2.5, 20.0))


def test_a_blur_is_less_sharp(portrait, face):
    crop = extract_crop(portrait[0], face.crop_from_frame)
    blurred = np.stack([cv2.GaussianBlur(plane, (0, 0), 2.0) for plane in crop])
    assert sharpness(blurred) < 0.5 * sharpness(crop)


def test_the_region_holds_the_whole_crop(portrait, face):
    region = region_of(face, 640, 480)
    assert 0.05 < (region[2] - region[0]) * (region[3] - region[1]) < 0.65
    part = part_of(portrait[0], region)
    (found,) = faces_of_still(part, region)
    size = np.array([640, 480, 640, 480])
    assert found.among([face], size) is face
    assert np.abs(found.box * size - face.box).max() < 0.15 * (face.box[2] - face.box[0])
    own = transform(face.landmarks, face.crop_from_frame)
    assert landmark_distance(found.keyframe.landmarks, own) < 30


def test_of_two_faces_each_still_finds_its_own(portrait):
    wide = portrait[0].reformat(width=640, height=480)
    left = FaceTracker().track(planes(wide)[0])[0]
    shifted = cut_frame(portrait[0], 100, 0, 540, 480)
    (found,) = faces_of_still(shifted, (0.5, 0.0, 1.0, 1.0))
    size = np.array([640, 480, 640, 480])
    assert found.among([left, left], size) is None  # neither of them is in that half
    assert found.among([], size) is None


def test_a_picture_without_a_face_has_none():
    assert faces_of_still(plain_frame()) == []
    assert faces_of_still(plain_frame().reformat(format="rgb24")) == []
