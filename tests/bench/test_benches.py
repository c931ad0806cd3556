"""Benches run and write their figures; how large the figures are is not tested."""

import json
from fractions import Fraction

import cv2
import pytest

from bench import soak
from bench.bitrate import command as bitrate
from bench.bitrate import figures as bitrate_figures
from bench.bitrate import report as bitrate_report
from bench.common import jobs
from bench.common.call import ORIGINS, PROTOCOLS, Call
from bench.common.framing import framed, nearest_faces
from bench.common.judging import BASIC, basic_figures
from bench.common.rates import equivalent_kbps
from bench.common.senders import sender_of
from bench.common.sequences import RECEIVED, watch
from bench.latency import command as latency
from bench.latency.stages import STAGES
from bench.references import command as references
from bench.references.figures import Judged, by_person, gains_of, shares
from bench.references.restoring import ways_of
from bench.references.scenarios import Scenario, scenarios, send
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
    write_clip_at(tmp_path / "short.mp4", portrait[:20:2], 15)
    out = tmp_path / "out"
    command = [str(tmp_path), "--seconds", "3", "--only", "browser 100", "--out", str(out)]
    references.main(command)
    people = json.loads((out / "references.json").read_text())["people"]
    assert {one["person"] for one in people} == {"portrait"}  # the other clip is too short
    figures = {one["way"]: one["figures"] for one in people}
    assert list(figures) == ["received", *ORIGINS]
    assert figures["raw"]["face_psnr"] > figures["none"]["face_psnr"]
    assert figures["none"]["frame_psnr"] > figures["received"]["frame_psnr"]
    others = ("received", "none", "i-frames", "quality", "raw")
    assert all(figures[way]["reference_kbps"] == 0 for way in others)
    assert "share of what raw references add" in " ".join(capsys.readouterr().out.split())
    assert "## browser 100 kb/s, 1 people" in (out / "references.md").read_text()
    assert cv2.imread(str(out / "references.png")).shape[1] > 800


def test_reference_sets_are_compared():
    assert list(ways_of((("lfu", 10),))) == list(ORIGINS)
    ways = ways_of((("lfu", 1), ("max-distance", 3)))
    assert list(ways)[:4] == [
        "none",
        "i-frames, lfu 1",
        "i-frames, max-distance 3",
        "quality, lfu 1",
    ]
    assert ways["raw, max-distance 3"] == ("raw", ("max-distance", 3))


def test_a_part_of_a_scenario_that_is_too_long_is_not_sent(portrait):
    (collapse,) = (one for one in scenarios(1.0) if one.name == "collapse")
    assert (collapse.seconds, collapse.judged_from) == (5.0, 4.0)
    with pytest.raises(ValueError, match="60 frames are too few for collapse: it needs 150"):
        send(portrait[:60], Fraction(30), collapse)


def test_a_collapse_is_sent_large_and_then_small(portrait):
    parts = ((sender_of("openh264-1000"), 0.2), (sender_of("openh264-100"), 0.2))
    sent = list(send(portrait[:12], Fraction(30), Scenario("collapse", parts)))
    assert [decoded.video.width for _, decoded, _ in sent] == [640] * 6 + [320] * 6
    assert [raw for raw, _, _ in sent] == portrait[:12]


def test_gains_and_shares_are_of_people():
    def judged(person, way, value):
        return Judged("narrow", person, way, dict.fromkeys(("face_psnr", "face_vmaf_neg"), value))

    values = {"received": (30, 20), "none": (32, 22), "quality": (33, 25), "raw": (34, 26)}
    results = by_person(
        [
            *(judged("a", way, one) for way, (one, _) in values.items()),
            *(judged("b", way, one - 1) for way, (_, one) in values.items()),
            *(judged("b", way, one + 1) for way, (_, one) in values.items()),
        ]
    )
    assert len(results) == 8
    assert gains_of(results, "narrow", "quality", "face_psnr") == [3, 5]
    assert shares(results)["narrow, PSNR of the face, dB"] == {"quality": round(2 / 3, 3)}


def test_an_unknown_scenario_of_references_is_named(tmp_path, portrait):
    write_clip(tmp_path / "portrait.mp4", portrait[:5], with_audio=False)
    with pytest.raises(InputError, match="no scenario's name contains 'satellite'"):
        references.main([str(tmp_path), "--only", "satellite"])


