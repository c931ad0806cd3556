"""Benches run and write their figures; how large the figures are is not tested."""

import json

import cv2
import numpy as np
import pytest
from bench.common.encodings import encoding_of

from bench import soak
from bench.bitrate import command as bitrate
from bench.bitrate import figures as bitrate_figures
from bench.bitrate import report as bitrate_report
from bench.common import jobs
from bench.common.call import ORIGINS
from bench.common.framing import framed
from bench.common.sequences import PROTOCOLS, send_and_restore
from bench.latency import command as latency
from bench.latency.stages import STAGES
from bench.metrics.pictures import psnr
from bench.references import command as references
from receiver.enhance.faces.generator import Generator
from receiver.errors import InputError
from tests.bench.clips import write_clip_at
from tests.conftest import CLIPS, needs_clips, write_clip


def test_latency_prints_writes_and_plots(tmp_path, capsys):
    figures, plot = tmp_path / "latency.json", tmp_path / "latency.png"
    latency.main(["--frames", "20", "--json", str(figures), "--plot", str(plot)])
    runs = json.loads(figures.read_text())["runs"]
    assert runs[0]["device"] == "cpu"
    assert runs[0]["frames"] == 20
    assert list(runs[0]["stages_ms"]) == [*STAGES, "whole frame"]
    for times in runs[0]["stages_ms"].values():
        assert 0 < times["median"] <= times["p95"] <= times["p99"]
    assert "generator" in capsys.readouterr().out
    assert cv2.imread(str(plot)).shape[1] > 800


def test_references_of_every_origin_are_compared(portrait, tmp_path, capsys):
    write_clip_at(tmp_path / "portrait.mp4", portrait[::2], 15)
    figures, plot = tmp_path / "references.json", tmp_path / "references.png"
    files = ["--json", str(figures), "--plot", str(plot)]
    references.main([str(tmp_path), "--seconds", "3", "--only", "browser 100", *files])
    clips = json.loads(figures.read_text())["clips"]
    assert [clip["way"] for clip in clips] == ["input", *ORIGINS]
    by_way = {clip["way"]: clip for clip in clips}
    assert {clip["faces"] for clip in clips} == {23}
    assert by_way["raw"]["psnr_db"] > by_way["none"]["psnr_db"]
    assert by_way["stills"]["psnr_db"] > by_way["none"]["psnr_db"]
    assert by_way["stills"]["reference_kbps"] > 0
    assert all(by_way[way]["reference_kbps"] == 0 for way in ("input", "none", "quality", "raw"))
    assert "share of the raw references' gain" in capsys.readouterr().out
    assert cv2.imread(str(plot)).shape[1] > 800


def test_an_unknown_scenario_of_references_is_named(tmp_path, portrait):
    write_clip(tmp_path / "portrait.mp4", portrait[:5], with_audio=False)
    with pytest.raises(InputError, match="no scenario's name contains 'satellite'"):
        references.main([str(tmp_path), "--only", "satellite"])


@needs_clips
@pytest.mark.parametrize("name", ["mp_vlogger.mp4", "sr_striped_shirt.mp4", "std_foreman_2.264"])
def test_unseen_people_look_better_under_every_protocol(generator: Generator, name):
    """Uses the README's setting: x264 zerolatency at CRF 42, faces of 120 px and more."""
    frames, rate = framed(CLIPS / "val" / name, 2.0)
    encoding = encoding_of("crf42")
    sequence = send_and_restore(frames, rate, encoding, generator, PROTOCOLS, 120.0, lambda: None)
    originals = sequence.pictures.pop("original")
    mean = {
        way: np.mean([psnr(*pair) for pair in zip(originals, pictures, strict=True)])
        for way, pictures in sequence.pictures.items()
    }
    assert mean["none"] > mean["input"]
    assert mean["call"] > mean["input"]
    assert mean["paper"] > mean["input"] + 0.2


def test_a_known_curve_gives_the_exact_rate():
    """Quality grows by 10 with each doubling of the rate: 25 is at 100 * 2 ** 1.5."""
    rates, qualities = [100.0, 200.0, 400.0], [10.0, 20.0, 30.0]
    assert bitrate_figures.equivalent_kbps(rates, qualities, 25.0) == pytest.approx(100 * 2**1.5)
    assert bitrate_figures.equivalent_kbps(rates[::-1], qualities[::-1], 20.0) == pytest.approx(
        200.0
    )
    assert bitrate_figures.equivalent_kbps(rates, qualities, 10.0) == pytest.approx(100.0)
    assert bitrate_figures.equivalent_kbps(rates, qualities, 30.0) == pytest.approx(400.0)


