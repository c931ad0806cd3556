"""Outputs whose frames are larger than the input, or change their size."""

import os
import re
import subprocess
import sys
import threading
import types
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from receiver.commands.loopback import PANELS, Moment, Recorder, face_crops
from receiver.enhance.faces.alignment import psnr_db
from receiver.enhance.faces.tracking import FaceTracker
from receiver.enhance.stage import EnhancedFrame
from receiver.media.files.recording import FileOutput
from receiver.media.frame import DecodedFrame
from receiver.media.outputs import LARGEST_SHOWN, VirtualCamera
from receiver.media.planes import planes
from receiver.media.views import side_by_side
from tests.commands.test_window import needs_screen

pytestmark = pytest.mark.slow


def flat(width: int, height: int, luma: int, pts: int = 0) -> av.VideoFrame:
    """Makes a yuv420p frame of one grey."""
    frame = av.VideoFrame(width, height, "yuv420p")
    for plane, level in zip(planes(frame), (luma, 128, 128), strict=True):
        plane[:] = level
    frame.pts, frame.time_base = pts, Fraction(1, 30)
    return frame


def doubled(frame: av.VideoFrame) -> av.VideoFrame:
    """Enlarges a frame to twice its width and height, as a x2 stage does."""
    large = frame.reformat(frame.width * 2, frame.height * 2, interpolation="BICUBIC")
    large.pts, large.time_base = frame.pts, frame.time_base
    return large


# Side by side


def test_a_row_has_panels_of_the_largest_frames_size():
    row = side_by_side([flat(64, 48, 60, pts=7), flat(128, 96, 200)])
    assert (row.width, row.height, row.pts, row.time_base) == (256, 96, 7, Fraction(1, 30))
    luma = planes(row)[0]
    assert np.all(luma[:, :128] == 60)
    assert np.all(luma[:, 128:] == 200)


def test_a_frame_of_another_shape_is_not_stretched():
    luma = planes(side_by_side([flat(64, 64, 60), flat(128, 96, 200)]))[0]
    assert np.all(luma[:, :16] == 16)  # black
    assert np.all(luma[:, 20:108] == 60)
    assert np.all(luma[:, 112:128] == 16)


def test_odd_sizes_are_rounded_down():
    row = side_by_side([flat(65, 49, 60), flat(33, 25, 200)], ["a", "b"])
    assert (row.width, row.height) == (128, 48)


def test_frames_of_one_size_are_not_resampled(portrait):
    luma = planes(side_by_side([portrait[0], portrait[1]]))[0]
    assert np.array_equal(luma[:, :640], planes(portrait[0])[0])
    assert np.array_equal(luma[:, 640:], planes(portrait[1])[0])


# Recordings


