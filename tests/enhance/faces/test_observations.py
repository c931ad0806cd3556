"""Tests the measures of a face crop."""

import cv2
import numpy as np
import pytest

from receiver.enhance.faces.alignment import extract_crop
from receiver.enhance.faces.observations import detail, scale_and_roll, sharpness
from receiver.enhance.faces.tracking import FaceTracker
from receiver.media.planes import planes


@pytest.fixture
def face(portrait):
    return FaceTracker().track(planes(portrait[0])[0])[0]


def test_scale_and_roll_of_a_map():
    turn = np.radians(20)
    affine = 2.5 * np.array([[np.cos(turn), -np.sin(turn), 7], [np.sin(turn), np.cos(turn), 9]])
    assert scale_and_roll(affine) == pytest.approx((2.5, 20.0))


def test_a_blur_reduces_sharpness(portrait, face):
    crop = extract_crop(portrait[0], face.crop_from_frame)
    blurred = np.stack([cv2.GaussianBlur(plane, (0, 0), 2.0) for plane in crop])
    assert sharpness(blurred) < 0.5 * sharpness(crop)


def test_noise_does_not_count_as_detail(portrait, face):
    crop = extract_crop(portrait[0], face.crop_from_frame)
    noise = np.random.default_rng(0).normal(0.0, 0.015, crop.shape).astype(np.float32)
    assert sharpness(crop + noise) > 1.5 * sharpness(crop)
    assert detail(crop + noise) < 1.1 * detail(crop)
    blurred = np.stack([cv2.GaussianBlur(plane, (0, 0), 2.0) for plane in crop])
    assert detail(blurred) < 0.7 * detail(crop)
