"""The benches run and write what they promise; how fast things are is theirs to tell, not ours."""

import json
from pathlib import Path

import cv2
import pytest

from bench import latency, quality, references
from receiver.encoding import Encoding
from receiver.generator import Generator
from tests.conftest import write_clip

CLIPS = Path(__file__).parent.parent.parent / "shared" / "clips" / "val"
needs_clips = pytest.mark.skipif(
    not CLIPS.is_dir(), reason="needs talking-head clips in ../shared/clips/val"
)


def test_latency_prints_writes_and_plots(tmp_path, capsys):
    figures, plot = tmp_path / "latency.json", tmp_path / "latency.png"
    latency.main(["--frames", "20", "--json", str(figures), "--plot", str(plot)])
    runs = json.loads(figures.read_text())["runs"]
    assert runs[0]["device"] == "cpu"
    assert runs[0]["frames"] == 20
    assert list(runs[0]["stages_ms"]) == [*latency.STAGES, "whole frame"]
    for times in runs[0]["stages_ms"].values():
        assert 0 < times["median"] <= times["p95"] <= times["p99"]
    assert "generator" in capsys.readouterr().out
    assert cv2.imread(str(plot)).shape[1] > 800


def test_quality_compares_three_protocols(portrait, generator, tmp_path, capsys):
    write_clip(tmp_path / "portrait.mp4", portrait, with_audio=False, crf=6)
    figures = tmp_path / "quality.json"
    quality.main([str(tmp_path), "--frames", "45", "--json", str(figures)])
    (clip,) = json.loads(figures.read_text())["clips"]
    assert clip["faces"] == 45
    assert 22 < clip["input_psnr_db"] < 38
    restored = clip["restored_psnr_db"]
    assert clip["input_psnr_db"] < restored["none"] < restored["paper"]
    assert "portrait.mp4" in capsys.readouterr().out


def test_quality_without_clips_says_so(tmp_path, capsys):
    with pytest.raises(SystemExit):
        quality.main([str(tmp_path)])
    assert "no videos in" in capsys.readouterr().err


def test_references_are_compared_in_every_way(portrait, tmp_path, capsys):
    write_clip(tmp_path / "portrait.mp4", portrait, with_audio=False, crf=6)
    figures, plot = tmp_path / "references.json", tmp_path / "references.png"
    files = ["--json", str(figures), "--plot", str(plot)]
    references.main([str(tmp_path), "--seconds", "4", "--only", "browser 100", *files])
    clips = json.loads(figures.read_text())["clips"]
    assert [clip["way"] for clip in clips] == ["input", *references.WAYS]
    by_way = {clip["way"]: clip for clip in clips}
    assert {clip["faces"] for clip in clips} == {60}
    assert by_way["raw"]["psnr_db"] > by_way["none"]["psnr_db"]
    assert by_way["stills"]["psnr_db"] > by_way["none"]["psnr_db"]
    assert by_way["stills"]["reference_kbps"] > 0
    assert all(by_way[way]["reference_kbps"] == 0 for way in ("input", "none", "quality", "raw"))
    assert "share of the raw references' gain" in capsys.readouterr().out
    assert cv2.imread(str(plot)).shape[1] > 800


def test_references_says_which_scenario_there_is_not(tmp_path, portrait, capsys):
    write_clip(tmp_path / "portrait.mp4", portrait[:5], with_audio=False)
    with pytest.raises(SystemExit):
        references.main([str(tmp_path), "--only", "satellite"])
    assert "no scenario's name holds 'satellite'" in capsys.readouterr().err


@needs_clips
@pytest.mark.parametrize("name", ["mp_vlogger.mp4", "sr_striped_shirt.mp4", "std_foreman_2.264"])
def test_unseen_people_look_better_under_every_protocol(generator: Generator, name):
    """At the README's setting: x264 zerolatency at CRF 42, faces of 120 px and more."""
    result = quality.measure_clip(CLIPS / name, Encoding(crf=42), generator, 60, 120.0)
    assert result is not None
    assert result.gain("none") > 0
    assert result.gain("call") > 0
    assert result.gain("paper") > 0.2
