"""Sources of the frames that are sent: the portrait, a clip, a camera."""

from fractions import Fraction
from itertools import islice

import av
import pytest

from receiver.errors import InputError, MissingError
from receiver.sending.portrait import LOOP, portrait_frames
from receiver.sending.sources import camera_source, clip_source, even_size
from tests.conftest import plain_frame, write_clip
from tests.media.clips import VARIABLE, write_timed


def test_the_portrait_is_a_seamless_loop(portrait):
    frames = list(portrait_frames())
    assert len(frames) == LOOP == 240
    assert {(f.width, f.height, f.format.name) for f in frames} == {(640, 480, "yuv420p")}
    luma = [f.reformat(format="gray").to_ndarray().astype(float) for f in frames]
    steps = [abs(luma[i] - luma[i - 1]).mean() for i in range(1, LOOP)]
    seam = abs(luma[0] - luma[-1]).mean()
    assert seam < 1.5 * max(steps)
    assert abs(luma[60] - luma[0]).mean() > 1.5 * max(steps)  # it moves


def test_the_error_without_scikit_image_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "skimage.data", None)
    with pytest.raises(MissingError, match=r"keyframe-receiver\[demo\]"):
        next(portrait_frames())


def test_a_clip_is_repeated(clip):
    source = clip_source(clip)
    assert (source.width, source.height, source.rate) == (640, 480, 30)
    assert source.sound is not None
    assert len(list(islice(source.frames(), 100))) == 100  # of 40 in the file


@pytest.mark.parametrize(("rate", "sent"), [(24, 24), (30, 30), (50, 25), (60, 30), (120, 30)])
def test_frames_above_thirty_a_second_are_dropped(tmp_path, rate, sent):
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
def test_frames_are_sent_at_even_sizes_of_at_most_1280_pixels(size, sent):
    assert even_size(*size) == sent


def test_a_clip_of_odd_size_is_sent_at_an_even_one(tmp_path):
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


def test_an_unplayable_clip_is_named_in_the_error(tmp_path):
    with pytest.raises(InputError, match=r"there is no file .*nowhere\.mp4"):
        clip_source(tmp_path / "nowhere.mp4")
    write_clip(tmp_path / "short.mp4", [plain_frame()], with_audio=False)
    data = bytearray((tmp_path / "short.mp4").read_bytes())
    start = data.index(b"mdat") + 4
    data[start : start + 3000] = bytes(3000)
    (tmp_path / "zeros.mp4").write_bytes(data[:])
    with pytest.raises(InputError, match=r"zeros\.mp4"):
        clip_source(tmp_path / "zeros.mp4")


def test_a_missing_camera_is_named_in_the_error():
    with pytest.raises(InputError, match="camera 97 gives no picture"):
        camera_source(97)


def test_a_source_knows_its_rate_in_bursts(tmp_path):
    source = clip_source(write_timed(tmp_path / "vfr.mp4", VARIABLE, video_codec="libx264"))
    assert source.rate < 10
    assert source.fastest == 30
