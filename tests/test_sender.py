"""Where the frames of a call come from."""

import time
from fractions import Fraction
from itertools import islice

import av
import pytest

from receiver.encoding import Encoding
from receiver.errors import InputError, MissingError
from receiver.portrait import LOOP, portrait_frames
from receiver.sender import (
    KEYFRAMES_EVERY,
    EncodedTrack,
    KeyframeRequests,
    camera_source,
    clip_source,
    even_size,
    portrait_source,
)
from tests.conftest import plain_frame, write_clip


def test_the_portrait_is_a_seamless_loop(portrait):
    frames = list(portrait_frames())
    assert len(frames) == LOOP == 240
    assert {(f.width, f.height, f.format.name) for f in frames} == {(640, 480, "yuv420p")}
    luma = [f.reformat(format="gray").to_ndarray().astype(float) for f in frames]
    steps = [abs(luma[i] - luma[i - 1]).mean() for i in range(1, LOOP)]
    seam = abs(luma[0] - luma[-1]).mean()
    assert seam < 1.5 * max(steps)
    assert abs(luma[60] - luma[0]).mean() > 1.5 * max(steps)  # it does move


def test_without_scikit_image_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "skimage.data", None)
    with pytest.raises(MissingError, match=r"keyframe-receiver\[demo\]"):
        next(portrait_frames())


def test_a_clip_goes_round(clip):
    source = clip_source(clip)
    assert (source.width, source.height, source.rate) == (640, 480, 30)
    assert source.sound is not None
    assert len(list(islice(source.frames(), 100))) == 100  # of 40 in the file


@pytest.mark.parametrize(("rate", "sent"), [(24, 24), (30, 30), (50, 25), (60, 30), (120, 30)])
def test_calls_have_thirty_frames_a_second_at_most(tmp_path, rate, sent):
    path = tmp_path / "fast.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=rate)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for index in range(12):
            frame = plain_frame(64, 48)
            frame.pts, frame.time_base = index, Fraction(1, rate)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    assert clip_source(path).rate == sent


@pytest.mark.parametrize(
    ("size", "sent"),
    [
        ((640, 480), (640, 480)),
        ((641, 479), (640, 478)),
        ((3840, 2160), (1280, 720)),
        ((1, 1), (2, 2)),
    ],
)
def test_frames_are_sent_even_and_not_larger_than_calls_are(size, sent):
    assert even_size(*size) == sent


def test_an_odd_clip_can_be_sent(tmp_path):
    path = tmp_path / "odd.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("ffv1", rate=30)
        video.width, video.height, video.pix_fmt = 101, 75, "yuv420p"
        frame = av.VideoFrame(101, 75, "yuv420p")
        frame.pts, frame.time_base = 0, Fraction(1, 30)
        container.mux(video.encode(frame))
        container.mux(video.encode(None))
    frame = next(clip_source(path).frames())
    assert (frame.width, frame.height) == (100, 74)


def test_a_clip_that_cannot_be_played_is_named(tmp_path):
    with pytest.raises(InputError, match=r"there is no file .*nowhere\.mp4"):
        clip_source(tmp_path / "nowhere.mp4")
    write_clip(tmp_path / "short.mp4", [plain_frame()], with_audio=False)
    data = bytearray((tmp_path / "short.mp4").read_bytes())
    start = data.index(b"mdat") + 4
    data[start : start + 3000] = bytes(3000)
    (tmp_path / "zeros.mp4").write_bytes(data[:])
    with pytest.raises(InputError, match=r"zeros\.mp4"):
        clip_source(tmp_path / "zeros.mp4")


def test_a_camera_that_is_not_there_is_named():
    with pytest.raises(InputError, match="camera 97 gives no picture"):
        camera_source(97)


def test_key_frames_on_request_are_one_in_an_interval():
    requests = KeyframeRequests(interval=0.2)
    assert not requests.take()  # nobody asked
    requests.ask()
    requests.ask()
    assert requests.take()
    assert not requests.take()
    requests.ask()
    assert not requests.take()  # too soon
    time.sleep(0.25)
    assert requests.take()  # but not forgotten
    time.sleep(0.25)
    assert not requests.take()


async def test_a_clip_has_few_key_frames_however_often_they_are_asked_for():
    track = EncodedTrack(portrait_source(), Encoding(kbps=100))
    track.begin()
    began, keyed = time.monotonic(), 0
    for _ in range(30):
        track.request_keyframe()
        keyed += (await track.recv()).is_keyframe
    track.stop()
    assert 2 <= keyed <= (time.monotonic() - began) / KEYFRAMES_EVERY + 1
