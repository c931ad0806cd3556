"""`receiver enhance` of one file: signals, names, parts, pipes, terminals, reasons."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from receiver.commands import cli, enhance
from receiver.commands.verdict import why_not_restored
from receiver.enhance.files import frame_total
from tests.commands.conftest import frames_of
from tests.commands.test_cli import assert_one_sentence, run
from tests.conftest import unmeasured

RECEIVER = [sys.executable, "-m", "receiver"]


# Signals


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_leaves_no_unfinished_file(clip, here, name):
    (here / "out.mp4").write_text("an older result")
    number = getattr(signal, name)
    command = [sys.executable, "-m", "receiver", "enhance", str(clip), "out.mp4"]
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # nohup turns SIGHUP off
    ) as process:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:  # until the work has begun
            if any(path.stat().st_size for path in here.glob(".out.*.part.mp4")):
                break
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    assert [path.name for path in here.iterdir()] == ["out.mp4"]
    assert (here / "out.mp4").read_text() == "an older result"


# Names and options


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        (["--", "-x.mp4", "-y.mp4"], "-y.mp4"),
        (["./-x.mp4", "-y.mp4.mkv", "--"], ""),
        (["./-x.mp4", "./-"], ""),
        (["./-x.mp4", "--crf", "30", "o.mp4"], "o.mp4"),
        (["./-x.mp4", "--split", "--", "-y.mkv"], "-y.mkv"),
        (["100%d.mp4", "200%03d.mp4"], "200%03d.mp4"),
        (["12:30:05.mp4", "http://x.mp4"], "http:/x.mp4"),
        (["./-", "o.mp4"], "o.mp4"),
    ],
)
def test_names_that_look_like_something_else(arguments, written, clips, here):
    for name in ("-x.mp4", "100%d.mp4", "12:30:05.mp4", "-"):
        shutil.copy(clips / "three.mp4", here / name)
    result = run("enhance", *arguments)
    if written:
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith(f"{written}: 3 frames")
        assert frames_of(here / written) == 3
    else:
        assert result.returncode == 2
        assert "Traceback" not in result.stderr


def test_an_unknown_option_between_files_is_named():
    result = run("enhance", "a.mp4", "--nope", "b.mp4")
    assert_one_sentence(result, "unrecognized arguments: --nope b.mp4")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("90", 90.0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1:30", 90.0),
        ("00:01:30.250", 90.25),
        ("100:00:00", 360000.0),
    ],
)
def test_times(text, seconds):
    assert cli.parse(["enhance", "a", "b", "--start", text]).start == seconds


@pytest.mark.parametrize(
    "text", ["-1", "nan", "inf", "1e3", "1:60", "60:00:", "1:2:3:4", "", ":", "٣", "9" * 400, "1,5"]
)
def test_invalid_times_are_rejected(text):
    for option in ("--start", "--duration"):
        result = parsing("enhance", "a", "b", f"{option}={text}")
        assert (
            f"argument {option}: {text!r} is not a valid time: give seconds or HH:MM:SS" in result
        )


def test_a_duration_must_be_more_than_0():
    said = "argument --duration: '0:00' is not a valid duration: give more than 0 seconds"
    assert said in parsing("enhance", "a", "b", "--duration", "0:00")


def parsing(*arguments: str) -> str:
    """Returns the error message of the parser, which exits with 2."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), pytest.raises(SystemExit) as stopped:
        cli.parse(list(arguments))
    assert stopped.value.code == 2
    return said.getvalue()


def test_a_part_is_asked_for_and_counted(monkeypatch, clips, here):
    asked = {}

    class EnoughError(Exception):
        """Raised instead of the work."""

    def enhance_file(source, target, enhancer, **options):
        asked.update(options)
        raise EnoughError

    monkeypatch.setattr(enhance, "enhance_file", enhance_file)
    options = ["--start", "0:00.05", "--duration", "2.5", "--device", "cpu"]
    args = cli.parse(["enhance", str(clips / "three.mp4"), "o.mp4", *options])
    with pytest.raises(EnoughError):
        args.run(args)
    assert (asked["start"], asked["duration"]) == (0.05, 2.5)


def test_frames_of_a_part_are_counted(clip):
    assert frame_total(clip) == 40
    assert frame_total(clip, 1.0) == pytest.approx(10, abs=1)
    assert frame_total(clip, 1.0, 0.2) == 6
    assert frame_total(clip, 0.0, 9.0) == pytest.approx(40, abs=1)
    assert frame_total(clip, 9.0) == 0


# Pipes


def piped(*arguments: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*RECEIVER, "enhance", *arguments],
        input=data,
        capture_output=True,
        timeout=120,
        check=False,
    )


def test_standard_input_and_output(clips, here):
    data = (clips / "four.mkv").read_bytes()
    result = piped("-", "-", data=data)
    assert result.returncode == 0, result.stderr
    assert result.stderr.startswith(b"standard output: 4 frames, ")
    (here / "out.mkv").write_bytes(result.stdout)
    assert result.stdout.startswith(b"\x1aE\xdf\xa3")  # EBML
    assert frames_of(here / "out.mkv") == 4
    result = piped("-", "o.mp4", "--json", data=data)
    assert json.loads(result.stdout)["output"] == "o.mp4"
    result = piped(str(clips / "four.mkv"), "--json", "-")
    assert json.loads(result.stderr)["output"] == "-"
    assert result.stdout.startswith(b"\x1aE\xdf\xa3")


