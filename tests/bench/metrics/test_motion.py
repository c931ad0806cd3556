"""Flicker, warping error and jitter of sequences that move in known ways."""

import numpy as np
import pytest

from bench.metrics.motion import (
    _visible,
    flicker,
    landmark_jitter,
    steadiness_of,
    warping_error,
)
from tests.bench.metrics.samples import blurred, grey, noise, photograph


def test_the_flicker_of_the_original_is_one():
    moving = [np.roll(noise(0), shift, axis=1) for shift in range(4)]
    changing = [noise(i) for i in range(4)]
    assert flicker(moving, moving) == 1.0
    assert flicker(changing, changing) == 1.0
    assert flicker([grey(90)] * 3, [grey(120)] * 3) == 1.0  # nothing changes in either


def test_the_flicker_of_equal_pictures_is_zero():
    assert flicker([noise(i) for i in range(4)], [grey(100)] * 4) == 0.0


def test_the_flicker_of_twice_the_change_is_two():
    levels = (100, 104, 98, 101)
    originals = [grey(level) for level in levels]
    assert flicker(originals, [grey(2 * (level - 60)) for level in levels]) == pytest.approx(2.0)


def test_changing_noise_flickers():
    still = noise(0)
    originals = [still // 2 + noise(i, 0, 4) for i in range(1, 5)]
    noisy = [one + noise(9 + i, 0, 40) for i, one in enumerate(originals)]
    assert flicker(originals, noisy) > 3.0


def test_flicker_ignores_cuts():
    originals = [grey(50), grey(52), grey(200), grey(202)]
    pictures = [grey(50), grey(52), grey(90), grey(92)]
    assert flicker(originals, pictures, cuts={2}) == 1.0
    assert flicker(originals, pictures) == pytest.approx((2 + 38 + 2) / (2 + 148 + 2))


def test_jitter_is_movement_against_the_original():
    steps = np.random.default_rng(0).normal(0, 5, (4, 68, 2))
    assert landmark_jitter(steps, steps) == 0.0
    assert landmark_jitter(steps, steps + np.array([7.0, -2.0])) == pytest.approx(0.0, abs=1e-12)
    shaken = steps + np.array([(0, 0), (3, 4), (0, 0), (3, 4)])[:, None]
    assert landmark_jitter(steps, shaken) == pytest.approx(5.0)
    assert landmark_jitter(steps, shaken, cuts={1, 2, 3}) == 0.0


def moving(step: int, count: int = 3) -> list[np.ndarray]:
    """Returns views of a photograph, each `step` pixels further right."""
    whole = photograph()
    lefts = [100 + step * number for number in range(count)]
    return [np.ascontiguousarray(whole[:256, left : left + 256]) for left in lefts]


@pytest.mark.parametrize("step", [0, 2, 8])
def test_a_shifted_picture_has_no_warping_error(step):
    assert warping_error(moving(step), moving(step)) == pytest.approx(0.0, abs=1e-5)


def test_the_warping_error_is_the_squared_difference_of_rgb_from_0_to_1():
    still = [photograph(256)] * 4
    levels = [grey(level, 256) for level in (100, 110, 110, 90)]
    squares = [(10 / 255) ** 2, 0.0, (20 / 255) ** 2]
    assert warping_error(still, levels) == pytest.approx(np.mean(squares))
    assert warping_error(still, levels, cuts={3}) == pytest.approx(np.mean(squares[:2]))
    reds = [level * np.array([1, 0, 0], np.uint8) for level in levels]
    assert warping_error(still, reds) == pytest.approx(np.mean(squares) / 3)


def test_the_warping_error_moves_pictures_as_the_original_moves():
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 256, axis=0).repeat(3, axis=2)
    along = [np.roll(ramp, -4 * number, axis=1) for number in range(3)]
    # The ramp follows the motion, or stays while the original moves by four levels.
    assert warping_error(moving(4), along) < 1e-4
    assert warping_error(moving(4), [ramp] * 3) == pytest.approx((4 / 255) ** 2, rel=0.05)


def test_what_comes_into_view_does_not_count():
    """A square moves over a still ground; what changes where it was before is not an error."""
    ground, square = photograph()[:256, 100:356], noise(0, 0, 256)[:48, :48]
    square = blurred(square.repeat(2, axis=0).repeat(2, axis=1)[:64, :64], 1)
    originals = []
    for left in (80, 92):
        picture = blurred(ground, 2)
        picture[96:160, left : left + 64] = square
        originals.append(picture)
    shown = np.zeros((256, 256), bool)
    shown[98:158, 82:90] = True  # the ground that the square covered, but for its border
    pictures = [np.zeros((256, 256, 3), np.uint8) for _ in originals]
    pictures[1][shown] = 255
    counted = shown.sum() / 256**2  # its error if each pixel counted
    assert warping_error(originals, pictures) < 0.3 * counted


def test_a_sequence_of_one_picture_has_no_warping_error():
    assert warping_error([grey(50)], [grey(90)]) == 0.0


def test_several_sequences_have_the_values_that_each_has_alone():
    originals = moving(2)
    sequences = {"one": [blurred(p, 2) for p in originals], "two": [p // 2 for p in originals]}
    found = steadiness_of(originals, sequences, cuts={1})
    assert set(found) == set(sequences)
    for name, pictures in sequences.items():
        assert found[name].flicker == flicker(originals, pictures, {1})
        assert found[name].warping_error == warping_error(originals, pictures, {1})
    assert found["one"] != found["two"]


def test_visible_pixels_are_neither_covered_nor_at_an_edge_of_motion():
    """From column 16 on all moves three pixels to the left; it covers columns 13 to 15."""
    back, forth = np.zeros((8, 32, 2), np.float32), np.zeros((8, 32, 2), np.float32)
    back[:, 16:, 0], forth[:, 13:, 0] = -3.0, 3.0
    assert np.flatnonzero(~_visible(back, forth)[4]).tolist() == [13, 14, 15, 16]
    assert np.flatnonzero(~_visible(-back, -forth)[4, 20:]).tolist()[-3:] == [9, 10, 11]  # outside