@pytest.mark.parametrize("sizes", [[(64, 48), (128, 96)], [(128, 96), (64, 48), (96, 96)]])
def test_a_recording_keeps_its_first_size(tmp_path, sizes):
    output = FileOutput(tmp_path / "call.mp4", Fraction(30), has_sound=False)
    for index in range(4 * len(sizes)):
        output.put(flat(*sizes[index // 4], luma=180, pts=index))
    output.close()
    with av.open(str(tmp_path / "call.mp4")) as container:
        frames = list(container.decode(video=0))
    assert [(frame.width, frame.height) for frame in frames] == [sizes[0]] * 4 * len(sizes)
    centre = sizes[0][1] // 2, sizes[0][0] // 2
    assert all(abs(int(planes(frame)[0][centre]) - 180) < 4 for frame in frames)


# The demo


@pytest.fixture(scope="module")
def faces(portrait):
    return FaceTracker().track(planes(portrait[0])[0])


def moment(frame, faces) -> Moment:
    """A frame that a stage has doubled in size."""
    received = DecodedFrame.from_video(frame)
    enhanced = EnhancedFrame(doubled(frame), received, "restored", scale=2.0, faces=faces)
    return Moment(enhanced, frame)


def test_a_face_is_measured_at_the_same_place_in_a_larger_picture(portrait, faces):
    """42.6 dB; a crop that is off by half a pixel of the larger picture has 37.7."""
    frame = portrait[0]
    frame.pts, frame.time_base = 0, Fraction(1, 30)
    received, restored, original = face_crops(moment(frame, faces))
    assert np.array_equal(received, original)
    assert psnr_db(restored, received) > 40


def test_the_demo_records_a_larger_output(portrait, faces, tmp_path):
    recorder = Recorder(tmp_path, Fraction(30), 0.5, has_sound=False)
    for index, frame in enumerate(portrait[:15]):
        frame.pts, frame.time_base = index, Fraction(1, 30)
        recorder.put(moment(frame, faces))
    recorder.close()
    assert recorder.written == 15
    assert len(recorder.psnr["restored"]) >= 3
    assert (tmp_path / "demo.png").is_file()
    with av.open(str(tmp_path / "demo.mp4")) as container:
        video = container.streams.video[0]
        assert (video.width, video.height) == (1280 * len(PANELS), 960)


# The virtual camera


class Camera:
    """Stands in for pyvirtualcam's: no camera can be made without a driver in the kernel."""

    made: "list[Camera]" = []  # noqa: RUF012
    shows = threading.Event()

    def __init__(self, width: int, height: int, rate: float) -> None:
        self.width, self.height, self.rate = width, height, rate
        self.shown: list[np.ndarray] = []
        self.is_closed = False
        self.made.append(self)

    def send(self, picture: np.ndarray) -> None:
        assert picture.shape == (self.height, self.width, 3)
        self.shown.append(picture)
        self.shows.set()

    def close(self) -> None:
        self.is_closed = True


def test_a_virtual_camera_keeps_its_size_and_does_not_stretch(monkeypatch):
    library = types.SimpleNamespace(Camera=Camera)
    monkeypatch.setitem(sys.modules, "pyvirtualcam", library)
    output = VirtualCamera()
    for frame in (flat(64, 48, 180), flat(128, 96, 180), flat(96, 96, 180)):
        output.put(frame)
        assert Camera.shows.wait(20)
        Camera.shows.clear()
    output.close()
    (camera,) = Camera.made
    assert (camera.width, camera.height, camera.is_closed) == (64, 48, True)
    same, larger, square = camera.shown
    assert np.array_equal(same, larger)
    assert square[24, 2].max() < 20  # black beside a square
    assert square[24, 32].min() > 180


# The window

SHOW = """
import sys, threading, time
import cv2
import av
from receiver.media.outputs import Window
window = Window("sizes")
def feed():
    for size in sys.argv[1:]:
        width, height = map(int, size.split("x"))
        frame = av.VideoFrame(width, height, "yuv420p")
        window.put(frame)
        while not window._newest.empty():
            time.sleep(0.01)
        time.sleep(0.2)
        print(cv2.getWindowImageRect("sizes")[2:], flush=True)
feeder = threading.Thread(target=feed)
feeder.start()
window.run(lambda: not feeder.is_alive())
"""


@needs_screen
def test_a_window_follows_the_size_up_to_a_screens():
    with subprocess.Popen(
        ["Xvfb", "-displayfd", "1", "-screen", "0", "4000x3000x24"],
        stdout=subprocess.PIPE,
        text=True,
    ) as screen:
        try:
            shown = subprocess.run(
                [sys.executable, "-c", SHOW, "320x240", "640x480", "3840x1440"],
                env=os.environ | {"DISPLAY": f":{screen.stdout.readline().strip()}"},
                capture_output=True,
                text=True,
                timeout=100,
                check=True,
                cwd=Path(__file__).parents[2],
            ).stdout
        finally:
            screen.terminate()
    sizes = [tuple(map(int, re.findall(r"\d+", line))) for line in shown.splitlines()]
    assert sizes == [(320, 240), (640, 480), (LARGEST_SHOWN[0], LARGEST_SHOWN[0] * 1440 // 3840)]
