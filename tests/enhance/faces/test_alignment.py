"""Tests cutting crops out of a frame and pasting them back."""

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.enhance.faces.alignment import (
    CROP,
    FEATHER,
    crop_from_frame,
    crop_of,
    draw_landmarks,
    extract_crop,
    feather_mask,
    paste_residual,
    picture_of,
    shifted,
    transform,
)
from receiver.media.planes import copy_frame, cut_frame, planes
from tests.conftest import plain_frame, same_pixels


def face_landmarks(x: float, y: float, eye_distance: float, angle: float = 0.0) -> np.ndarray:
    """Returns 68 landmarks whose eyes are centred at (x, y); the others are at (x, y) itself."""
    landmarks = np.full((68, 2), (x, y), np.float32)
    half = eye_distance / 2 * np.array([np.cos(angle), np.sin(angle)])
    landmarks[36:42] -= half
    landmarks[42:48] += half
    return landmarks


def noise_frame(width: int, height: int, pixel_format: str = "yuv420p") -> av.VideoFrame:
    frame = av.VideoFrame(width, height, pixel_format)
    rng = np.random.default_rng(3)
    for plane in planes(frame):
        plane[:] = rng.integers(40, 200, plane.shape)
    return frame


@given(
    x=st.floats(-50, 700),
    y=st.floats(-50, 500),
    eyes=st.floats(2, 400),
    angle=st.floats(-3, 3),
)
def test_the_eyes_are_aligned_as_in_the_paper(x, y, eyes, angle):
    landmarks = face_landmarks(x, y, eyes, angle)
    moved = transform(landmarks, crop_from_frame(landmarks))
    np.testing.assert_allclose(moved[36:42], [(0.38 * CROP, 0.45 * CROP)] * 6, atol=0.05)
    np.testing.assert_allclose(moved[42:48], [(0.62 * CROP, 0.45 * CROP)] * 6, atol=0.05)


