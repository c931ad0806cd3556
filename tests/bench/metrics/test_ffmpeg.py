"""The VMAF family and XPSNR, of files and of pictures."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from bench.metrics.ffmpeg import (
    vmaf_family,
    vmaf_family_of_files,
    vmaf_neg,
    write_raw,
    xpsnr,
    xpsnr_of_files,
)
from receiver.errors import InputError
from tests.bench.metrics.samples import blurred, noisy, photograph

SIDE, COUNT = 192, 7


def moving() -> list[np.ndarray]:
    whole = photograph()
    return [
        np.ascontiguousarray(whole[: SIDE - 16, 100 + 3 * i : 100 + 3 * i + SIDE])
        for i in range(COUNT)
    ]


SIZE = SIDE, SIDE - 16
"""Width and height: the smallest height that MS-SSIM can judge."""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path, Path]:
    """Returns an original, and a blurred and a more blurred one, whose third frame is equal."""
    folder = tmp_path_factory.mktemp("raw")
    for name, deviation in (("original", 0.0), ("blurred", 0.7), ("worse", 2.0)):
        pictures = [blurred(one, deviation) if deviation else one for one in moving()]
        pictures[2] = moving()[2]
        write_raw(folder / name, pictures)
    return folder / "original", folder / "blurred", folder / "worse"


def test_equal_files_have_the_best_values(files):
    family = vmaf_family_of_files(files[0], files[0], *SIZE)
    assert set(family) == {"vmaf", "vmaf_neg", "ms_ssim", "psnr_luma"}
    assert family["ms_ssim"] == pytest.approx([1.0] * COUNT)
    assert family["psnr_luma"] == pytest.approx([60.0] * COUNT)
    assert min(family["vmaf"]) > 95
    assert family["vmaf_neg"] == pytest.approx(family["vmaf"], abs=0.01)
    assert xpsnr_of_files(files[0], files[0], *SIZE, rate=30) == [60.0] * COUNT


def test_each_frame_has_its_own_value_and_worse_frames_have_worse_ones(files):
    better, worse = (vmaf_family_of_files(files[0], file, *SIZE) for file in files[1:])
    for name in better:
        assert len(better[name]) == COUNT
        for number, (more, less) in enumerate(zip(better[name], worse[name], strict=True)):
            assert more == less if number == 2 else more > less
    better, worse = (xpsnr_of_files(files[0], file, *SIZE, rate=30) for file in files[1:])
    assert [more > less for more, less in zip(better, worse, strict=True)] == [
        number != 2 for number in range(COUNT)
    ]
    assert better[2] == 60.0


def test_the_psnr_is_that_of_the_luma(files):
    original, other = (
        np.fromfile(file, np.uint8).reshape(COUNT, -1)[:, : SIZE[0] * SIZE[1]].astype(float)
        for file in files[:2]
    )
    errors = np.square(original - other).mean(axis=1)
    expected = [10 * np.log10(255**2 / error) if error else 60.0 for error in errors]
    found = vmaf_family_of_files(*files[:2], *SIZE)["psnr_luma"]
    assert found == pytest.approx(expected, abs=1e-4)


def test_the_step_leaves_frames_out_and_threads_change_nothing(files):
    whole = vmaf_family_of_files(*files[:2], *SIZE, threads=2)
    assert vmaf_family_of_files(*files[:2], *SIZE) == whole
    some = vmaf_family_of_files(*files[:2], *SIZE, every=3)
    assert some == {name: values[::3] for name, values in whole.items()}


def test_vmaf_neg_does_not_reward_sharpening():
    originals = moving()
    sharper = [
        np.clip(2.0 * one - 1.0 * blurred(one, 2), 0, 255).astype(np.uint8) for one in originals
    ]
    family = vmaf_family(originals, sharper)
    assert np.mean(family["vmaf_neg"]) < np.mean(family["vmaf"]) - 3


def test_pictures_have_the_values_of_their_files(files):
    pictures = [blurred(one, 0.7) for one in moving()]
    pictures[2] = moving()[2]
    family = vmaf_family(moving(), pictures)
    assert family == vmaf_family_of_files(*files[:2], *SIZE)
    assert vmaf_neg(moving(), pictures) == family["vmaf_neg"]
    assert xpsnr(moving(), pictures, 30) == xpsnr_of_files(*files[:2], *SIZE, rate=30)


def test_xpsnr_counts_an_error_less_where_the_original_has_structure():
    flat = [np.full((192, 192, 3), 120, np.uint8)] * 3
    rough = [noisy(one, 12) for one in flat]
    smooth_original, rough_original = xpsnr(flat, rough, 30), xpsnr(rough, flat, 30)
    # The same error; without motion the first frame says little.
    assert min(rough_original[1:]) > max(smooth_original[1:]) + 10


def test_the_frame_rate_weighs_motion(files):
    slow, fast = (xpsnr_of_files(*files[:2], *SIZE, rate=rate) for rate in (30, 60))
    assert slow[0] == fast[0]  # the first frame has no motion yet
    assert slow[-1] != fast[-1]
    assert xpsnr_of_files(*files[:2], *SIZE, rate=Fraction(30000, 1001)) == slow
    assert xpsnr_of_files(*files[:2], *SIZE, rate=29.97) == slow


@pytest.mark.parametrize(
    "measure",
    [
        lambda *arguments: vmaf_family_of_files(*arguments),
        lambda *arguments: xpsnr_of_files(*arguments, rate=30),
    ],
    ids=["vmaf", "xpsnr"],
)
def test_invalid_files_are_one_sentence(measure, files, tmp_path):
    original, other, _ = files
    short = tmp_path / "short"
    short.write_bytes(other.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"must hold the same number of 192x176 frames"):
        measure(original, short, *SIZE)
    with pytest.raises(InputError, match=r"must hold the same number of 190x176 frames"):
        measure(original, other, 190, 176)
    with pytest.raises(InputError, match="nowhere is not a file"):
        measure(original, tmp_path / "nowhere", *SIZE)
    with pytest.raises(InputError, match="needs an even width and height, not 191x176"):
        measure(original, other, 191, 176)
    empty = tmp_path / "empty"
    empty.touch()
    with pytest.raises(InputError, match="they have 0 and 0 bytes"):
        measure(empty, empty, *SIZE)


def test_ms_ssim_needs_some_pixels():
    small = [photograph(128)]
    with pytest.raises(InputError, match="MS-SSIM needs at least 176x176 pixels, not 128x128"):
        vmaf_family(small, small)
