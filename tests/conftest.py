"""What several tests share: the demo's own clip, streams made of it, and the shipped generator."""

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import settings

from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.generator import Generator
from receiver.media.encoding import Encoding, through_codec
from receiver.media.planes import planes
from receiver.sending.portrait import FPS, portrait_frames
from tests.media.sources import write_raw

RATE = Fraction(FPS)
CLIPS = Path(__file__).parent.parent.parent / "shared" / "clips"
"""Talking heads, for tests that need real people: not part of the repository."""
needs_clips = pytest.mark.skipif(
    not CLIPS.is_dir(), reason="needs talking-head clips in ../shared/clips"
)
"""What .ci/skips excuses if the folder is not there."""

# How long an example takes says nothing on a shared machine.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(scope="session")
def portrait() -> list[av.VideoFrame]:
    """Three seconds of the demo's own clip, 640x480 yuv420p."""
    return [frame for frame, _ in zip(portrait_frames(), range(90), strict=False)]


@pytest.fixture(scope="session")
def decoded(portrait):
    """The first second of it as a receiver sees it at 100 kbit/s, a key frame every 10 frames."""
    encoding = Encoding(kbps=100, keyframe_every=10)
    return [frame for _, frame, _ in through_codec(portrait[:30], encoding, RATE)]


@pytest.fixture(scope="session")
def generator() -> Generator:
    """The shipped generator on the CPU."""
    return Generator("lite", "cpu")


@pytest.fixture
def enhancer(generator) -> Iterator[Enhancer]:
    """A fresh enhancer."""
    return Enhancer(generator)


@pytest.fixture(scope="session")
def clip(portrait, tmp_path_factory) -> Path:
    """A file of 40 pictures of the portrait with sound, key frames every 10 frames."""
    path = tmp_path_factory.mktemp("clip") / "portrait.mp4"
    write_clip(path, portrait[:40], with_audio=True)
    return path


@pytest.fixture(scope="session")
def raw(portrait, tmp_path_factory) -> Path:
    """Writes 24 lossless frames of the portrait, 320x240, for `tests.media.sources`."""
    return write_raw(portrait[:24], tmp_path_factory.mktemp("raw") / "raw.mkv")


def write_clip(path: Path, frames: list[av.VideoFrame], *, with_audio: bool, crf: int = 30) -> None:
    """Writes frames as H.264, with a tone if asked."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FPS)
        video.width, video.height, video.pix_fmt = frames[0].width, frames[0].height, "yuv420p"
        video.options = {"crf": str(crf), "preset": "veryfast", "g": "10"}
        sound = container.add_stream("aac", rate=48000) if with_audio else None
        for index, frame in enumerate(frames):
            frame.pts, frame.time_base = index, 1 / RATE
            frame.pict_type = av.video.frame.PictureType.NONE
            container.mux(video.encode(frame))
        if sound is not None:
            tone = np.sin(np.arange(48000 * len(frames) // FPS) * 0.05).astype(np.float32)
            for start in range(0, len(tone) // 1024 * 1024, 1024):
                piece = av.AudioFrame.from_ndarray(tone[None, start : start + 1024], "fltp", "mono")
                piece.sample_rate, piece.pts = 48000, start
                container.mux(sound.encode(piece))
            container.mux(sound.encode(None))
        container.mux(video.encode(None))


def plain_frame(width: int = 320, height: int = 240, level: int = 90) -> av.VideoFrame:
    """A frame without a face: a soft gradient."""
    ramp = np.linspace(level - 20, level + 20, width).astype(np.uint8)
    frame = av.VideoFrame(width, height, "yuv420p")
    luma, blue, red = planes(frame)
    luma[:], blue[:], red[:] = ramp, 120, 130
    return frame


def same_pixels(a: av.VideoFrame, b: av.VideoFrame) -> bool:
    """Whether two 4:2:0 frames are alike to the bit."""
    pairs = zip(planes(a), planes(b), strict=True)
    return all(np.array_equal(one, other) for one, other in pairs)


def unmeasured() -> dict[str, str]:
    """Returns the environment for a process that may not write the files of a coverage run."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
