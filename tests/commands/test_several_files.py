"""`receiver enhance` of several files and folders: what is refused, and what is printed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from receiver.commands import jobs
from tests.commands.conftest import frames_of
from tests.commands.test_cli import assert_one_sentence, run


def test_several_files_go_on_after_a_failure(clips, here):
    (here / "text.mp4").write_text("no video")
    places = [str(clips / "three.mp4"), "text.mp4", "no.mp4", str(clips / "plain.avi")]
    result = run("enhance", *places, "--into", "made/out", COLUMNS="200")
    assert result.returncode == 1
    assert result.stderr == (
        "receiver: text.mp4 cannot be read as a video: give another file\n"
        "receiver: there is no file no.mp4: check the path\n"
    )
    rows = [line.strip("│").split("│") for line in result.stdout.splitlines() if "│" in line]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert [row[:2] for row in cells] == [
        [places[0], "3"],
        ["text.mp4", "-"],
        ["no.mp4", "-"],
        [places[3], "2"],
    ]
    assert [row[4] for row in cells[1:]] == [
        "failed: text.mp4 cannot be read as a video: give another file",
        "failed: there is no file no.mp4: check the path",
        "no face was found",
    ]
    written = {path.name: frames_of(path) for path in (here / "made" / "out").iterdir()}
    assert written == {"three.mp4": 3, "plain.mp4": 2}


def test_several_files_as_json_lines(clips, here):
    places = [str(clips / "three.mp4"), "no.mp4", str(clips / "four.mkv")]
    result = run("enhance", *places, "--into", "out", "--json")
    assert result.returncode == 1
    failed, *done = [json.loads(line) for line in result.stdout.splitlines()]
    assert failed == {"input": "no.mp4", "error": "there is no file no.mp4: check the path"}
    assert [(one["input"], one["output"], one["frames"]["received"]) for one in done] == [
        (places[0], "out/three.mp4", 3),
        (places[2], "out/four.mkv", 4),
    ]
    for one in done:  # each has references of its own only
        assert one["keyframes"] <= 1
        assert set(one) - {"input"} == {
            *("frames", "well_received", "keyframes", "device", "model", "notes", "output")
        }


def test_all_well_is_exit_code_0(clips, here):
    result = run("enhance", str(clips / "three.mp4"), "--into", "out", COLUMNS="40")
    assert (result.returncode, result.stderr) == (0, "")


def test_a_narrow_terminal_gets_a_list_instead_of_a_table(clips, here):
    """A table would fold its own headers."""
    shutil.copy(clips / "three.mp4", here / "a.mp4")
    shutil.copy(clips / "plain.avi", here / "b.avi")
    result = run("enhance", "a.mp4", "b.avi", "no.mp4", "--into", "out", COLUMNS="40")
    assert max(map(len, result.stdout.splitlines())) <= 40
    first, *rest = result.stdout.splitlines()
    assert first.startswith("a.mp4: 3 frames, 3 enhanced, ")
    words = " ".join(rest).split()
    assert words[:5] == ["b.avi:", "2", "frames,", "0", "enhanced,"]
    assert " ".join(words[7:]) == (
        "no face was found no.mp4: failed: there is no file no.mp4: check the path"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize(
    ("sent", "code", "said"),
    [(signal.SIGINT, 130, "receiver: interrupted\n"), (signal.SIGTERM, 143, "")],
)
def test_an_interruption_prints_what_was_done(sent, code, said, clips, clip, here):
    shutil.copy(clips / "three.mp4", here / "a.mp4")
    shutil.copy(clip, here / "b.mp4")
    shutil.copy(clip, here / "c.mp4")
    command = [sys.executable, "-m", "receiver", "enhance", "a.mp4", "b.mp4", "c.mp4"]
    with subprocess.Popen(
        [*command, "--into", "out"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "100"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        while not list(here.glob("out/.b.*")) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(sent)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (code, said), output
    rows = [line.strip("│").split("│") for line in output.splitlines() if "│" in line]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert [(row[0], row[1], row[4]) for row in cells] == [
        ("a.mp4", "3", ""),
        ("b.mp4", "-", "not finished"),
        ("c.mp4", "-", "not finished"),
    ]
    assert [path.name for path in (here / "out").iterdir()] == ["a.mp4"]


def test_a_folder_is_its_videos_by_name(tmp_path):
    for name in ("b.MOV", "a.webm", ".c.part.mp4", "notes.txt", "deep.mp4/d.mp4", "z.ts"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    found = jobs.jobs_into([str(tmp_path / "in"), "x.mkv"], tmp_path / "out")
    assert [(job.input, job.output) for job in found] == [
        (str(tmp_path / "in" / "a.webm"), str(tmp_path / "out" / "a.mp4")),
        (str(tmp_path / "in" / "b.MOV"), str(tmp_path / "out" / "b.MOV")),
        (str(tmp_path / "in" / "z.ts"), str(tmp_path / "out" / "z.mp4")),
        ("x.mkv", str(tmp_path / "out" / "x.mkv")),
    ]
    assert (tmp_path / "out").is_dir()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["a.mp4", "in/a.avi", "--into", "out"],
            "a.mp4 and in/a.avi would both become out/a.mp4: enhance one separately",
        ),
        (
            ["a.mp4", "a.mp4", "--into", "out"],
            "a.mp4 and a.mp4 would both become out/a.mp4: enhance one separately",
        ),
        (["in", "--into", "in"], "in holds inputs: give --into another folder"),
        (["a.mp4", "--into", "."], ". holds inputs: give --into another folder"),
        (["a.mp4", "--into", "link"], "link holds inputs: give --into another folder"),
        (["empty", "--into", "out"], "there is no video in empty: give another folder"),
        (["a.mp4", "--into", "a.mp4"], "the folder a.mp4 cannot be created: File exists"),
        (["-", "--into", "out"], "standard input has no file name for --into DIR: give IN and OUT"),
        (["a.mp4"], "got 1 name: give IN and OUT, or files and folders and --into DIR"),
        (["a.mp4", "b.mp4", "c.mp4"], "got 3 names: give IN and OUT"),
        (["in", "out.mp4"], "in is a folder: give --into DIR for its videos"),
        (["a.mp4", "in"], "in is a folder: give a file, or --into in"),
        (["a.mp4", "o.webm"], "o.webm has no ending of a video format that can be written: use"),
        (["a.mp4", "o"], "o has no ending of a video format that can be written: use .mp4 or .mkv"),
        (["a.mp4", "./a.mp4"], "a.mp4 is the input itself: give another name"),
        (["a.mp4", "link/a.mp4"], "link/a.mp4 is the input itself: give another name"),
    ],
)
def test_what_is_refused_before_the_network_is_loaded(arguments, sentence, clips, here):
    shutil.copy(clips / "three.mp4", here / "a.mp4")
    (here / "in").mkdir()
    (here / "empty").mkdir()
    (here / "in" / "a.avi").write_text("")
    (here / "link").symlink_to(here)
    before = (here / "a.mp4").read_bytes()
    result = run("enhance", *arguments, "--model", "nosuch")
    assert_one_sentence(result, f"receiver: {sentence}")
    assert (here / "a.mp4").read_bytes() == before
    assert sorted(path.name for path in here.iterdir()) == ["a.mp4", "empty", "in", "link"]


def test_a_network_that_is_missing_ends_it_at_once(clips, here):
    result = run("enhance", str(clips), "--into", "out", "--model", "nosuch")
    assert_one_sentence(result, "there is no model 'nosuch'")


def test_an_input_is_not_replaced_through_a_link(clips, here):
    (here / "real").mkdir()
    shutil.copy(clips / "three.mp4", here / "real" / "a.mp4")
    (here / "a.mp4").symlink_to(here / "real" / "a.mp4")
    result = run("enhance", "a.mp4", "--into", "real")
    assert result.returncode == 1
    assert "real/a.mp4 is the input itself" in result.stderr
    assert frames_of(here / "real" / "a.mp4") == 3
