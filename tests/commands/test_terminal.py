"""Unusual terminals and pipes (closed, full, ASCII only, narrow), and names of any bytes."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from receiver.commands import progress, terminal
from receiver.text import escaped
from tests.commands.test_cli import run
from tests.conftest import write_clip

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")

RECEIVER = [sys.executable, "-m", "receiver"]
DOCTOR = ["doctor", "--device", "cpu"]
MISSING = ["doctor", "--model", "nosuch"]  # exits with 1
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}


def shell(redirection: str, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command under a shell's redirection, such as `>&-`."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *command],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
        check=False,
    )


@pytest.fixture(scope="module")
def short(portrait, tmp_path_factory) -> Path:
    """A clip of three frames."""
    path = tmp_path_factory.mktemp("short") / "short.mp4"
    write_clip(path, portrait[:3], with_audio=False)
    return path


@pytest.mark.parametrize(
    ("arguments", "code"), [(DOCTOR, 0), (MISSING, 1), (["--help"], 0), (["fly"], 2)]
)
def test_a_reader_that_has_gone_changes_nothing(arguments, code):
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run(
        [*RECEIVER, *arguments],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    os.close(writing)
    assert result.returncode == code
    assert "Traceback" not in result.stderr
    assert "Errno" not in result.stderr
    assert code == 2 or result.stderr == ""


@pytest.mark.parametrize("buffered", ["", "1"])
@pytest.mark.parametrize(
    ("redirection", "arguments", "code", "said"),
    [
        (">&-", DOCTOR, 0, ""),
        (">&-", MISSING, 1, ""),
        (">/dev/full", MISSING, 1, "receiver: standard output cannot be written: "),
        (">/dev/full", ["--help"], 2, "receiver: standard output cannot be written: "),
        ("2>&-", ["enhance", "no.mp4", "out.mp4"], 2, ""),
        ("2>/dev/full", ["enhance", "no.mp4", "out.mp4"], 2, ""),
        ("<&- >&- 2>&-", ["enhance", "no.mp4", "out.mp4"], 2, ""),
    ],
)
def test_streams_that_are_closed_or_full(redirection, arguments, code, said, buffered):
    result = shell(redirection, *RECEIVER, *arguments, PYTHONUNBUFFERED=buffered)
    assert result.returncode == code
    assert result.stdout == ""
    if said:
        assert result.stderr == f"{said}No space left on device\n"
    else:
        assert result.stderr == ""


def test_a_file_is_not_taken_for_a_closed_standard_output(short, tmp_path):
    """Otherwise the first opened file would get the descriptor of the closed stream."""
    target = tmp_path / "out.mkv"
    result = shell("<&- >&- 2>&-", *RECEIVER, "enhance", str(short), str(target))
    assert result.returncode == 0
    assert run("enhance", str(target), str(tmp_path / "again.mp4")).stdout.count("3 frames") == 1


def test_a_server_outlives_its_closed_output(free_port):
    command = f'exec "$@" --port {free_port} --calls 1 >&- 2>&-'
    arguments = ["sh", "-c", command, "sh", *RECEIVER, "serve", "--device", "cpu"]
    with subprocess.Popen(arguments) as server:
        try:
            assert answers(f"http://127.0.0.1:{free_port}/healthz")
        finally:
            server.send_signal(signal.SIGINT)
        assert server.wait(20) in (0, terminal.INTERRUPTED)


def answers(url: str, tries: int = 300) -> bool:
    for _ in range(tries):
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return bool(answer.read())
        except OSError:
            signal.sigtimedwait([], 0.1)
    return False


@pytest.fixture
def free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.parametrize(
    ("environment", "name"),
    [({"PYTHONIOENCODING": "ascii"}, "\\xf6"), (ASCII, "\\udcc3\\udcb6")],  # then names are bytes
)
def test_an_ascii_terminal_is_given_escapes(short, tmp_path, environment, name):
    source, target = tmp_path / "ü.mp4", tmp_path / "ö.mp4"
    os.link(short, source)
    result = run("enhance", str(source), str(target), **environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"{tmp_path}/{name}.mp4: 3 frames")
    assert result.stderr == ""
    assert target.is_file()


def test_an_ascii_terminal_is_given_ascii_boxes():
    result = run(*MISSING, **ASCII)
    assert result.returncode == 1
    assert result.stdout.isascii()
    assert "+--" in result.stdout
    assert "\\u" not in result.stdout


def test_a_narrow_terminal_without_colour():
    result = run(*MISSING, COLUMNS="40", NO_COLOR="1", TERM="dumb")
    assert result.returncode == 1
    lines = result.stdout.splitlines()
    assert max(map(len, lines[:-1])) == 40  # the last one is a sentence
    assert "\x1b" not in result.stdout
    assert "nosuch" in result.stdout
    assert run("enhance", "--help", COLUMNS="40").returncode == 0


@pytest.mark.parametrize("columns", ["1", "0", "-5", "many"])
def test_any_width(columns):
    result = run(*MISSING, COLUMNS=columns)
    assert (result.returncode, result.stderr) == (1, "")


def test_names_that_are_markup_are_text():
    result = run("doctor", "--model", "[/red]:fire:.onnx", COLUMNS="200")
    assert (result.returncode, result.stderr) == (1, "")
    assert "[/red]:fire:.onnx" in result.stdout


def test_bytes_that_are_no_utf_8(short, tmp_path):
    source, target = (os.fsencode(tmp_path) + name for name in (b"/a\xff.mp4", b"/b\xff.mp4"))
    os.link(short, source)
    names = os.fsdecode(source), os.fsdecode(target)
    result = run("enhance", *names)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"{tmp_path}/b\\udcff.mp4: 3 frames")
    result = run("enhance", *names, "--json")
    assert json.loads(result.stdout)["output"] == f"{tmp_path}/b\\udcff.mp4"
    assert sorted(os.listdir(os.fsencode(tmp_path))) == [b"a\xff.mp4", b"b\xff.mp4"]
    result = run("enhance", os.fsdecode(target + b"no"), "out.mp4")
    assert result.returncode == 2
    assert result.stderr == (
        f"receiver: there is no file {tmp_path}/b\\udcff.mp4no: check the path\n"
    )


def test_control_characters_of_a_name_are_escaped():
    name = "a\x1b[31m\nb\u202e\u00a0c.mp4"
    result = run("enhance", name, "out.mp4")
    said = "a\\x1b[31m\\nb\\u202e\u00a0c.mp4"
    assert result.stderr == f"receiver: there is no file {said}: check the path\n"
    result = run("enhance", "a", "b", f"--{name}")
    assert f"unrecognized arguments: --{said}" in result.stderr
    assert "\x1b" not in result.stderr


def test_escapes_leave_nothing_out():
    assert escaped("a b\u3000c ü 🙂") == "a b\u3000c ü 🙂"
    assert escaped("\t\x7f\x85\u2028\ud800\U000e0001") == ("\\t\\x7f\\x85\\u2028\\ud800\\U000e0001")


def test_json_is_taken_by_any_reader():
    value = {"a": [1.5, float("nan"), ("x\udcff🙂", float("-inf"))], "b": None, "c": {"d": True}}
    line = terminal.json_line(value)
    assert line.isascii()
    assert json.loads(line) == {
        "a": [1.5, None, ["x\\udcff🙂", None]],
        "b": None,
        "c": {"d": True},
    }
    result = run("doctor", "--model", os.fsdecode(b"\xff.onnx"), "--json")
    assert "\\udcff.onnx" in json.loads(result.stdout)["findings"][-5]["name"]


def interrupting(folder: Path, module: str) -> dict[str, str]:
    """Returns an environment in which loading `module` meets Ctrl-C as modules in C do."""
    (folder / f"{module}.py").write_text(
        "import os, signal\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt:\n"
        "    raise ImportError('initialization failed')\n"
    )
    return {"PYTHONPATH": f"{folder}:{Path.cwd()}"}


@pytest.mark.parametrize("module", ["cv2", "dlib"])
@pytest.mark.parametrize(
    ("command", "name"),
    [(["receiver", "doctor"], "receiver"), (["bench", "quality", "no"], "bench quality")],
)
def test_ctrl_c_while_modules_are_loaded(tmp_path, module, command, name):
    result = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | interrupting(tmp_path, module),
        check=False,
    )
    assert (result.returncode, result.stdout) == (130, "")
    assert result.stderr == f"{name}: interrupted\n"


def test_ctrl_c_that_a_shell_has_disabled_stays_disabled(tmp_path):
    """As for a command in the background of a script."""
    (tmp_path / "dlib.py").write_text(
        "import os, signal, sys\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        f"sys.path.remove({str(tmp_path)!r})\n"
        "del sys.modules['dlib']\n"
        "import dlib\n"
    )
    command = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *RECEIVER, "--help"]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{Path.cwd()}"}
    result = subprocess.run(command, capture_output=True, timeout=60, env=environment, check=False)
    assert (result.returncode, result.stderr) == (0, b"")


def test_a_bench_without_a_reader():
    result = shell(">/dev/full", sys.executable, "-m", "bench", "--help")
    assert result.returncode == 2
    assert result.stderr == "bench: standard output cannot be written: No space left on device\n"
    result = shell(">&-", sys.executable, "-m", "bench", "fuzz", "--only", "nosuch", "--count", "1")
    assert result.returncode == 2
    assert result.stderr.startswith("bench fuzz: there is no target 'nosuch'")


def test_names_in_the_log_are_escaped(short, tmp_path):
    (tmp_path / ".o\x1b[31m.0123456789abcdef.part.mp4").write_text("")
    result = run("enhance", str(short), f"{tmp_path}/o\x1b[31m.mp4")
    assert result.returncode == 0
    assert ".o\\x1b[31m.0123456789abcdef.part.mp4" in result.stderr
    assert "\x1b" not in result.stderr + result.stdout


def test_without_a_terminal_there_is_no_bar(capsys):
    with progress.frames_bar(quiet=False) as bar:
        bar.update(bar.add_task("enhancing", total=2), completed=1)
    assert capsys.readouterr() == ("", "")
