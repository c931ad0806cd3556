"""The quality bench: its jobs, its means, and a whole run on the demo's portrait."""

import json
import sys

import cv2
import pytest

from bench import __main__
from bench.common import jobs, tables
from bench.common.encodings import encoding_of
from bench.common.framing import framed
from bench.common.result_cache import ResultCache
from bench.quality import command as quality
from bench.quality import figures, report
from models.openh264 import OpenH264
from receiver.errors import InputError
from receiver.media.encoding import Encoding
from tests.bench.clips import write_clip_at
from tests.conftest import plain_frame, write_clip


@pytest.fixture
def clips(portrait, tmp_path):
    """A folder with one second of the portrait, at 15 fps to save time."""
    folder = tmp_path / "clips"
    folder.mkdir()
    write_clip_at(folder / "portrait.mp4", portrait[:30:2], 15)
    return folder


def row(clip: str, way: str, psnr: float) -> figures.Row:
    values = dict.fromkeys(figures.METRICS, psnr) | {"lpips": None}
    return figures.Row(clip, "crf42", "" if way == "input" else "lite", way, 9, 80.0, values)


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("crf42", Encoding(crf=42, keyframe_every=60)),
        ("x264-150", Encoding(kbps=150, keyframe_every=60)),
        ("openh264-62.5", OpenH264(62.5)),
    ],
)
def test_encodings_by_name(name, encoding):
    assert encoding_of(name) == encoding


@pytest.mark.parametrize("name", ["crf52", "crf", "x264-0", "openh264", "vp8-100", "x264-nan"])
def test_other_encodings_are_refused(name):
    with pytest.raises(InputError, match=f"'{name}' is not an encoding: give crf42"):
        encoding_of(name)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["/nowhere"], "no videos in /nowhere: give a folder"),
        (["CLIPS", "--encoding", "vp8-100"], "'vp8-100' is not an encoding: give crf42"),
        (["CLIPS", "--model", "heavy"], "there is no model 'heavy': give one of"),
        (["CLIPS", "--seconds", "-1"], "'-1' seconds: give more than 0"),
        (["CLIPS", "--min-face", "250"], "'250' pixels: give more than 0 and at most 220"),
        (["CLIPS", "--lpips-weights", "/nowhere"], "/nowhere cannot be read as weights"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2(clips, monkeypatch, capsys, tmp_path, options, said):
    options = [str(clips) if option == "CLIPS" else option for option in options]
    arguments = ["bench", "quality", *options, "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as stopped:
        __main__.main()
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_an_invalid_video_is_named(tmp_path):
    (tmp_path / "notes.mp4").write_text("no video")
    with pytest.raises(InputError, match=r"notes.mp4 cannot be read as a video: .*, or remove it"):
        framed(tmp_path / "notes.mp4", 1.0)


def test_means_and_gains_with_their_intervals():
    rows = [
        row("a", "input", 20),
        row("a", "call", 23),
        row("b", "input", 30),
        row("b", "call", 33),
    ]
    means = {(one.name, one.metric): one for one in figures.means_of(rows)}
    restored = means["lite call", "psnr"]
    assert (restored.mean, restored.interval) == (28.0, (23.0, 33.0))
    assert (restored.gain, restored.gain_interval) == (3.0, (3.0, 3.0))  # of each clip: the same
    assert ("lite call", "lpips") not in means
    table = report.cells(list(means.values()), "crf42", gains=True)
    assert table[0] == ["gain over the input", "lite call"]
    assert table[1] == ["PSNR dB, up", "+3.00 [+3.00, +3.00]"]
    assert table[-1] == ["LPIPS, down", "no weights"]
    assert tables.markdown(table).startswith("| gain over the input | lite call |\n| --- | --- |\n")


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


def test_a_run_writes_all_files_and_does_not_repeat_finished_jobs(
    clips, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "out"
    # Long enough for a still to arrive at the pace of a full link.
    command = [str(clips), "--seconds", "3", "--encoding", "crf42", "--out", str(out)]
    quality.main(command)
    written = json.loads((out / "quality.json").read_text())
    by_way = {row["way"]: row for row in written["clips"]}
    assert list(by_way) == ["input", "none", "call", "paper"]
    assert {row["faces"] for row in by_way.values()} == {45}
    psnr = {way: row["figures"]["psnr"] for way, row in by_way.items()}
    assert 22 < psnr["input"] < psnr["none"] < psnr["paper"]
    assert by_way["call"]["kbps"] > by_way["paper"]["kbps"] == by_way["input"]["kbps"]
    assert by_way["input"]["figures"]["lpips"] is None
    assert "| portrait.mp4 | crf42 | lite paper | 45 |" in (out / "quality.md").read_text()
    assert "LPIPS" in capsys.readouterr().out
    assert cv2.imread(str(out / "rate-distortion.png")).shape[1] > 800
    height, width = cv2.imread(str(out / "contact-sheet-1.png")).shape[:2]
    assert width > 4 * height  # one row of five

    def never(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(jobs, "send_and_restore", never)
    quality.main(command)
    assert json.loads((out / "quality.json").read_text()) == written
    with pytest.raises(AssertionError, match="measured again"):
        quality.main([*command, "--min-face", "100"])


def test_an_interrupted_run_continues(clips, tmp_path, monkeypatch):
    real, asked = jobs.send_and_restore, []

    def interrupted(*arguments):
        asked.append(arguments[2])
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(jobs, "send_and_restore", interrupted)
    command = [str(clips), "--seconds", "0.2", "--out", str(tmp_path / "out")]
    with pytest.raises(KeyboardInterrupt):
        quality.main(command)
    quality.main(command)
    assert asked == [Encoding(crf=42), OpenH264(100), OpenH264(100)]


def test_clips_without_a_face_are_refused(tmp_path):
    write_clip(tmp_path / "wall.mp4", [plain_frame() for _ in range(5)], with_audio=False)
    with pytest.raises(InputError, match="no face of 120 px: give a smaller --min-face"):
        quality.main([str(tmp_path), "--seconds", "0.2", "--out", str(tmp_path / "out")])