@pytest.mark.parametrize(
    ("closed", "arguments", "sentence"),
    [
        ("<&-", ["-", "o.mp4"], "standard input is closed: send a video to it, or name a file"),
        (">&-", ["four.mkv", "-"], "standard output is closed: send it to a file, or name a"),
        (">/dev/full", ["four.mkv", "-"], "standard output cannot be used (No space left on de"),
    ],
)
def test_a_pipe_that_cannot_be_used_is_named(closed, arguments, sentence, clips, here):
    shutil.copy(clips / "four.mkv", here)
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", *RECEIVER, "enhance", *arguments]
    result = subprocess.run(
        [*command, "--model", "nosuch"], capture_output=True, text=True, timeout=60, check=False
    )
    assert_one_sentence(result, f"receiver: {sentence}")


def test_a_disk_that_fills_up_is_reported_once(clips, here):
    command = ["sh", "-c", 'ulimit -f 1; exec "$@" >out.mkv', "sh", *RECEIVER, "enhance"]
    result = subprocess.run(
        [*command, str(clips / "four.mkv"), "-"],
        capture_output=True,
        text=True,
        env=unmeasured(),
        check=False,
    )
    assert_one_sentence(result, "receiver: standard output cannot be written")


def test_a_reader_that_leaves_ends_the_work(clips):
    reading, writing = os.pipe()
    os.close(reading)
    command = [*RECEIVER, "enhance", str(clips / "four.mkv"), "-"]
    result = subprocess.run(
        command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120, check=False
    )
    os.close(writing)
    assert result.returncode == 2
    assert result.stderr.startswith("receiver: standard output cannot be written")
    assert len(result.stderr.splitlines()) == 1


# Terminals


def on_terminal(*arguments: str, **environment: str) -> tuple[int, str]:
    """Runs the command on a terminal of 80 columns; returns its exit code and all that it shows."""
    import pty  # not on Windows

    ours, its = pty.openpty()
    process = subprocess.Popen(
        [*RECEIVER, "enhance", *arguments],
        stdin=its,
        stdout=its,
        stderr=its,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "80"} | environment,
    )
    os.close(its)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
    os.close(ours)
    return process.wait(60), shown.decode()


def test_progress_shows_frames_speed_and_time_left_and_disappears(clips, here):
    code, shown = on_terminal(str(clips / "four.mkv"), "o.mp4", NO_COLOR="1")
    assert code == 0
    assert " 4/4 " in shown
    assert " fps " in shown
    assert "0:00:00" in shown
    after = shown.split("\x1b[?25h")[-1]  # the cursor is there again
    assert after.startswith("\r\x1b[1A\x1b[2Ko.mp4: 4 frames")  # in the bar's place


@pytest.mark.parametrize("arguments", [["text.mp4", "o.mp4"], ["no.mp4", "o.mp4"]])
def test_a_failure_before_the_first_frame_shows_no_bar(arguments, here):
    (here / "text.mp4").write_text("no video")
    code, shown = on_terminal(*arguments)
    assert (code, shown.count("\n"), shown.count("\x1b")) == (2, 1, 0)


@pytest.mark.parametrize("options", [["--json"], []])
def test_there_is_no_bar_on_a_dumb_terminal_or_beside_json(options, clips, here):
    code, shown = on_terminal(str(clips / "four.mkv"), "o.mp4", *options, TERM="dumb")
    assert (code, shown.count("\n"), shown.count("\x1b"), "fps" in shown) == (0, 1, 0, False)


def test_a_video_is_not_written_to_a_terminal_nor_read_from_one(clips):
    code, shown = on_terminal(str(clips / "four.mkv"), "-", "--model", "nosuch")
    assert code == 2
    assert shown.startswith("receiver: standard output is a terminal: send it to a file")
    code, shown = on_terminal("-", "o.mp4", "--model", "nosuch")
    assert code == 2
    assert shown.startswith("receiver: standard input is a terminal: send a video to it")


# What became of the frames


def test_nothing_restored_has_its_reason(clips, here):
    result = run("enhance", str(clips / "plain.avi"), "o.mp4")
    first, second = result.stdout.splitlines()
    assert first.startswith(
        "o.mp4: 2 frames, 0 enhanced, 0 already of high quality, 2 without a face"
    )
    assert second == "Nothing was restored: no face was found."


def test_a_strength_of_0_is_named_as_the_reason(clips, here):
    result = run("enhance", str(clips / "three.mp4"), "o.mp4", "--strength", "0")
    first, second = result.stdout.splitlines()
    counts = "3 frames, 0 enhanced, 0 already of high quality, 3 unchanged"
    assert first.startswith(f"o.mp4: {counts}")
    assert second == "Nothing was restored: --strength is 0."


@pytest.mark.parametrize(
    ("counts", "clause"),
    [
        ((0, 0), "no frame arrived"),
        ((10, 0), "no face was found"),
        ((10, 1), None),
        ((10, 0, 1), "1 of 10 frames needed no restoration"),
        ((10, 4, 4), None),
        ((10, 0, 0, 10), "this machine was too busy: 10 of 10 frames were passed through, because"),
        ((10, 9, 0, 1), None),
        ((10, 0, 0, 0, 10), "restoring 10 of 10 frames failed"),
        ((10, 9, 0, 0, 1), None),
    ],
)
def test_why_frames_were_not_restored(counts, clause):
    reason = why_not_restored(*counts)
    if clause is None:
        assert reason is None
    else:
        assert reason is not None
        assert reason.clause.startswith(clause)
