"""The latency bench composes its frames, follows the paper's method and writes all figures."""

import json
import time
from fractions import Fraction
from itertools import cycle

import cv2
import numpy as np
import pytest

from bench.latency import command as latency
from bench.latency import comparison
from bench.latency.comparison import Enlarging
from bench.latency.composition import composed, encode
from bench.latency.paper_method import (
    PaperMethod,
    mls_every_pixel,
    nearest,
    paste,
    warp_every_pixel,
)
from bench.latency.stages import STAGES
from bench.latency.tables import forms_table, methods_table, notes_of, summary_of
from bench.rivals.naming import rivals_of
from bench.rivals.resizing import BICUBIC, Resized
from keyframes import Keyframe
from keyframes.mls import mls_map
from receiver.enhance.faces.alignment import CROP, crop_from_frame, transform
from receiver.enhance.faces.tracking import FaceTracker
from receiver.errors import InputError
from receiver.media.frame import DecodedFrame
from receiver.media.planes import planes
from receiver.sending.portrait import FPS
from receiver.sending.sources import Source, evenly
from receiver.stats import Stats
from tests.conftest import RATE, plain_frame

AGAINST = ("paper", "bicubic", "paper-mobilenet-small", "paper-mobilenet-large")
SLEEPS = {"paper": 2.0, "paper-mobilenet-small": 0.0, "paper-mobilenet-large": 1.0}
"""Seconds of the stand-ins for the paper's networks."""
TIMES = {"median", "p95", "p99"}


@pytest.fixture(scope="module")
def source(portrait) -> Source:
    """The demo's own clip, shortened and repeated without end."""
    return Source(lambda: evenly(cycle(portrait), RATE), 640, 480, RATE)


@pytest.fixture(scope="module")
def face(portrait):
    """Landmarks of the portrait's face in pixels of the frame."""
    return FaceTracker().find(planes(portrait[0])[0])[0].landmarks


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--sizes", "480p,4k"],
            "'4k' in --sizes is not a size: give any of 360p, 480p, 720p, 1080p",
        ),
        (["--faces", "5"], "'5' in --faces is not a valid number: give 1 to 4"),
        (["--faces", "1,,2"], "'' in --faces is not a valid number: give 1 to 4"),
        (["--calls", "0"], "'0' in --calls is not a valid number: give 1 to 16"),
        (["--frames", "many"], "'many' in --frames is not a valid number: give 1 to 3000"),
        (["--rival-frames", "-1"], "'-1' in --rival-frames is not a valid number: give 1 to 1000"),
        (
            ["--against", "paper,magic"],
            "'magic' in --against is unknown: give any of paper, paper-mobilenet-small, "
            "paper-mobilenet-large, bicubic, lanczos, deblock, or the file of a network: "
            "FSRCNN x2 or ESPCN x2 (.pb), light SAFMN++ x4 (.pth), with commas between them",
        ),
        (["--against", "magic", "--against", "bicubic"], "'magic' in --against is unknown: "),
        (["--against", "bicubic,"], "'' in --against is unknown: give any of paper, "),
        (["--against", "/nowhere.pb"], "there is no file /nowhere.pb; give bicubic, lanczos, "),
        (["--clip", "/nowhere.mp4"], "there is no file /nowhere.mp4"),
    ],
)
def test_a_bad_value_is_named_with_the_way_out(arguments, sentence):
    with pytest.raises(InputError) as refused:
        latency.main(arguments)
    assert sentence in str(refused.value)


def test_repeated_values_are_measured_once():
    args = latency.parse(["--sizes", "720p,360p,720p", "--faces", "2,2,1", "--calls", "1,1"])
    assert args.sizes == [(1280, 720), (640, 360)]
    assert (args.faces, args.calls) == ([2, 1], [1])


@pytest.mark.parametrize("size", [(640, 360), (640, 480), (1920, 1080)])
@pytest.mark.parametrize("faces", [1, 2, 3, 4])
def test_every_composed_face_is_found(source, size, faces):
    frame = next(composed(source, *size, faces).frames())
    assert (frame.width, frame.height) == size
    tracker = FaceTracker()
    found = max((tracker.find(planes(frame)[0]) for _ in range(2)), key=len)
    assert len(found) == faces
    assert all(one.box[3] - one.box[1] > 115 for one in found)  # the detector rounds


def test_faces_of_one_frame_move_differently(source):
    luma = planes(next(composed(source, 640, 480, 2).frames()))[0]
    assert not np.array_equal(luma[:, :320], luma[:, 320:])


def test_a_source_of_the_same_size_is_not_composed(source):
    assert composed(source, 640, 480, 1) is source


def test_a_clip_that_begins_without_a_face_is_refused():
    empty = Source(lambda: iter([plain_frame()]), 320, 240, RATE)
    with pytest.raises(InputError, match="no face is in the clip's first frame: give a clip"):
        composed(empty, 640, 360, 1)


