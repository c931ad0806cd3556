"""PSNR, SSIM and intervals, whose values can be computed by hand."""

import numpy as np
import pytest

from bench.metrics.people import bootstrap_interval
from bench.metrics.pictures import psnr, ssim
from tests.bench.metrics.samples import WORSE, grey, noise, photograph


def test_psnr_of_a_known_difference():
    assert psnr(grey(100), grey(110)) == pytest.approx(20 * np.log10(255 / 10))


def test_ssim_of_equal_pictures_is_one():
    assert ssim(noise(0), noise(0)) == pytest.approx(1.0)


def test_ssim_of_two_levels_is_that_of_their_luminance():
    """Flat pictures have neither contrast nor structure: (2ab + c) / (a² + b² + c)."""
    c = (0.01 * 255) ** 2
    expected = (2 * 100 * 110 + c) / (100**2 + 110**2 + c)
    assert ssim(grey(100), grey(110)) == pytest.approx(expected)


@pytest.mark.parametrize("kind", WORSE)
@pytest.mark.parametrize("metric", [psnr, ssim])
def test_a_worse_picture_has_less(metric, kind):
    original = photograph(256)
    values = [metric(original, worsen(original)) for worsen in WORSE[kind]]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 3


def test_the_interval_of_constant_values_is_the_value():
    assert bootstrap_interval([3.5] * 4) == (3.5, 3.5)
    assert bootstrap_interval([2.0]) == (2.0, 2.0)


def test_the_interval_of_two_values_reaches_from_one_to_the_other():
    # The mean of two draws is 0, 1/2 or 1 with probabilities of 1/4, 1/2 and 1/4.
    assert bootstrap_interval([0.0, 1.0]) == (0.0, 1.0)
    assert bootstrap_interval([0.0, 1.0, 5.0]) == bootstrap_interval([0.0, 1.0, 5.0])


def test_the_interval_has_95_percent_of_the_draws():
    """The number of ones in a draw is binomial: of 100 throws of a coin 95 % have 40 to 60."""
    assert bootstrap_interval([0.0] * 50 + [1.0] * 50) == pytest.approx((0.40, 0.60))