def test_the_rate_beyond_a_curve_is_unknown():
    assert bitrate_figures.equivalent_kbps([100.0, 200.0], [10.0, 20.0], 20.1) is None
    assert bitrate_figures.equivalent_kbps([100.0, 200.0], [10.0, 20.0], 9.9) is None


def test_a_curve_stays_level_if_more_bits_lower_the_quality():
    rates, qualities = [100.0, 200.0, 400.0], [10.0, 8.0, 20.0]
    assert bitrate_figures.equivalent_kbps(rates, qualities, 10.0) == pytest.approx(100.0)
    assert bitrate_figures.equivalent_kbps(rates, qualities, 15.0) == pytest.approx(200 * 2**0.5)


def test_the_ratio_counts_stills_and_uses_the_clip_s_own_curve():
    def point(clip, target, stills, received, restored):
        qualities = [{"vmaf_neg": one, "psnr": one} for one in (received, restored)]
        return bitrate_figures.Point(clip, target, target, stills, *qualities)

    points = [
        point("a", 100.0, 25.0, 10.0, 20.0),  # as good as 200 received, for 125
        point("a", 200.0, 0.0, 20.0, 30.0),
        point("a", 400.0, 0.0, 30.0, 40.0),  # better than any received
        point("b", 100.0, 0.0, 50.0, 50.0),
        point("b", 200.0, 0.0, 60.0, 60.0),
    ]
    ratios = [bitrate_figures.ratio_of(one, points, "vmaf_neg") for one in points]
    assert ratios == [pytest.approx(1.6), pytest.approx(2.0), None, *[pytest.approx(1.0)] * 2]
    first, _, last = bitrate_figures.means_of(points)
    assert first.ratio["psnr"] == pytest.approx(1.3)
    assert first.interval["psnr"] == (pytest.approx(1.0), pytest.approx(1.6))
    assert (last.ratio["psnr"], last.with_ratio["psnr"], last.clips) == (None, 0, 1)
    assert bitrate_report.cells([last], "psnr")[1][5:] == ["unknown", "0 of 1"]


def test_bitrate_writes_all_files_and_does_not_repeat_finished_jobs(
    portrait, tmp_path, monkeypatch, capsys
):
    write_clip(tmp_path / "portrait.mp4", portrait[:30], with_audio=False, crf=6)
    out = tmp_path / "out"
    grid = ["--kbps", "60", "--kbps", "400", "--encoder", "x264"]
    command = [str(tmp_path), "--seconds", "3", *grid, "--out", str(out)]
    bitrate.main(command)
    figures = json.loads((out / "bitrate.json").read_text())
    low, high = figures["clips"]
    assert (low["target"], high["target"]) == (60.0, 400.0)
    assert low["stream_kbps"] < high["stream_kbps"]
    assert low["still_kbps"] > 0
    assert low["input_quality"]["psnr"] < low["quality"]["psnr"] < high["input_quality"]["psnr"]
    assert "| 60 |" in (out / "bitrate.md").read_text()
    assert "VMAF-NEG: x264, model lite, 1 clips" in capsys.readouterr().out
    assert cv2.imread(str(out / "bitrate.png")).shape[1] > 800
    monkeypatch.setattr(jobs, "send_and_restore", None)  # would fail if called
    bitrate.main(command)
    assert json.loads((out / "bitrate.json").read_text()) == figures


def test_bitrate_needs_two_targets(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        bitrate.main([str(tmp_path), "--kbps", "60"])
    assert stopped.value.code == 2
    assert "--kbps 60 alone is not a curve: give two or more" in capsys.readouterr().err


def test_a_soak_samples_judges_and_plots(tmp_path, capsys):
    soak.main(["--minutes", "0.06", "--out", str(tmp_path)])
    figures = json.loads((tmp_path / "soak.json").read_text())
    assert figures["samples"][-1]["frames"] > 0
    assert figures["verdict"] == {"growth_mb_an_hour": None, "changed": []}
    assert "ended within its warm-up" in " ".join(capsys.readouterr().out.split())
    assert cv2.imread(str(tmp_path / "soak.png")).shape[1] > 800


def test_a_soak_finds_what_grows():
    def sample(second, rss_mb, handles):
        return soak.Sample(second, rss_mb, 8, handles, 0.0, 0, 0, 0, 0, 30 * second)

    steady = [sample(n, 700 + 300 * (n < 60) + n * 10 / 3600, 16) for n in range(600)]
    assert soak.judge(steady).growth_mb_an_hour == {"rss_mb": 10.0, "gpu_mb": 0.0}
    assert soak.judge(steady).holds
    grown = [sample(n, 700 + n * 30 / 3600, 16 + n // 500) for n in range(600)]
    assert soak.judge(grown).growth_mb_an_hour["rss_mb"] == 30.0
    assert soak.judge(grown).changed == ["handles"]
    assert not soak.judge(grown).holds
