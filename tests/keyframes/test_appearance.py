"""Tests what descriptors and thumbnails of a face depend on, and what not."""

import cv2
import numpy as np
import pytest

from keyframes import appearance_descriptor, resemblance

RNG = np.random.default_rng(2)


def structure() -> np.ndarray:
    """Returns a thumbnail with smooth structure, 32x32."""
    noise = RNG.normal(0, 100, (32, 32)).astype(np.float32)
    return cv2.GaussianBlur(noise, (0, 0), 1.0) + 128


@pytest.mark.parametrize("scale", [255.0, 1.0, 1e-3])
def test_a_descriptor_has_length_one_in_any_range(scale):
    crop = scale * RNG.random((3, 256, 256)).astype(np.float32)
    descriptor = appearance_descriptor(crop)
    assert descriptor.shape == (192,)
    assert np.linalg.norm(descriptor) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (2, 5), (7, 1)])
def test_a_descriptor_holds_eight_by_eight_cells(row, column):
    crop = np.zeros((3, 256, 256), np.float32)
    crop[1, 32 * row : 32 * (row + 1), 32 * column : 32 * (column + 1)] = 200
    cells = appearance_descriptor(crop).reshape(3, 8, 8)
    assert np.unravel_index(cells.argmax(), cells.shape) == (1, row, column)
    assert np.count_nonzero(cells > 0.1) == 1
    assert not cells[[0, 2]].any()


def test_a_descriptor_does_not_depend_on_the_brightness_of_a_channel():
    crop = RNG.random((3, 256, 256)).astype(np.float32)
    brighter = crop + np.float32([[[0.5]], [[0.0]], [[-0.3]]])
    np.testing.assert_allclose(
        appearance_descriptor(brighter), appearance_descriptor(crop), atol=1e-4
    )


@pytest.mark.parametrize("axis", [0, 1])
def test_resemblance_ignores_light_from_above_and_from_the_side(axis):
    own = structure()
    light = np.moveaxis(np.broadcast_to(np.linspace(0, 400, 32), (32, 32)), 1, axis)
    assert resemblance(own, own + light.astype(np.float32)) > 0.99


def test_resemblance_looks_at_the_face_alone():
    own = structure()
    around = own.copy()
    around[0], around[:, :2], around[:, 31] = 5000, -5000, 5000
    assert resemblance(own, around) > 0.9
    within = own.copy()
    within[16:21, 14:19] = 128 - (own[16:21, 14:19] - 128) * 3
    assert resemblance(own, within) < 0.8


@pytest.mark.parametrize("axis", [0, 1])
def test_stripes_in_either_direction_are_structure(axis):
    stripes = np.float32(128 + 50 * np.sign(np.sin(np.arange(32))))
    own = np.moveaxis(np.broadcast_to(stripes, (32, 32)), 1, axis).copy()
    assert resemblance(own, own) == pytest.approx(1.0, abs=1e-3)
