"""The latency bench composes its frames, follows the paper's method and writes all figures."""

import json
from fractions import Fraction
from itertools import cycle

import cv2
import numpy as np
import pytest

from bench.latency import command as latency
from bench.latency import comparison
from bench.latency.composition import composed, encode
from bench.latency.paper_method import (
    PaperMethod,
    mls_every_pixel,
    nearest,
    paste,
    warp_every_pixel,
)
from bench.latency.stages import STAGES
from keyframes import Keyframe
from keyframes.mls import mls_map
from receiver.enhance.faces.alignment import CROP, crop_from_frame, transform
from receiver.enhance.faces.tracking import FaceTracker
from receiver.errors import InputError
from receiver.media.frame import DecodedFrame
from receiver.media.planes import planes
from receiver.sending.portrait import FPS
from receiver.sending.sources import Source, evenly
from tests.conftest import RATE, plain_frame

METHODS = ("ours", "paper")
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
        (["--paper-frames", "-1"], "'-1' in --paper-frames is not a valid number: give 1 to 1000"),
        (["--against", "magic"], "'magic' in --against is unknown: give paper, or leave it out"),
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
    """A stand-in for the paper's network: returns the crop at once."""

    def __init__(self, device: str) -> None:
        self.device = device

    def restore(self, degraded, reference, landmarks):
        assert reference.shape == degraded.shape == (CROP, CROP, 3)
        assert (landmarks.shape, landmarks.max()) == ((CROP, CROP), 255)
        return degraded.astype(np.float32) / np.float32(255.0)


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
    monkeypatch.setattr(latency, "Vgg19Network", NoNetwork)
    monkeypatch.setattr(comparison, "BLOCK", 4)
    figures, plot = tmp_path / "new" / "latency.json", tmp_path / "latency.png"
    options = ["--sizes", "480p,360p", "--calls", "2", "--cold", "--against", "paper"]
    files = ["--json", str(figures), "--plot", str(plot)]
    # Long enough for a call to outlast its warm-up on a busy machine.
    latency.main(["--frames", "30", "--paper-frames", "1", *options, *files])
    written = json.loads(figures.read_text())
    assert set(written) == {"machine", "size", "runs", "cold", "paper"}
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
    assert [paper["scene"] for paper in written["paper"]] == ["480p, 1 face", "360p, 1 face"]
    for paper in written["paper"]:
        assert (paper["ours"]["frames"], paper["paper"]["frames"]) == (4, 2)
        assert all(0 <= paper[method]["restored"] <= paper[method]["frames"] for method in METHODS)
        assert paper["ratio"] == pytest.approx(paper["ours"]["fps"] / paper["paper"]["fps"])
        assert set(paper["paper"]["stages_ms"]) == set(paper["ours"]["stages_ms"])
    assert "is not trained: it is timed, not judged" in " ".join(capsys.readouterr().out.split())
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