def test_packets_have_the_clip_s_times(source):
    packets = encode(source, 100, 4)
    assert [packet.timestamp for packet in packets] == [90000 // FPS * n for n in range(4)]


def moved_landmarks(face):
    source = transform(face, crop_from_frame(face))
    shift = np.random.default_rng(1).normal(0.0, 3.0, source.shape)
    return source, (source + shift).astype(np.float32)


def test_mls_for_every_pixel_is_the_mls_of_the_coarse_grid(face):
    source, target = moved_landmarks(face)
    every = mls_every_pixel(source, target, CROP)
    grid = np.stack(np.meshgrid(*[np.arange(0, CROP, 16)] * 2), axis=-1).reshape(-1, 2)
    coarse = mls_map(source, target, grid.astype(np.float64))
    assert np.abs(every[grid[:, 1], grid[:, 0]] - coarse).max() < 1e-3


def test_mls_takes_landmarks_to_landmarks(face):
    source, target = moved_landmarks(face)
    target = np.rint(target)  # to pixels
    inside = np.all((target >= 0) & (target < CROP), axis=1)
    x, y = target[inside].astype(int).T
    every = mls_every_pixel(source, target, CROP)
    assert np.abs(every[y, x] - source[inside]).max() < 0.5


def test_an_unchanged_pose_leaves_the_picture_unchanged(face):
    source, _ = moved_landmarks(face)
    picture = np.random.default_rng(2).integers(0, 256, (CROP, CROP, 3), dtype=np.uint8)
    assert np.array_equal(warp_every_pixel(picture, source, source), picture)


def test_nearest_keyframe_is_by_landmarks():
    pictures = [np.zeros((CROP, CROP, 3), np.uint8)] * 3
    poses = [np.full((68, 2), value, np.float32) for value in (10, 20, 20)]
    keyframes = [Keyframe(*pair) for pair in zip(pictures, poses, strict=True)]
    assert nearest(keyframes, poses[0] + 6) is keyframes[1]


def test_pasting_back_leaves_pixels_outside_of_the_crop_unchanged(portrait, face):
    picture = portrait[0].to_ndarray(format="rgb24")
    to_crop = crop_from_frame(face)
    pasted = paste(picture, np.full((CROP, CROP, 3), 0.5, np.float32), to_crop)
    rows, columns = np.indices(picture.shape[:2])
    places = np.stack([columns, rows], axis=-1).reshape(-1, 2).astype(np.float32)
    places = transform(places, to_crop).reshape(*picture.shape[:2], 2)
    outside = np.any((places < -1.5) | (places > CROP + 0.5), axis=-1)
    inside = np.all((places > 1) & (places < CROP - 2), axis=-1)
    assert outside.any()
    assert np.array_equal(pasted[outside], picture[outside])
    assert np.abs(pasted[inside].astype(int) - 128).max() <= 1


class NoNetwork:
    """A stand-in for the paper's network: returns the crop after `seconds`."""

    def __init__(self, device: str, seconds: float = 0.0) -> None:
        self.device, self.runtime, self._seconds = device, "nothing", seconds

    def restore(self, degraded, reference, landmarks):
        assert reference.shape == degraded.shape == (CROP, CROP, 3)
        assert (landmarks.shape, landmarks.max()) == ((CROP, CROP), 255)
        time.sleep(self._seconds)
        return degraded.astype(np.float32) / np.float32(255.0)


def no_network_of(form, device, threads):
    return NoNetwork(device, SLEEPS[form])


@pytest.fixture(scope="module")
def method() -> PaperMethod:
    """The paper's method with a network that changes nothing."""
    return PaperMethod(NoNetwork("cpu"))


def test_the_paper_s_method_changes_little_if_its_network_changes_nothing(method, portrait):
    portrait[0].pts, portrait[0].time_base = 3000, Fraction(1, 90000)
    output = method.enhance(DecodedFrame(portrait[0], is_keyframe=True, qp=None))
    assert output is not portrait[0]
    assert (output.pts, output.time_base) == (3000, portrait[0].time_base)
    before, after = (planes(frame)[0].astype(int) for frame in (portrait[0], output))
    assert np.abs(before - after).mean() < 2


def test_the_paper_s_method_passes_a_frame_without_a_face_through(method):
    frame = DecodedFrame(plain_frame(), is_keyframe=True, qp=None)
    assert method.enhance(frame) is frame.video


def test_a_small_run_writes_all_figures(source, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(latency, "portrait_source", lambda: source)
    monkeypatch.setattr(latency, "get_args", lambda _: ["cpu"])
    monkeypatch.setattr(latency, "COLD_RUNS", 1)
    monkeypatch.setattr(latency, "WARM_UP_FRAMES", 5)
    monkeypatch.setattr(latency, "network_of", no_network_of)
    monkeypatch.setattr(comparison, "BLOCK", 4)
    figures, plot = tmp_path / "new" / "latency.json", tmp_path / "latency.png"
    options = ["--sizes", "480p,360p", "--calls", "2", "--cold", "--against", ",".join(AGAINST)]
    files = ["--json", str(figures), "--plot", str(plot)]
    # Long enough for a call to outlast its warm-up on a busy machine.
    latency.main(["--frames", "30", "--rival-frames", "1", *options, *files])
    written = json.loads(figures.read_text())
    assert set(written) == {"machine", "size", "runs", "cold", "against"}
    assert [(run["size"], run["faces"]) for run in written["runs"]] == [("480p", 1), ("360p", 1)]
    for run in written["runs"]:
        assert run["fps"] > 0
        assert set(run["stages_ms"]) == {*STAGES, "whole frame"}
        assert all(set(measured) == TIMES for measured in run["stages_ms"].values())
        (calls,) = run["paced"]
        assert (calls["calls"], len(calls["each"])) == (2, 2)
        for call in calls["each"]:
            ends = ("restored", "skipped", "untouched", "dropped")
            assert 0 < call["frames"] == sum(call[end] for end in ends) <= 30
            assert set(call["stages_ms"]) == set(STAGES)
            assert call["end_to_end_ms"]["median"] >= call["added_latency_ms"]["median"] > 0
    (cold,) = written["cold"]
    assert 0 < cold["import_s"] < cold["first_restored_s"]
    assert cold["peak_rss_mb"] > 100
    scenes = [compared["scene"] for compared in written["against"]]
    assert scenes == ["480p, 1 face", "360p, 1 face"]
    for compared in written["against"]:
        methods = compared["methods"]
        assert list(methods) == ["ours", *AGAINST]
        assert [one["frames"] for one in methods.values()] == [4, 2, 2, 2, 2]
        restored = [methods[name]["restored"] for name in AGAINST]
        # The narrow scene's face is found in few frames, or in none.
        assert restored == [2, 2, 2, 2] if compared["size"] == "480p" else restored[1] == 2
        assert [one["enlarges"] for one in methods.values()] == [False, False, True, False, False]
        if compared["size"] == "480p":
            assert compared["fastest"] == "paper-mobilenet-small"
        elif not any(methods[name]["restored"] for name in SLEEPS):
            assert compared["fastest"] is None
        assert methods["ours"]["factor"] == 1
        for one in methods.values():
            assert one["factor"] == pytest.approx(methods["ours"]["fps"] / one["fps"])
            whole = one["stages_ms"]["whole frame"]["median"] + one["stages_ms"]["decode"]["median"]
            assert one["fps"] == pytest.approx(1000 / whole)
            assert set(one["stages_ms"]) == {*STAGES, "copy", "whole frame"} - {"output"}
        assert methods["paper"]["runtime"] == "nothing"
        assert methods["bicubic"]["runtime"] == "swscale"
        assert methods["ours"]["runtime"].startswith("ONNX Runtime, ")
    printed = " ".join(capsys.readouterr().out.split())
    assert "480p, 1 face: the fastest published form here is paper-mobilenet-small" in printed
    assert cv2.imread(str(plot)).shape[1] > 800


def test_ctrl_c_keeps_what_was_measured(source, tmp_path, monkeypatch, capsys):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(latency, "portrait_source", lambda: source)
    monkeypatch.setattr(latency, "get_args", lambda _: ["cpu"])
    monkeypatch.setattr(latency, "run_calls", stopped)
    figures = tmp_path / "latency.json"
    files = ["--json", str(figures), "--plot", str(tmp_path / "latency.png")]
    with pytest.raises(KeyboardInterrupt):
        latency.main(["--frames", "3", *files])
    (run,) = json.loads(figures.read_text())["runs"]
    assert run["frames"] == 3
    assert "generator" in capsys.readouterr().out


def compared_of(fastest=None, **fps):
    """A comparison of methods with these frames a second, as `Comparison.figures` describes it."""
    stages = {"generator": dict.fromkeys(TIMES, 2.0), "whole frame": dict.fromkeys(TIMES, 3.25)}
    methods = {
        name.replace("_", "-"): {
            "device": "cpu",
            "runtime": "ONNX Runtime, 1 thread",
            "enlarges": name == "bicubic",
            "frames": 4,
            "restored": 3,
            "fps": value,
            "factor": fps["ours"] / value,
            "stages_ms": stages,
        }
        for name, value in fps.items()
    }
    return {"scene": "480p, 1 face", "methods": methods, "fastest": fastest}


def test_the_summary_states_the_factor_against_the_fastest_published_form():
    compared = compared_of(ours=60.0, paper=0.5, paper_mobilenet_small=4.0, bicubic=500.0)
    assert summary_of(compared) is None
    compared["fastest"] = "paper-mobilenet-small"
    assert summary_of(compared) == (
        "480p, 1 face: the fastest published form here is paper-mobilenet-small (ONNX Runtime, "
        "1 thread) with 4.00 frames a second; ours makes 60.0, 15.0 times as many"
    )


def test_the_table_has_a_row_for_each_method():
    compared = compared_of(ours=60.0, paper=0.5, bicubic=500.0)
    compared["fastest"] = "paper"
    table = methods_table(compared)
    rows = list(zip(*([*column.cells] for column in table.columns), strict=True))
    run_by = "ONNX Runtime, 1 thread, cpu"
    assert rows == [
        ("ours", "3.25", "3.25", "60.0", "", "3 of 4", run_by),
        ("paper", "3.25", "3.25", "0.50", "120.00", "3 of 4", run_by),
        ("bicubic", "3.25", "3.25", "500.00", "0.12", "3 of 4", run_by),
    ]
    forms = forms_table(compared, ["paper"])
    assert [column.header for column in forms.columns] == ["stage", "ours", "paper"]
    rows = list(zip(*([*column.cells] for column in forms.columns), strict=True))
    assert rows == [("generator", "2.00", "2.00"), ("whole, decoded", "3.25", "3.25")]


def test_the_notes_say_what_the_figures_are_of():
    gpu, halved = "44 frames a second in the paper are of a GPU (RTX 2080 Ti)", "half its width"
    both = " ".join(notes_of(compared_of(ours=60.0, paper=0.5, bicubic=500.0, fastest="paper")))
    assert gpu in both
    assert "are not trained: they are timed, not judged" in both
    assert halved in both
    assert halved not in " ".join(notes_of(compared_of(ours=60.0, paper=0.5, fastest="paper")))
    assert gpu not in " ".join(notes_of(compared_of(ours=60.0, bicubic=500.0)))


def test_methods_keep_the_order_of_the_option():
    names, network = ["bicubic", "paper", "lanczos"], NoNetwork("cpu")
    methods = latency.methods_of(names, {"paper": network}, rivals_of(["bicubic", "lanczos"]))
    assert list(methods) == names
    assert [type(one) for one in methods.values()] == [Enlarging, PaperMethod, Enlarging]


class Seen:
    """A method that notes its frames and changes nothing."""

    runtime = "nothing"

    def __init__(self) -> None:
        self.stats, self.frames = Stats("cpu"), []

    def enhance(self, frame):
        self.frames.append(frame.video)
        return frame.video


def test_rivals_get_the_same_frames_and_whole_frame_rivals_get_them_at_half_the_size(
    source, generator, monkeypatch
):
    monkeypatch.setattr(comparison, "BLOCK", 4)
    monkeypatch.setattr(comparison, "PAUSE", 0.0)
    asked = []

    class Noting(Resized):
        def show(self, frame, width, height):
            asked.append((frame, width, height))
            return super().show(frame, width, height)

    one, other = Seen(), Seen()
    enlarging = Enlarging(Noting("bicubic", BICUBIC))
    compared = comparison.Comparison(generator, {"a": one, "b": other, "c": enlarging})
    assert compared.run(encode(source, 100, 12), 2) is False
    assert len(one.frames) == 6
    assert all(a is b for a, b in zip(one.frames, other.frames, strict=True))
    assert {(frame.width, frame.height, *size) for frame, *size in asked} == {(320, 240, 640, 480)}
    for (small, *_), frame in zip(asked, one.frames, strict=True):
        luma = planes(frame)[0].astype(float).reshape(240, 2, 320, 2).mean(axis=(1, 3))
        assert np.abs(luma - planes(small)[0]).max() <= 2
    figures = compared.figures(["generator"])
    assert figures["fastest"] is None
    assert [one["frames"] for one in figures["methods"].values()] == [8, 4, 4, 4]  # timed ones
    assert [one["restored"] for one in figures["methods"].values()][1:] == [0, 0, 4]


def test_a_form_that_restored_nothing_is_not_the_fastest(source, generator, monkeypatch):
    monkeypatch.setattr(comparison, "BLOCK", 4)
    monkeypatch.setattr(comparison, "PAUSE", 0.0)
    slow, idle = Seen(), Seen()
    compared = comparison.Comparison(generator, {"paper": slow, "paper-mobilenet-small": idle})
    assert compared.run(encode(source, 100, 8), 1) is False
    assert compared.figures([])["fastest"] is None
    slow.stats.frames.enhanced = 1
    for _ in range(9):
        slow.stats.add(comparison.WHOLE, 9.0)
    assert compared.figures([])["fastest"] == "paper"
    idle.stats.frames.enhanced = 1
    assert compared.figures([])["fastest"] == "paper-mobilenet-small"
