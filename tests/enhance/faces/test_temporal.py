"""Tests that the temporal filter removes shimmer, keeps motion sharp, leaves no ghost of a cut."""

import numpy as np
import pytest

from receiver.enhance.faces.alignment import CROP
from receiver.enhance.faces.temporal import TemporalFilter


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def smooth_picture(rng, shift=0):
    """Returns 3x256x256 in [0, 1] with structure at several scales, shifted to the right."""
    wide = np.zeros((CROP, CROP + 32), np.float32)
    for cells in (4, 16, 48):
        coarse = rng.random((cells, cells)).astype(np.float32)
        rows = np.linspace(0, cells - 1.001, CROP)
        columns = np.linspace(0, cells - 1.001, CROP + 32)
        wide += coarse[rows.astype(int)][:, columns.astype(int)] / 3
    return np.stack([wide[:, 16 - shift : 16 - shift + CROP]] * 3).copy()


def filtered(temporal_filter, restored, degraded, qp):
    temporal_filter.see(degraded, qp)
    return temporal_filter.apply(restored)


def noisy(rng, picture):
    noise = rng.normal(0.0, 0.03, picture.shape).astype(np.float32)
    return np.clip(picture + noise, 0.0, 1.0)


def test_the_first_crop_stays_unchanged(rng):
    picture = smooth_picture(rng)
    before = picture.copy()
    assert np.array_equal(filtered(TemporalFilter(), picture, before.copy(), None), before)


def test_apply_without_see_is_an_error(rng):
    with pytest.raises(ValueError, match="before apply"):
        TemporalFilter().apply(smooth_picture(rng))


def test_shimmer_of_a_still_picture_is_removed(rng):
    picture, temporal_filter = smooth_picture(rng), TemporalFilter()
    outputs, inputs = [], []
    for _ in range(12):
        inputs.append(noisy(rng, picture))
        outputs.append(filtered(temporal_filter, inputs[-1].copy(), picture.copy(), 40.0).copy())
    steps = [np.abs(np.diff(np.stack(them), axis=0))[4:].mean() for them in (inputs, outputs)]
    assert steps[1] < 0.4 * steps[0]
    errors = [np.abs(them[-1] - picture).mean() for them in (inputs, outputs)]
    assert errors[1] < 0.6 * errors[0]


def test_a_moving_picture_stays_sharp():
    temporal_filter = TemporalFilter()
    for shift in range(0, 12, 2):
        picture = smooth_picture(np.random.default_rng(1), shift)
        output = filtered(temporal_filter, picture.copy(), picture.copy(), 40.0)
        inner = np.abs(output - picture)[:, 24:-24, 24:-24]
        assert inner.mean() < 0.01


def test_another_picture_leaves_no_ghost(rng):
    temporal_filter = TemporalFilter()
    filtered(temporal_filter, smooth_picture(rng), smooth_picture(rng), None)
    other = 1.0 - smooth_picture(np.random.default_rng(7))
    assert np.abs(filtered(temporal_filter, other.copy(), other.copy(), 40.0) - other).mean() < 0.01


def test_a_change_of_the_received_crop_passes_through(rng):
    """The received crop decides, not the restored one: a blink is not shimmer."""
    temporal_filter, picture = TemporalFilter(), smooth_picture(rng)
    filtered(temporal_filter, picture.copy(), picture.copy(), 40.0)
    blink = picture.copy()
    blink[:, 100:140, 100:140] = 1.0 - blink[:, 100:140, 100:140]
    output = filtered(temporal_filter, blink.copy(), blink.copy(), 40.0)
    changed = np.abs(blink - picture)[:, 106:134, 106:134] > 0.2
    assert np.abs(output - blink)[:, 106:134, 106:134][changed].mean() < 0.02


def test_a_high_quality_input_is_filtered_little(rng):
    """If little was lost, changes are real, or the grain of the camera."""
    picture = smooth_picture(rng)
    kept = {}
    for qp in (20.0, 44.0):
        temporal_filter, grain = TemporalFilter(), np.random.default_rng(3)
        for _ in range(6):
            shown = noisy(grain, picture)
            output = filtered(temporal_filter, shown.copy(), shown.copy(), qp)
        kept[qp] = np.abs(output - shown).mean()
    assert kept[20.0] < 0.3 * kept[44.0]


def test_shimmer_of_a_moving_picture_is_removed():
    """The previous frame is moved to where the face is now."""
    temporal_filter, grain, errors = TemporalFilter(), np.random.default_rng(5), []
    for shift in range(0, 15, 3):
        picture = smooth_picture(np.random.default_rng(1), shift)
        shimmering = noisy(grain, picture)
        output = filtered(temporal_filter, shimmering.copy(), picture.copy(), 43.0)
        errors.append(
            [np.abs(one - picture)[:, 32:-32, 32:-32].mean() for one in (shimmering, output)]
        )
    (before, after) = np.mean(errors[2:], axis=0)
    assert after < 0.8 * before
