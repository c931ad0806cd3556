"""Sources of the frames and sound that are sent: the demo's clip, a video file, a camera."""

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
"""Longer side in pixels to which larger frames are scaled down, as a browser's call does."""
MAX_RATE = 30.5
"""Frames a second above which every other frame (or more) is dropped."""


@dataclass(frozen=True)
class Source:
    """Frames and sound to send.

    Attributes:
        frames: starts an endless sequence of new yuv420p frames of one even size. Their pts and
            time base are the time at which each is shown, from the start; the first is at 0.
        width: of the frames, in pixels.
        height: of the frames, in pixels.
        rate: average of frames a second.
        fastest: frames a second where they are closest to each other; None for `rate`.
        live: whether a frame is taken when it is read, as from a camera, and has no pts yet.
        sound: starts an endless sequence of audio frames of 20 ms at 48 kHz, on the clock of the
            video frames; None for no sound.
    """

    frames: Callable[[], Iterator[av.VideoFrame]]
    width: int
    height: int
    rate: Fraction
    fastest: Fraction | None = None
    live: bool = False
    sound: Callable[[], Iterator[av.AudioFrame]] | None = None


def portrait_source() -> Source:
    """Returns the demo's own clip, which is made once and then repeated."""
    loop = list(portrait_frames())
    rate = Fraction(FPS)
    return Source(lambda: evenly(cycle(loop), rate), WIDTH, HEIGHT, rate)


def evenly(pictures: Iterable[av.VideoFrame], rate: Fraction) -> Iterator[av.VideoFrame]:
    """Yields copies of yuv420p frames whose times are `1 / rate` seconds apart."""
    for number, picture in zip(count(), pictures, strict=False):
        frame = copy_frame(picture)
        frame.pts, frame.time_base = round(number / rate / VIDEO_BASE), VIDEO_BASE
        yield frame


def clip_source(path: Path) -> Source:
    """Returns a video file with its sound, repeated without end, as players show it.

    Raises InputError if it cannot be played.
    """
    loop = Loop(path)
    width, height = even_size(loop.width, loop.height)

    def frames() -> Iterator[av.VideoFrame]:
        for frame in loop.frames(MAX_RATE):
            whole = fitted(frame, loop.width, loop.height)  # the size may change within a file
            yield whole.reformat(width, height, "yuv420p")

    sound = loop.sound if loop.has_sound else None
    return Source(frames, width, height, _limited(loop.rate), _limited(loop.fastest), sound=sound)


def _limited(rate: Fraction) -> Fraction:
    """Returns a rate in frames a second after dropping what exceeds `MAX_RATE`."""
    return rate / max(1, math.ceil(rate / Fraction(MAX_RATE)))


def camera_source(number: int, instead: str = "--clip FILE") -> Source:
    """Returns a camera by its number.

    Raises InputError if it gives no frame; its message suggests `instead`.
    """
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    camera = cv2.VideoCapture(number)  # OpenCV would print a page of text if there is none
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
    """Returns the size at which frames are sent: even, and `MAX_SIDE` at most."""
    scale = min(1.0, MAX_SIDE / max(width, height))
    return (max(2, int(width * scale) // 2 * 2), max(2, int(height * scale) // 2 * 2))
