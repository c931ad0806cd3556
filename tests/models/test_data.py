"""Preparing shards, reading them and drawing samples."""

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from models.data.augmentation import paper
from models.data.samples import Crops, ReferenceMix
from models.data.shards import Shard, load_shards
from models.openh264 import OpenH264, through_any_codec
from tests.conftest import write_clip
from tests.models.conftest import write_shard


def test_a_shard_holds_the_documented_arrays(shards):
    folder = next(shards.glob("*/shard.json")).parent
    about = json.loads((folder / "shard.json").read_text())
    count = len(about["index"])
    assert np.load(folder / "degraded.npy").shape == (count, 256, 256, 3)
    assert np.load(folder / "landmarks.npy").shape == (count, 68, 2)
    degraded = np.load(folder / "degraded.npy").astype(float)
    target = np.load(folder / "target.npy").astype(float)
    # The same pictures before and after the codec: similar, but not equal.
    assert 0.5 < np.abs(degraded - target).mean() < 12
    assert all(20 < qp <= 51 for qp in about["qp"])


def test_samples_are_repeatable_and_state_whether_they_are_guided(shards):
    unguided = Crops(shards, 8, 128, ReferenceMix(0, 0, 0), seed=1)
    always = Crops(shards, 8, 128, ReferenceMix(1, 0, 0), seed=1)
    for index in range(8):
        sample = unguided[index]
        assert torch.equal(sample["degraded"], sample["reference"])
        assert sample["guided"] == 0
        guided = always[index]
        assert guided["guided"] == 1
        assert not torch.equal(guided["degraded"], guided["reference"])
        assert all(torch.equal(value, always[index][name]) for name, value in guided.items())
        assert guided["target"].shape == (3, 128, 128)
        assert guided["landmarks"].shape == (1, 128, 128)


def test_a_folder_without_shards_is_an_error_that_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python -m models\.prepare"):
        Crops(tmp_path, 1, 64, ReferenceMix(), 0)


def test_pairs_are_successive_pictures_with_the_same_cut_and_guidance(data):
    crops = Crops(data, 10, 64, ReferenceMix(1.0, 0.0, 0.0), 0, pairs=True)
    shards = [shard for those in crops.by_clip.values() for shard in those]
    originals = {
        (shard.clip, number, i): shard.picture("target", i)
        for number, shard in enumerate(shards)
        for i in range(len(shard))
    }
    for n in range(5):
        first, second = crops[2 * n], crops[2 * n + 1]
        assert first["guided"] == second["guided"]
        places = [origin(sample["target"], originals) for sample in (first, second)]
        assert places[0][:2] == places[1][:2]
        assert places[1][2] == min(places[0][2] + 1, 7)


def origin(cut: torch.Tensor, originals: dict) -> tuple[str, int, int]:
    """Returns the original that correlates best with a cut, 3x64x64, possibly mirrored.

    Originals consist of blocks of 16x16 pixels and cuts start at multiples of 16, so one pixel a
    block is enough.
    """
    found = cut.numpy().transpose(1, 2, 0)[8::16, 8::16]  # (4, 4, 3)
    candidates = standardised(np.stack([found.ravel(), found[:, ::-1].ravel()]))

    def correlation(picture: np.ndarray) -> float:
        windows = np.lib.stride_tricks.sliding_window_view(picture[8::16, 8::16], (4, 4, 3))
        return float((standardised(windows.reshape(-1, 48)) @ candidates.T).max())

    return max(originals, key=lambda name: correlation(originals[name]))


def standardised(rows: np.ndarray) -> np.ndarray:
    """Returns rows of mean 0 and length 1, whose products are correlations."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    return centred / np.linalg.norm(centred, axis=1, keepdims=True)


def test_broken_shards_are_named_and_skipped(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name in ("truncated", "odd", "without", "good"):
        write_shard(tmp_path / name, "c.mp4", rng)
    with (tmp_path / "truncated" / "target.npy").open("r+b") as file:
        file.truncate(1000)
    np.save(tmp_path / "odd" / "landmarks.npy", np.zeros((7, 68, 2), np.float32))
    (tmp_path / "without" / "raw.npy").unlink()
    assert [shard.folder.name for shard in load_shards(tmp_path)] == ["good"]
    printed = capsys.readouterr().out
    for name in ("truncated", "odd: ValueError: landmarks.npy is float32 (7, 68, 2)", "without"):
        assert f"skipped {tmp_path / name}" in printed
    (tmp_path / "good" / "shard.json").write_text("{")
    with pytest.raises(FileNotFoundError, match="no shards"):
        load_shards(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="wants /proc")
def test_reading_keeps_no_files_open(data):
    before = len(list(Path("/proc/self/fd").iterdir()))
    crops = Crops(data, 20, 64, ReferenceMix(), 0)
    assert all(crops[i]["target"].shape == (3, 64, 64) for i in range(20))
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
    folder = next(data.glob("a*"))
    for name in ("degraded", "target", "raw"):
        pictures = np.load(folder / f"{name}.npy")
        assert all(np.array_equal(Shard(folder).picture(name, i), pictures[i]) for i in (0, 7))


def test_the_papers_augmentation_is_the_same_for_all_pictures():
    rows, columns = np.mgrid[0:256, 0:256].astype(np.float32)
    # Each value is its own position, so that a shift, a turn or a hole can be recognised.
    place = (1.0 + rows * 256 + columns)[..., None]
    kinds = {"untouched": 0, "hole": 0, "turned": 0, "shifted": 0}
    for seed in range(300):
        rng = np.random.default_rng(seed)
        one, two, _, points = paper(rng, [place, place, place, place], 256)
        assert np.array_equal(one, two)
        whole = np.rint(one * 255.0)
        assert np.array_equal(whole, points)
        hole = whole == 0
        if hole.any():
            height, width = hole.any(axis=1).sum(), hole.any(axis=0).sum()
            assert hole.sum() == height * width
            assert 16 <= min(height, width) <= max(height, width) <= 64
        moved = (whole != place) & ~hole
        step = whole[128, 129] - whole[128, 128]
        kinds["hole"] += hole.any()
        kinds["turned"] += step != 1 and not hole[128, 128:130].any()
        kinds["shifted"] += moved.any() and step == 1
        kinds["untouched"] += not moved.any() and not hole.any()
    assert 35 < kinds["hole"] < 85
    assert 35 < kinds["turned"] < 85
    assert 25 < kinds["shifted"] < 75
    assert 110 < kinds["untouched"] < 195


def test_openh264_sends_one_i_frame_and_keeps_its_bitrate(portrait):
    sent = list(through_any_codec(portrait[:60], OpenH264(kbps=150), Fraction(30)))
    assert [decoded.is_keyframe for _, decoded, _ in sent] == [True] + [False] * 59
    assert [raw for raw, _, _ in sent] == portrait[:60]
    assert sum(size for _, _, size in sent) * 8 / 2.0 < 1.3 * 150_000
    raw, decoded, _ = sent[-1]
    pictures = [frame.to_ndarray(format="gray") for frame in (raw, decoded.video)]
    assert cv2.PSNR(*pictures) > 28


def test_prepare_names_what_is_broken(portrait, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    write_clip(videos / "good.mp4", portrait[:40], with_audio=False, crf=12)
    (videos / "bad.mp4").write_text("no video")
    command = [sys.executable, "-m", "models.prepare", str(videos), str(tmp_path / "out")]
    result = subprocess.run(
        [*command, "--encodings", "1", "--samples", "12", "--jobs", "1"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "12 crops of 1 clips" in result.stdout
    assert "skipped" in result.stdout
    assert "bad.mp4" in result.stdout
