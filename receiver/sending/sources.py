"""Sources of a sender's frames and sound: the demo's clip, a video file, a camera."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import count, cycle
from pathlib import Path

import av
import cv2

from keyframes import Picture
from receiver.errors import InputError
from receiver.media.files.playing import VIDEO_BASE, Loop
from receiver.media.fitting import fitted
from receiver.media.planes import copy_frame
from receiver.sending.portrait import FPS, HEIGHT, WIDTH, portrait_frames

MAX_SIDE = 1280
"""Longer side in pixels beyond which frames are shrunk, as a call would."""
MAX_RATE = 30.5
"""Frames a second beyond which every other frame (or more) is left out."""


@dataclass(frozen=True)
class Source:
    """Where a sender's frames come from.

    Attributes:
        frames: starts an endless sequence of new yuv420p frames of one even size. Their pts and
            time base say when each is shown, in seconds from the start, the first at 0.
        rate: frames a second on average.
        fastest: frames a second where they follow each other most closely; None for `rate`.
        live: whether frames come when they are taken, as from a camera, and have no pts yet.
        sound: starts an endless sequence of pieces of sound, as calls send them, on the clock of
            the frames; None for no sound.
    """

    frames: Callable[[], Iterator[av.VideoFrame]]
    width: int
    height: int
    rate: Fraction
    fastest: Fraction | None = None
    live: bool = False
    sound: Callable[[], Iterator[av.AudioFrame]] | None = None


def portrait_source() -> Source:
    """The demo's own clip, made once and then repeated."""
    loop = list(portrait_frames())
    rate = Fraction(FPS)
    return Source(lambda: evenly(cycle(loop), rate), WIDTH, HEIGHT, rate)


def evenly(pictures: Iterable[av.VideoFrame], rate: Fraction) -> Iterator[av.VideoFrame]:
    """Yields copies of yuv420p frames that follow each other at `rate` a second."""
    for number, picture in zip(count(), pictures, strict=False):
        frame = copy_frame(picture)
        frame.pts, frame.time_base = round(number / rate / VIDEO_BASE), VIDEO_BASE
        yield frame


def clip_source(path: Path) -> Source:
    """A video file, repeated from its start with its sound, as players show it.

    Raises InputError if it cannot be played.
    """
    loop = Loop(path)
    width, height = even_size(loop.width, loop.height)

    def frames() -> Iterator[av.VideoFrame]:
        for frame in loop.frames(MAX_RATE):
            whole = fitted(frame, loop.width, loop.height)  # if the size changes on the way
            yield whole.reformat(width, height, "yuv420p")

    sound = loop.sound if loop.has_sound else None
    return Source(frames, width, height, _limited(loop.rate), _limited(loop.fastest), sound=sound)


def _limited(rate: Fraction) -> Fraction:
    """A rate in frames a second, without the frames that are more than `MAX_RATE`."""
    return rate / max(1, math.ceil(rate / Fraction(MAX_RATE)))


def camera_source(number: int, instead: str = "--clip FILE") -> Source:
    """A camera by its number. Raises InputError, which offers `instead`, if it gives no picture."""
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    camera = cv2.VideoCapture(number)  # OpenCV would print a page of its own if there is none
    cv2.utils.logging.setLogLevel(level)
    opened, picture = camera.read()
    if not opened:
        camera.release()
        raise InputError(f"camera {number} gives no picture: try another number or {instead}")
    width, height = even_size(picture.shape[1], picture.shape[0])
    rate = Fraction(round(camera.get(cv2.CAP_PROP_FPS)) or 30)

    def frames() -> Iterator[av.VideoFrame]:
        try:
            while camera.grab():
                bgr: Picture = camera.retrieve()[1]
                frame = av.VideoFrame.from_ndarray(bgr, format="bgr24")
                yield frame.reformat(width, height, "yuv420p")
        finally:
            camera.release()

    return Source(frames, width, height, rate, live=True)


def even_size(width: int, height: int) -> tuple[int, int]:
    """The size at which frames are sent: even, and at most `MAX_SIDE` on the longer side."""
    scale = min(1.0, MAX_SIDE / max(width, height))
    return (max(2, int(width * scale) // 2 * 2), max(2, int(height * scale) // 2 * 2))
