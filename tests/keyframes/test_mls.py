"""Compares the warp with affine moving least squares computed point by point."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from keyframes import mls_map, warp

OFFSETS = arrays(np.float64, (12, 2), elements=st.floats(-8, 8, width=32))
PLACES = np.array([(40 + 60 * i, 50 + 45 * j) for i in range(4) for j in range(3)], np.float64)


def slow_affine_mls(source: np.ndarray, target: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Maps `point` of the target to the source by the textbook's formula."""
    weights = [1.0 / float(np.sum((p - point) ** 2)) for p in target]
    total = sum(weights)
    p_star = sum(w * p for w, p in zip(weights, target, strict=True)) / total
    q_star = sum(w * q for w, q in zip(weights, source, strict=True)) / total
    spread, moved = np.zeros((2, 2)), np.zeros((2, 2))
    for w, p, q in zip(weights, target, source, strict=True):
        spread += w * np.outer(p - p_star, p - p_star)
        moved += w * np.outer(p - p_star, q - q_star)
    return (point - p_star) @ np.linalg.inv(spread) @ moved + q_star


@given(source=OFFSETS, target=OFFSETS)
def test_the_map_is_affine_mls(source, target):
    source, target = PLACES + source, PLACES + target
    points = np.array([(3.3, 7.1), (128.2, 99.9), (250.5, 250.5), (131.7, 20.3)])
    expected = [slow_affine_mls(source, target, point) for point in points]
    np.testing.assert_allclose(mls_map(source, target, points), expected, atol=1e-4)


@given(source=OFFSETS, target=OFFSETS)
def test_landmarks_map_to_landmarks(source, target):
    source, target = PLACES + source, PLACES + target
    np.testing.assert_allclose(mls_map(source, target, target), source, atol=1e-2)


@given(
    matrix=arrays(np.float64, (2, 2), elements=st.floats(-0.2, 0.2)),
    shift=arrays(np.float64, 2, elements=st.floats(-20, 20)),
)
def test_an_affine_map_is_reproduced_everywhere(matrix, shift):
    matrix = np.eye(2) + matrix
    points = np.random.default_rng(0).uniform(0, 256, (50, 2))
    expected = points @ matrix + shift
    np.testing.assert_allclose(
        mls_map(PLACES @ matrix + shift, PLACES, points), expected, atol=1e-6
    )


def test_landmarks_on_one_line_only_shift_the_picture():
    line = np.column_stack([np.arange(10.0), np.arange(10.0)])
    points, move = np.array([(30.0, 2.0), (-5.0, 9.0)]), np.array([4.0, 1.0])
    np.testing.assert_allclose(mls_map(line + move, line, points), points + move, atol=1e-6)


def picture() -> np.ndarray:
    y, x = np.mgrid[0:256, 0:256]
    return np.stack([x, y, (x + y) // 2], axis=-1).astype(np.uint8)


def test_equal_landmarks_leave_every_pixel_unchanged():
    places = PLACES.astype(np.float32)
    np.testing.assert_array_equal(warp(picture(), places, places), picture())


@settings(max_examples=25)
@given(target=OFFSETS)
def test_the_interpolated_grid_is_close_to_the_exact_map(target):
    """The levels of the picture are its coordinates, so an error of one level is one pixel."""
    source, target = PLACES.astype(np.float32), (PLACES + target / 2).astype(np.float32)
    warped = warp(picture(), source, target).astype(float)
    ys, xs = np.mgrid[24:232:13, 24:232:13]
    points = np.column_stack([xs.ravel(), ys.ravel()]).astype(np.float64)
    exact = np.clip(mls_map(source, target, points), 0, 255)
    errors = np.abs(warped[ys.ravel(), xs.ravel(), :2] - exact)
    assert np.median(errors) < 0.6
    assert errors.max() < 8.0  # next to a landmark, where the map has cusps


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_an_affine_warp_samples_the_exact_map(kind):
    """The grid is exact for an affine map, so only OpenCV's own sampling differs."""
    image = np.random.default_rng(4).uniform(0, 255, (64, 96, 3)).astype(kind)
    source = (PLACES @ [[0.97, 0.1], [-0.08, 1.04]] + (-7, 5)).astype(np.float32)
    target = PLACES.astype(np.float32)
    y, x = np.mgrid[0:64, 0:96]
    exact = mls_map(source, target, np.column_stack([x.ravel(), y.ravel()]).astype(np.float64))
    maps = exact.T.reshape(2, 64, 96).astype(np.float32)
    expected = cv2.remap(image, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    np.testing.assert_allclose(
        warp(image, source, target).astype(float), expected, atol=1 if kind == np.uint8 else 0.1
    )


def test_shape_and_type_are_kept():
    places = PLACES.astype(np.float32)
    for kind in (np.uint8, np.float32):
        image = np.zeros((96, 160, 3), kind)
        result = warp(image, places, places + 1)
        assert result.shape == image.shape
        assert result.dtype == kind


@pytest.mark.parametrize("seed", range(3))
def test_the_grid_is_fine_enough_for_errors_below_half_a_pixel(seed):
    """19 of 20 places are within 0.5 px; cells of 32 pixels would miss by more than one pixel."""
    source = PLACES.astype(np.float32)
    target = source + np.random.default_rng(seed).uniform(-6, 6, source.shape).astype(np.float32)
    ys, xs = np.mgrid[24:232, 24:232]
    points = np.column_stack([xs.ravel(), ys.ravel()]).astype(np.float64)
    exact = np.clip(mls_map(source, target, points), 0, 255)
    warped = warp(picture().astype(np.float32), source, target)
    errors = np.abs(warped[ys.ravel(), xs.ravel(), :2] - exact)
    assert np.percentile(errors, 95) < 0.5


@pytest.mark.parametrize("size", [(48, 80), (16, 16), (256, 112)])
def test_sides_are_multiples_of_sixteen_pixels(size):
    places = (PLACES * min(size) / 256).astype(np.float32)
    part = picture()[: size[0], : size[1]].copy()
    np.testing.assert_array_equal(warp(part, places, places), part)
