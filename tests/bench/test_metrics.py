"""Metrics of pictures and numbers whose values can be computed by hand."""

import sys

import numpy as np
import pytest
import torch

from bench.metrics.brisque import brisque_problem
from bench.metrics.ffmpeg import vmaf_family, vmaf_neg
from bench.metrics.lpips import LAYERS, LPIPS, NAMES
from bench.metrics.motion import flicker, landmark_jitter
from bench.metrics.people import bootstrap_interval
from bench.metrics.pictures import psnr, ssim
from receiver.errors import InputError


def noise(seed: int, low: int = 60, high: int = 190) -> np.ndarray:
    """Returns 64x64 RGB noise that depends on its seed alone."""
    return np.random.default_rng(seed).integers(low, high, (64, 64, 3)).astype(np.uint8)


def grey(level: int) -> np.ndarray:
    return np.full((64, 64, 3), level, np.uint8)


def test_psnr_of_a_known_difference():
    assert psnr(grey(100), grey(110)) == pytest.approx(20 * np.log10(255 / 10))


def test_ssim_of_equal_pictures_is_one():
    assert ssim(noise(0), noise(0)) == pytest.approx(1.0)


def test_one_pass_gives_the_same_values_as_single_passes():
    originals = [np.kron(noise(i), np.ones((4, 4, 1), np.uint8)) for i in range(3)]
    pictures = [one // 2 + 60 for one in originals]
    family = vmaf_family(originals, pictures)
    assert family["vmaf_neg"] == vmaf_neg(originals, pictures)
    assert set(family) == {"vmaf", "vmaf_neg", "ms_ssim", "psnr_luma"}
    assert vmaf_family(originals, originals)["ms_ssim"] == pytest.approx([1.0] * 3)


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


def test_the_interval_of_constant_values_is_the_value():
    assert bootstrap_interval([3.5] * 4) == (3.5, 3.5)
    assert bootstrap_interval([2.0]) == (2.0, 2.0)


def test_the_interval_of_two_values_reaches_from_one_to_the_other():
    # The mean of two draws is 0, 1/2 or 1 with probabilities of 1/4, 1/2 and 1/4.
    assert bootstrap_interval([0.0, 1.0]) == (0.0, 1.0)
    assert bootstrap_interval([0.0, 1.0, 5.0]) == bootstrap_interval([0.0, 1.0, 5.0])


def light_or_dark() -> dict[str, torch.Tensor]:
    """Returns LPIPS weights whose first layer distinguishes light from dark pixels only."""
    state = {}
    for i, (number, (of, to, kernel, _, _)) in enumerate(zip(NAMES, LAYERS, strict=True)):
        state[f"features.{number}.weight"] = torch.zeros(to, of, kernel, kernel)
        state[f"features.{number}.bias"] = torch.zeros(to)
        state[f"lin{i}.model.1.weight"] = torch.full((1, to, 1, 1), 1.0 if i == 0 else 0.0)
    state["features.0.weight"][0, 0, 5, 5] = 1.0  # the middle pixel's red
    state["features.0.weight"][1, 0, 5, 5] = -1.0
    return state


def test_lpips_of_light_and_dark(tmp_path):
    """The features' unit vectors are orthogonal: squared differences of 1 and 1."""
    torch.save(light_or_dark(), tmp_path / "both.pth")
    lpips = LPIPS(tmp_path / "both.pth")
    assert lpips.between(grey(255), grey(0)) == pytest.approx(2.0)
    assert lpips.between(grey(255), grey(200)) == pytest.approx(0.0, abs=1e-12)
    half = grey(255)
    half[:, 32:] = 0
    middles = np.arange(15) * 4 + 3  # of the filters: 64 pixels, padded by 2, 11 wide, 4 apart
    assert lpips.between(grey(255), half) == pytest.approx(2.0 * np.mean(middles >= 32))


def test_lpips_reads_a_folder(tmp_path):
    state = light_or_dark()
    for name, start in (("alexnet.pth", "features"), ("alex.pth", "lin")):
        part = {key: value for key, value in state.items() if key.startswith(start)}
        torch.save(part, tmp_path / name)
    assert LPIPS(tmp_path).between(grey(255), grey(0)) == pytest.approx(2.0)


def test_lpips_names_what_is_missing(tmp_path):
    with pytest.raises(InputError, match=r"features\.0\.weight is missing; give torchvision's"):
        LPIPS(tmp_path)
    with pytest.raises(InputError, match=r"nowhere\.pth cannot be read as weights"):
        LPIPS(tmp_path / "nowhere.pth")


def test_brisque_says_why_it_is_not_measured(monkeypatch):
    monkeypatch.setitem(sys.modules, "piq", None)  # an import of it fails
    assert "piq cannot be imported" in brisque_problem()
