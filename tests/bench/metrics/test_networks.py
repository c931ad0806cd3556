"""LPIPS by weights made up here, and ST-LPIPS by those of the installed package."""

import numpy as np
import pytest
import torch

from bench.command_line import MissingPackageError
from bench.metrics.lpips import LAYERS, LPIPS, NAMES
from bench.metrics.stlpips import STLPIPS
from receiver.errors import InputError
from tests.bench.metrics.samples import WORSE, blurred, compressed, grey, noisy, photograph


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


@pytest.mark.parametrize(
    ("network", "values"),
    [
        ("alex", (0.1627060, 0.6301268, 0.0323101, 0.3111518)),
        ("vgg", (0.2612510, 0.6038196, 0.1538573, 0.3926762)),
    ],
)
def test_stlpips_is_that_of_its_authors(network, values):
    """The expected values are those of the package's own code."""
    original = photograph(256)
    others = [
        blurred(original, 1),
        blurred(original, 4),
        compressed(original, 20),
        noisy(original, 15),
    ]
    assert STLPIPS(network).distances(original, others) == pytest.approx(values, rel=1e-3)


@pytest.fixture(scope="module")
def stlpips():
    return STLPIPS()


def test_stlpips_of_equal_pictures_is_zero(stlpips):
    assert stlpips.between(photograph(128), photograph(128)) == 0.0


@pytest.mark.parametrize("kind", WORSE)
def test_stlpips_of_a_worse_picture_is_more(stlpips, kind):
    original = photograph(128)
    values = stlpips.distances(original, [worsen(original) for worsen in WORSE[kind]])
    assert values == sorted(values)
    assert values[0] > 0.0


def test_stlpips_hardly_counts_a_shift(stlpips):
    whole = photograph(256)
    shifted = stlpips.between(whole[:, :-1], whole[:, 1:])
    assert 0.0 < shifted < 0.1 * stlpips.between(whole, blurred(whole, 1))


def test_stlpips_takes_pictures_of_any_shape(stlpips):
    wide = photograph(128)[:96]
    assert stlpips.between(wide, wide) == 0.0
    turned = np.ascontiguousarray(wide.transpose(1, 0, 2))
    assert stlpips.between(turned, blurred(turned, 2)) > 0.1


def test_stlpips_names_the_missing_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "stlpips_pytorch", None)
    with pytest.raises(MissingPackageError, match=r"needs stlpips-pytorch: pip install"):
        STLPIPS()