def test_a_reference_set_needs_room(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        references.main([str(tmp_path), "--capacity", "0"])
    assert stopped.value.code == 2
    assert "'0' keyframes: give 1 to 100" in capsys.readouterr().err


@needs_clips
@pytest.mark.parametrize("name", ["mp_vlogger.mp4", "sr_striped_shirt.mp4", "mead_m003.mp4"])
def test_unseen_people_look_better_at_the_operating_point(generator: Generator, name, tmp_path):
    """At 320x240 and 100 kb/s, judged at 640x480."""
    frames, rate = framed(CLIPS / "val" / name, 2.0)
    calls = {way: Call(origin, generator) for way, origin in PROTOCOLS.items()}
    sent = sender_of("openh264-100").send(frames, rate)
    sequence = watch(sent, rate, nearest_faces(frames), calls, tmp_path)
    quality = {way: basic_figures(sequence, way)["face_vmaf_neg"] for way in (RECEIVED, *PROTOCOLS)}
    assert quality["none"] > quality[RECEIVED]
    assert quality["call"] > quality[RECEIVED]
    assert quality["paper"] > quality[RECEIVED] + 1


def test_a_known_curve_gives_the_exact_rate():
    """Quality grows by 10 with each doubling of the rate: 25 is at 100 * 2 ** 1.5."""
    rates, qualities = [100.0, 200.0, 400.0], [10.0, 20.0, 30.0]
    assert equivalent_kbps(rates, qualities, 25.0) == pytest.approx(100 * 2**1.5)
    assert equivalent_kbps(rates[::-1], qualities[::-1], 20.0) == pytest.approx(200.0)
    assert equivalent_kbps(rates, qualities, 10.0) == pytest.approx(100.0)
    assert equivalent_kbps(rates, qualities, 30.0) == pytest.approx(400.0)


def test_the_rate_beyond_a_curve_is_unknown():
    assert equivalent_kbps([100.0, 200.0], [10.0, 20.0], 20.1) is None
    assert equivalent_kbps([100.0, 200.0], [10.0, 20.0], 9.9) is None


def test_a_curve_stays_level_if_more_bits_lower_the_quality():
    rates, qualities = [100.0, 200.0, 400.0], [10.0, 8.0, 20.0]
    assert equivalent_kbps(rates, qualities, 10.0) == pytest.approx(100.0)
    assert equivalent_kbps(rates, qualities, 15.0) == pytest.approx(200 * 2**0.5)


def test_the_ratio_counts_stills_and_uses_the_clip_s_own_curve():
    def point(clip, target, stills, received, restored):
        qualities = [dict.fromkeys(BASIC, one) for one in (received, restored)]
        return bitrate_figures.Point(clip[0], clip, target, target, stills, *qualities)

    points = [
        point("a", 100.0, 25.0, 10.0, 20.0),  # as good as 200 received, for 125
        point("a", 200.0, 0.0, 20.0, 30.0),
        point("a", 400.0, 0.0, 30.0, 40.0),  # better than any received
        point("b", 100.0, 0.0, 50.0, 50.0),
        point("b", 200.0, 0.0, 60.0, 60.0),
    ]
    ratios = [bitrate_figures.ratio_of(one, points, "face_vmaf_neg") for one in points]
    assert ratios == [pytest.approx(1.6), pytest.approx(2.0), None, *[pytest.approx(1.0)] * 2]
    first, _, last = bitrate_figures.means_of(points)
    assert first.ratio["face_psnr"] == pytest.approx(1.3)
    assert first.interval["face_psnr"] == (pytest.approx(1.0), pytest.approx(1.6))
    assert (last.ratio["face_psnr"], last.with_ratio["face_psnr"], last.people) == (None, 0, 1)
    assert bitrate_report.cells([last], "face_psnr")[1][5:] == ["unknown", "0 of 1"]


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
    received, restored = low["input_quality"], low["quality"]
    assert received["face_psnr"] < restored["face_psnr"] < high["input_quality"]["face_psnr"]
    assert received["frame_psnr"] < restored["frame_psnr"]
    assert "| 60 |" in (out / "bitrate.md").read_text()
    assert "VMAF-NEG of the face: x264, model lite, 1 people" in " ".join(
        capsys.readouterr().out.split()
    )
    assert cv2.imread(str(out / "bitrate.png")).shape[1] > 800
    monkeypatch.setattr(jobs, "ProcessPoolExecutor", None)  # would fail if called
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