@pytest.mark.parametrize("eyes", [40.0, 61.44, 150.0, 400.0])
def test_pasting_an_unchanged_crop_keeps_the_frame(portrait, eyes):
    """As a generator without effect would do, for faces smaller and larger than the crop."""
    frame = portrait[0]
    pasted = copy_frame(frame)
    affine = crop_from_frame(face_landmarks(310, 215, eyes, 0.1))
    crop = extract_crop(frame, affine)
    same = crop_of(picture_of(crop))  # rounded to 8 bits, as in any picture
    paste_residual(pasted, same - crop, affine)
    for one, other in zip(planes(pasted), planes(frame), strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1


def reached(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns which luma pixels lie under the crop."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    u, v = affine[:, :2] @ np.stack([x.ravel(), y.ravel()]) + affine[:, 2:]
    inside = (u > -1) & (u < CROP) & (v > -1) & (v < CROP)
    return inside.reshape(shape)


@settings(max_examples=30)
@given(
    x=st.floats(-60, 380),
    y=st.floats(-60, 300),
    eyes=st.floats(3, 120),
    angle=st.floats(-3, 3),
    width=st.integers(16, 161).map(lambda n: 2 * n),
    height=st.integers(16, 121).map(lambda n: 2 * n),
)
def test_outside_the_crop_nothing_changes(x, y, eyes, angle, width, height):
    frame = noise_frame(width, height)
    pasted = copy_frame(frame)
    affine = crop_from_frame(face_landmarks(x, y, eyes, angle))
    paste_residual(pasted, np.full((3, CROP, CROP), 0.5, np.float32), affine)
    before, after = planes(frame)[0], planes(pasted)[0]
    outside = ~reached(affine, before.shape)
    np.testing.assert_array_equal(after[outside], before[outside])


def test_a_change_is_pasted_where_it_was_made():
    frame = plain_frame(320, 240, 100)
    affine = crop_from_frame(face_landmarks(160, 110, 61.44))
    residual = np.zeros((3, CROP, CROP), np.float32)
    residual[:, 100:140, 100:140] = 20 / 219  # twenty levels of grey
    pasted = copy_frame(frame)
    paste_residual(pasted, residual, affine)
    gained = planes(pasted)[0].astype(int) - planes(frame)[0]
    back = np.linalg.inv(np.vstack([affine, (0, 0, 1)]))
    x, y = np.round((back @ (120, 120, 1))[:2]).astype(int)
    assert (gained[y - 10 : y + 10, x - 10 : x + 10] == 20).all()
    assert gained.sum() == pytest.approx(20 * 40 * 40, rel=0.02)
    np.testing.assert_array_equal(
        planes(pasted)[1], planes(frame)[1]
    )  # grey leaves chroma unchanged


@pytest.mark.parametrize(("colorspace", "name"), [(1, "BT.709"), (5, "BT.601")])
@pytest.mark.parametrize("color_range", [1, 2])
def test_colours_match_ffmpeg(portrait, colorspace, name, color_range):
    rgb = portrait[0].to_ndarray(format="rgb24")
    frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(
        format="yuv420p", dst_colorspace=colorspace, dst_color_range=color_range
    )
    frame.colorspace, frame.color_range = colorspace, color_range
    # The crop for these eyes is the frame at its own scale, shifted by whole pixels.
    landmarks = face_landmarks(128 + 190, 0.45 * CROP + 100, 0.24 * CROP)
    crop = picture_of(extract_crop(frame, crop_from_frame(landmarks)))
    expected = rgb[100 : 100 + CROP, 190 : 190 + CROP].astype(int)
    error = np.abs(crop.astype(int) - expected)
    assert error.mean() < 2.0, name


def luma_weights(colorspace: int) -> np.ndarray:
    """Returns the weights of R, G and B of ITU-T H.273 for BT.709 (1) and BT.601 (5)."""
    kr, kb = (0.2126, 0.0722) if colorspace == 1 else (0.299, 0.114)
    return np.array([kr, 1 - kr - kb, kb])


@pytest.mark.parametrize("colorspace", [1, 5])
@pytest.mark.parametrize(
    ("color_range", "steps", "black"), [(1, (219, 224), 16), (2, (255,) * 2, 0)]
)
def test_colours_follow_the_formula(colorspace, color_range, steps, black):
    """Y' = Kr R + Kg G + Kb B, Cb = (B - Y') / (2 - 2 Kb), Cr likewise (H.273, equations 38 on)."""
    frame = noise_frame(320, 300)
    frame.colorspace, frame.color_range = colorspace, color_range
    planes(frame)[1][:], planes(frame)[2][:] = 100, 150
    rgb = extract_crop(frame, np.array([[1.0, 0.0, -20.0], [0.0, 1.0, -30.0]]))
    kr, kg, kb = luma_weights(colorspace)
    luma = (planes(frame)[0][30 : 30 + CROP, 20 : 20 + CROP].astype(float) - black) / steps[0]
    blue = luma + (2 - 2 * kb) * (100 - 128) / steps[1]
    red = luma + (2 - 2 * kr) * (150 - 128) / steps[1]
    green = (luma - kr * red - kb * blue) / kg
    np.testing.assert_allclose(rgb, np.clip([red, green, blue], 0, 1), atol=1e-5)


@pytest.mark.parametrize("colorspace", [1, 5])
@pytest.mark.parametrize(("color_range", "steps"), [(1, (219, 224)), (2, (255, 255))])
def test_a_change_of_colour_follows_the_formula(colorspace, color_range, steps):
    frame = plain_frame(320, 300)
    frame.colorspace, frame.color_range = colorspace, color_range
    pasted = copy_frame(frame)
    change = np.array([0.15, -0.06, 0.1])
    residual = np.broadcast_to(change[:, None, None], (3, CROP, CROP)).astype(np.float32)
    paste_residual(pasted, residual, np.array([[1.0, 0.0, -20.0], [0.0, 1.0, -30.0]]))
    kr, _, kb = luma_weights(colorspace)
    luma = luma_weights(colorspace) @ change
    expected = (
        steps[0] * luma,
        steps[1] * (change[2] - luma) / (2 - 2 * kb),
        steps[1] * (change[0] - luma) / (2 - 2 * kr),
    )
    for before, after, gain in zip(planes(frame), planes(pasted), expected, strict=True):
        y, x = (side // 2 for side in before.shape)
        gained = (
            after[y - 20 : y + 20, x - 20 : x + 20].astype(int)
            - before[y - 20 : y + 20, x - 20 : x + 20]
        )
        assert (gained == round(gain)).all()


def test_a_picture_survives_the_conversion_to_a_crop_and_back():
    picture = np.random.default_rng(5).integers(0, 256, (CROP, CROP, 3)).astype(np.uint8)
    crop = crop_of(picture)
    assert crop.dtype == np.float32
    np.testing.assert_array_equal(crop, picture.transpose(2, 0, 1) * np.float32(1 / 255))
    np.testing.assert_array_equal(picture_of(crop), picture)


def test_a_copy_is_a_new_frame_with_the_same_pixels(portrait):
    frame = portrait[3]
    frame.pts = 12345
    copy = copy_frame(frame)
    assert same_pixels(copy, frame)
    assert (copy.pts, copy.time_base) == (frame.pts, frame.time_base)
    planes(copy)[0][:] = 0
    assert not same_pixels(copy, frame)


def test_rows_may_be_padded():
    """Decoders pad rows differently from frames made here."""
    padded = np.random.default_rng(1).integers(0, 256, (72, 128)).astype(np.uint8)
    frame = av.VideoFrame.from_numpy_buffer(padded, "yuv420p", width=90)
    copy = copy_frame(frame)
    assert copy.planes[0].line_size != frame.planes[0].line_size == 128
    assert np.array_equal(planes(copy)[0], padded[:48, :90])
    assert same_pixels(copy, frame)


def test_the_mask_is_one_inside_and_zero_at_the_border():
    mask = feather_mask()
    assert mask.shape == (CROP, CROP)
    assert (mask[24:-24, 24:-24] == 1).all()
    assert mask[0].max() < 0.01
    assert (np.diff(mask[128, :24]) > 0).all()


def test_landmarks_are_white_dots_on_black():
    landmarks = np.full((68, 2), -100, np.float32)
    landmarks[0] = (50.0, 70.0)
    image = draw_landmarks(landmarks)
    assert image.shape == (CROP, CROP)
    assert image.dtype == np.float32
    assert image[70, 50] == 1.0
    assert image[70, 60] == 0.0
    assert 4 < image.sum() < 40


def circles(landmarks: np.ndarray) -> np.ndarray:
    """Draws the landmark image as in the training of the generators, one circle after another."""
    image = np.zeros((CROP, CROP), np.uint8)
    for x, y in np.round(landmarks * 16).astype(int).tolist():
        cv2.circle(image, (x, y), 32, 255, cv2.FILLED, cv2.LINE_AA, shift=4)
    return image / 255


def test_a_dot_matches_opencvs_circle_at_every_sixteenth_of_a_pixel():
    for y, x in np.ndindex(16, 16):
        landmarks = np.full((68, 2), -100, np.float32)
        landmarks[30] = 60 + 9 * x + x / 16, 50 + y / 16
        np.testing.assert_allclose(draw_landmarks(landmarks), circles(landmarks), atol=1e-6)


def test_overlapping_dots_match_opencv():
    rng = np.random.default_rng(2)
    for _ in range(20):
        landmarks = rng.uniform(100, 140, (68, 2)).astype(np.float32)
        error = np.abs(draw_landmarks(landmarks) - circles(landmarks))
        assert error.max() < 4 / 255  # OpenCV rounds after each dot
        assert error.mean() < 0.1 / 255


@pytest.mark.parametrize("place", [(-1e6, 50), (300, 1e9), (-11.5, -11.5), (268, 268)])
def test_a_landmark_outside_the_crop_is_invisible(place):
    assert draw_landmarks(np.full((68, 2), place, np.float32)).max() == 0


def test_a_landmark_on_the_border_is_cropped():
    image = draw_landmarks(np.full((68, 2), (0, CROP - 1), np.float32))
    assert image[CROP - 1, 0] == 1
    assert image[CROP - 1, CROP // 2 :].max() == 0  # not wrapped into another row
    assert image[: CROP - 6].max() == 0


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuvj420p"])
def test_cut_frame_returns_that_part(pixel_format):
    rng = np.random.default_rng(0)
    frame = av.VideoFrame(64, 48, pixel_format)
    for plane in planes(frame):
        plane[:] = rng.integers(0, 256, plane.shape)
    frame.pts = 77
    part = cut_frame(frame, 10, 20, 16, 8)
    assert (part.width, part.height, part.pts, part.format.name) == (16, 8, 77, pixel_format)
    for number, (to, of) in enumerate(zip(planes(part), planes(frame), strict=True)):
        half = min(number, 1)
        expected = of[20 >> half : 28 >> half, 10 >> half : 26 >> half]
        assert np.array_equal(to, expected)


def test_a_part_beyond_the_frame_is_moved_into_it(portrait):
    part = cut_frame(portrait[0], 630, 470, 100, 100)
    assert np.array_equal(planes(part)[0], planes(portrait[0])[0][380:, 540:])
    assert cut_frame(portrait[0], 0, 0, 9999, 9999).width == 640


def test_a_crop_is_shifted_by_the_flow():
    crop = np.random.default_rng(0).random((3, 256, 256), np.float32)
    flow = np.zeros((2, 32, 32), np.float32)
    np.testing.assert_array_equal(shifted(crop, flow), crop)
    flow[0], flow[1] = 3.0, -2.0
    np.testing.assert_allclose(shifted(crop, flow)[:, 2:, :-3], crop[:, :-2, 3:], atol=1e-6)
    np.testing.assert_allclose(shifted(crop, flow)[:, 0, :-3], crop[:, 0, 3:], atol=1e-6)


def test_a_pasted_change_fades_out_towards_the_border():
    """Without that a square would be seen around the face."""
    frame = plain_frame(640, 480, 100)
    affine = crop_from_frame(face_landmarks(320, 220, 61.44))  # one crop pixel a frame pixel
    pasted = copy_frame(frame)
    paste_residual(pasted, np.full((3, CROP, CROP), 0.2, np.float32), affine)
    gained = planes(pasted)[0].astype(int) - planes(frame)[0]
    left, top = np.round(-affine[:, 2]).astype(int)
    row = gained[top + CROP // 2, left : left + CROP]
    column = gained[top : top + CROP, left + CROP // 2]
    for line in (row, row[::-1], column, column[::-1]):
        assert line[0] <= 1
        assert (np.diff(line[: FEATHER + 1]) >= 0).all()
        assert np.diff(line[: FEATHER + 1]).max() <= 5
        assert line[FEATHER] == 44  # 0.2 * 219
