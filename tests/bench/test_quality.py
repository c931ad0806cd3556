"""The quality bench: its jobs, its means, and a whole run on the demo's portrait."""

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from bench import __main__
from bench.common import jobs, tables
from bench.common.framing import framed
from bench.common.judging import left_out
from bench.common.people import people_of
from bench.common.result_cache import ResultCache
from bench.common.sequences import Sequence
from bench.quality import command as quality
from bench.quality import figures, judging, report
from bench.quality.judging import Extras
from receiver.enhance.faces.generator import Generator
from receiver.errors import InputError, ReceiverError
from tests.bench.clips import write_clip_at
from tests.conftest import plain_frame, write_clip


@pytest.fixture
def clips(portrait, tmp_path):
    """A folder with one second of the portrait, at 15 fps to save time."""
    folder = tmp_path / "clips"
    folder.mkdir()
    write_clip_at(folder / "portrait.mp4", portrait[:30:2], 15)
    return folder


def row(person: str, way: str, psnr: float, region: figures.Region = "face") -> figures.Row:
    values = dict.fromkeys(figures.METRICS, psnr) | {"lpips": None}
    return figures.Row(person, "openh264-100", way, region, (320, 240), 40.0, 80.0, values)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["/nowhere"], "no videos in /nowhere: give a folder"),
        (["CLIPS", "--encoding", "vp8-100"], "'vp8-100' is not an encoding: give openh264-100"),
        (["CLIPS", "--model", "heavy"], "there is no model 'heavy': give one of"),
        (["CLIPS", "--seconds", "0.01"], "'0.01' seconds: give at least 0.1 and at most 3600"),
        (["CLIPS", "--min-face", "500"], "'500' pixels: give more than 0 and at most 480"),
        (["CLIPS", "--lpips-weights", "/nowhere"], "/nowhere cannot be read as weights"),
        (["CLIPS", "--mobileface", "/nowhere"], "/nowhere"),
        (["CLIPS", "--against", "magic"], "'magic'"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2(clips, monkeypatch, capsys, tmp_path, options, said):
    options = [str(clips) if option == "CLIPS" else option for option in options]
    arguments = ["bench", "quality", *options, "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as stopped:
        __main__.main()
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_an_invalid_video_is_named(tmp_path):
    (tmp_path / "notes.mp4").write_text("no video")
    with pytest.raises(InputError, match=r"notes.mp4 cannot be read as a video: .*, or remove it"):
        framed(tmp_path / "notes.mp4", 1.0)


def test_a_broken_clip_is_refused_before_the_work(clips, tmp_path):
    (clips / "notes.mp4").write_text("no video")
    with pytest.raises(InputError, match=r"notes.mp4 cannot be read as a video"):
        quality.main([str(clips), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out" / "results.jsonl").exists()


def test_a_person_s_clips_count_once(tmp_path):
    (tmp_path / "val").mkdir()
    (tmp_path / "manifest.csv").write_text(
        "file,identity\nval/a_1.mp4,a\nval/a_2.mp4,a\nval/b.mp4,b\n"
    )
    clips = [tmp_path / "val" / name for name in ("a_1.mp4", "a_2.mp4", "b.mp4", "c.mp4")]
    assert list(people_of(clips).values()) == ["a", "a", "b", "c"]
    rows = [row("a", "received", 20), row("a", "received", 24), row("b", "received", 30)]
    merged = figures.by_person(rows)
    assert [(one.person, one.figures["psnr"]) for one in merged] == [("a", 22.0), ("b", 30.0)]
    assert merged[0].figures["lpips"] is None


def test_means_gains_worst_and_improved_people():
    values = {"a": (20, 23), "b": (30, 29), "c": (40, 44)}
    rows = [row(name, "received", before) for name, (before, _) in values.items()]
    rows += [row(name, "lite call", after) for name, (_, after) in values.items()]
    means = {(one.way, one.metric): one for one in figures.means_of(rows)}
    one = means["lite call", "psnr"]
    assert (one.people, one.mean, one.worst, one.worst_person) == (3, 32.0, 23.0, "a")
    assert (one.gain, one.least, one.least_person, one.improved) == (2.0, -1.0, "b", 2)
    assert (one.interval[0], one.gain_interval[0]) == (23.0, -1.0)
    lower_is_better = means["lite call", "brisque"]
    assert (lower_is_better.worst_person, lower_is_better.improved) == ("c", 1)
    assert (lower_is_better.least, lower_is_better.least_person) == (4.0, "c")
    assert ("lite call", "lpips") not in means
    drawn = report.table(list(means.values()), "face", "psnr", gains=True)
    assert drawn == [
        ["PSNR dB, up", "lite call"],
        ["openh264-100", "+2.00 [-1.00, +4.00], worst -1.00, 2 of 3"],
    ]
    drawn = report.table(list(means.values()), "face", "psnr", gains=False)
    assert drawn[1][2] == "32.00 [23.00, 44.00], worst 23.00"
    assert report.table(list(means.values()), "face", "lpips", gains=False) == [["LPIPS, down"]]
    assert tables.markdown(drawn).startswith("| PSNR dB, up | received | lite call |\n")


def test_what_restoring_is_worth_in_bits():
    """Received quality grows by 10 with each doubling of the rate."""

    def at(encoding, way, kbps, psnr):
        one = row("a", way, psnr)
        return replace(one, encoding=encoding, kbps=kbps)

    rows = [
        at("openh264-100", "received", 100, 10),
        at("openh264-200", "received", 200, 20),
        at("openh264-400", "received", 400, 30),
        at("x264-100", "received", 100, 30),
        at("openh264-100", "lite call", 125, 20),  # as good as 200 received, for 125
        at("openh264-400", "lite call", 400, 31),  # better than any received
        replace(row("b", "received", 10), kbps=100),
        replace(row("b", "lite call", 9), kbps=100),  # worse than any received
    ]
    ratios = figures.bit_ratios(rows, "openh264-100", "lite call", "face", "psnr")
    assert ratios == pytest.approx([1.6])
    assert figures.bit_ratios(rows, "openh264-400", "lite call", "face", "psnr") == []
    assert report.bits_table(rows, "face", "psnr") == [
        ["rate for the same PSNR dB, received : sent", "lite call"],
        ["openh264-100", "1.60 [1.60, 1.60], 1 of 2 people"],
        ["openh264-200", "unknown"],
        ["openh264-400", "unknown"],
        ["x264-100", "unknown"],
    ]


@pytest.mark.parametrize(
    ("encoding", "encoder"),
    [("openh264-100", "openh264"), ("x264-62.5", "x264"), ("crf42", "crf")],
)
def test_the_encoder_of_a_sender(encoding, encoder):
    assert figures.encoder_of(encoding) == encoder
    assert figures.encoder_of("openh264-100@640x480") == "openh264@640x480"


def test_flicker_is_better_nearer_to_one():
    flicker = figures.METRICS["flicker"]
    assert flicker.improves(1.4, 1.2)
    assert flicker.improves(0.7, 1.2)
    assert not flicker.improves(1.1, 0.8)


def test_finished_jobs_are_read_again(tmp_path):
    path = tmp_path / "kept" / "results.jsonl"
    ResultCache(path).add({"clip": "a", "crf": 42}, {"psnr": 30.5})
    with path.open("a") as file:
        file.write('{"job": {"clip": "b"')  # cut short
    again = ResultCache(path)
    assert {"crf": 42, "clip": "a"} in again
    assert {"crf": 42, "clip": "b"} not in again
    again.add({"clip": "b"}, None)
    assert [len(again), len(ResultCache(path))] == [2, 2]
    assert ResultCache(path)[{"clip": "a", "crf": 42}] == {"psnr": 30.5}


def test_an_invalid_line_is_named(tmp_path):
    (tmp_path / "results.jsonl").write_text('[]\n{"job": {}, "result": 1}\n')
    with pytest.raises(InputError, match=r"line 1 of .*results.jsonl is not a result: remove it"):
        ResultCache(tmp_path / "results.jsonl")


@pytest.mark.slow
def test_a_run_writes_all_files_and_does_not_repeat_finished_jobs(
    portrait, tmp_path, monkeypatch, capsys
):
    (tmp_path / "clips").mkdir()
    write_clip_at(tmp_path / "clips" / "portrait.mp4", portrait[::2], 15)
    write_clip(tmp_path / "clips" / "wall.mp4", [plain_frame()] * 5, with_audio=False)
    out = tmp_path / "out"
    command = [str(tmp_path / "clips"), "--seconds", "3", "--out", str(out)]
    command += ["--encoding", "openh264-60", "--encoding", "crf42", "--against", "lanczos"]
    quality.main(command)
    written = json.loads((out / "quality.json").read_text())
    found = {(row["encoding"], row["way"], row["region"]): row for row in written["people"]}
    ways = ["received", "lite none", "lite call", "lite paper", "lanczos"]
    assert list(found) == [
        (encoding, way, region)
        for encoding in ("openh264-60", "crf42")
        for way in ways
        for region in ("face", "frame")
    ]
    sizes = {encoding: row["sent"] for (encoding, _, _), row in found.items()}
    assert sizes == {"openh264-60": [320, 240], "crf42": [640, 480]}
    assert {row["person"] for row in written["people"]} == {"portrait"}
    psnr = {way: found["crf42", way, "face"]["figures"]["psnr"] for way in ways}
    assert 22 < psnr["received"] < psnr["lite none"] < psnr["lite paper"]
    whole = {way: found["crf42", way, "frame"]["figures"]["psnr"] for way in ways}
    assert whole["received"] < whole["lite none"]
    assert found["openh264-60", "lite call", "face"]["kbps"] >= 60 * 0.7
    measured = found["crf42", "received", "face"]["figures"]
    missing = {name for name, value in measured.items() if value is None}
    assert missing == {"lpips", "mobileface", "niqe", "xpsnr"}
    assert found["crf42", "received", "frame"]["figures"]["xpsnr"] > 20
    assert "| openh264-60 | 1 | 320x240 |" in (out / "quality.md").read_text()
    left_out_clips = "left out, too short or without a large enough face: wall.mp4\n"
    assert left_out_clips in (out / "quality.md").read_text()
    assert "VMAF-NEG" in capsys.readouterr().out
    assert cv2.imread(str(out / "rate-distortion.png")).shape[1] > 1000
    height, width = cv2.imread(str(out / "sheet-crf42.png")).shape[:2]
    assert width / height == pytest.approx(6 * 640 / (480 + 640), rel=0.01)

    def never(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(jobs, "ProcessPoolExecutor", never)
    quality.main(command)
    assert json.loads((out / "quality.json").read_text()) == written
    with pytest.raises(AssertionError, match="measured again"):
        quality.main([*command, "--min-face", "100"])


@pytest.mark.slow
def test_an_interrupted_run_continues(clips, tmp_path):
    out = tmp_path / "out"
    rates = [f"--encoding=openh264-{kbps}" for kbps in (60, 100, 150, 250, 400, 600)]
    command = [sys.executable, "-m", "bench", "quality", str(clips), *rates, "--out", str(out)]
    command += ["--seconds", "0.4"]
    results = out / "results.jsonl"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as run:
        while not (results.exists() and results.read_text().count("\n") >= 1):
            assert run.poll() is None
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        errors = run.communicate()[1]
    assert run.returncode == 130
    assert "Traceback" not in errors
    assert not list(tmp_path.glob("bench-*"))  # no large files are left
    finished = results.read_text().splitlines()
    assert 1 <= len(finished) < 6
    quality.main(command[4:])
    assert results.read_text().splitlines()[: len(finished)] == finished
    encodings = {json.loads(line)["job"]["encoding"] for line in results.read_text().splitlines()}
    assert len(results.read_text().splitlines()) == len(encodings) == 6


def test_a_small_clip_is_refused_before_the_work(portrait, tmp_path, monkeypatch):
    small = [frame.reformat(240, 180) for frame in portrait[:5]]
    write_clip_at(tmp_path / "small.mp4", small, 30)
    said = r"small.mp4 has 240x180 pixels: give 192x192, or remove it"
    with pytest.raises(InputError, match=said):
        jobs.captured(tmp_path / "small.mp4", 0.2)
    monkeypatch.setattr(jobs, "ProcessPoolExecutor", None)  # would fail if called
    with pytest.raises(InputError, match=said):
        quality.main([str(tmp_path), "--out", str(tmp_path / "out")])


def test_a_folder_that_cannot_hold_results_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "results.jsonl", tmp_path / "file" / "a" / "results.jsonl"):
        with pytest.raises(InputError, match=r"results.jsonl cannot be written .*: give another"):
            ResultCache(path)
    (tmp_path / "results.jsonl").write_bytes(b"\xff\n{}\n")
    with pytest.raises(InputError, match=r"line 1 of .*results.jsonl is not a result"):
        ResultCache(tmp_path / "results.jsonl")


def _killed(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _out_of_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _failing_program(*_: object) -> None:
    subprocess.run([sys.executable, "-c", "raise SystemExit(3)"], check=True)


MASKS = []
"""Whether Ctrl-C was held back when this process began its work."""


def _note_mask(_: str) -> None:
    MASKS.append(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))


def _noted_masks(*_: object) -> list[bool]:
    return MASKS


def _folders(_: object, folder: Path) -> list[str]:
    (folder / "large.yuv").write_text("")
    return [str(folder.parent), tempfile.mkdtemp()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("work", "said"),
    [
        (_killed, "a process was killed, perhaps for want of memory: finished results are kept"),
        (_out_of_space, r"cannot be used \(.*No space left on device\): make room, or set TMPDIR"),
        (_failing_program, r"FFmpeg failed \(3\), see above: finished results are kept"),
    ],
)
def test_work_that_fails_from_outside_is_one_sentence(clips, tmp_path, work, said):
    results = ResultCache(tmp_path / "results.jsonl")
    job = jobs.Job(clips / "portrait.mp4", "a", 0.2, work, {"number": 1}, "a")
    with pytest.raises(ReceiverError, match=said):
        jobs.run_jobs([job], results, 1)


@pytest.mark.slow
def test_all_files_of_the_work_are_in_one_folder(clips, tmp_path, monkeypatch):
    """A killed process leaves its files behind: the parent removes that folder."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    results = ResultCache(tmp_path / "results.jsonl")
    job = jobs.Job(clips / "portrait.mp4", "a", 0.2, _folders, {"number": 1}, "a")
    jobs.run_jobs([job], results, 1)
    folder, made = results[job.key]
    assert Path(folder).parent == tmp_path / "temporary"
    assert Path(made).parent == Path(folder)
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.slow
def test_processes_start_without_ctrl_c(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "_prepare", _note_mask)
    results = ResultCache(tmp_path / "results.jsonl")
    job = jobs.Job(clips / "portrait.mp4", "a", 0.2, _noted_masks, {"number": 1}, "a")
    jobs.run_jobs([job], results, 1)
    assert results[job.key] == [True]


def test_ctrl_c_is_only_held_back():
    report = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    with jobs._ctrl_c_held_back():
        run = subprocess.run([sys.executable, "-c", report], stdout=subprocess.PIPE, check=True)
    assert run.stdout == b"True\n"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_the_content_of_a_rival_s_file_belongs_to_the_key(clips, tmp_path):
    rival = tmp_path / "network.pb"
    keys = []
    for content, options in (("a", ["--against", str(rival)]), ("b", ["--against", str(rival)])):
        rival.write_text(content)
        jobs.sha256_of.cache_clear()
        args = quality.parse([str(clips), "--encoding", "crf42", *options, "--against", "lanczos"])
        found = list(clips.iterdir()), [Generator("lite", "cpu")], Extras()
        keys += [job.key for job in quality.jobs_of(args, *found)]
    assert keys[0] != keys[1]
    assert keys[0] | {"against_sha256": None} == keys[1] | {"against_sha256": None}


def test_clips_without_figures_are_named(tmp_path):
    made = [
        jobs.Job(Path(name), "a", 1.0, _killed, {}, name) for name in ("a.mp4", "b.mp4", "a.mp4")
    ]
    said = "left out of collapse, too short or without a large enough face: a.mp4, b.mp4"
    assert left_out(made, " of collapse") == said
    assert left_out([]) == ""


def test_flicker_beside_a_still_original_is_unknown():
    grey = [np.full((256, 256, 3), level, np.uint8) for level in (90, 90, 120)]
    faces = {"original": grey[:2], "received": grey[1:], "call": grey[:2]}
    points = np.random.default_rng(0).uniform(60, 200, (68, 2)).astype(np.float32)
    boxes = [np.array([50.0, 50.0, 200.0, 200.0])] * 2
    one = Sequence({}, 256, 256, Fraction(30), faces, landmarks=[points] * 2, boxes=boxes)
    found = judging.judge_faces(one, ("received", "call"), Extras(absent=("st_lpips", "brisque")))
    assert [found[way]["flicker"] for way in ("received", "call")] == [None, 1.0]


def test_clips_without_a_face_are_refused(tmp_path):
    write_clip(tmp_path / "wall.mp4", [plain_frame() for _ in range(5)], with_audio=False)
    out = Path(tmp_path / "out")
    with pytest.raises(InputError, match="no face of 60 px: give a smaller --min-face"):
        quality.main([str(tmp_path), "--encoding", "crf42", "--out", str(out)])
