"""Plays a video file again and again: its frames and its sound on one clock that goes on."""

import logging
import threading
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import av
import numpy as np
from numpy.typing import NDArray

from receiver.errors import InputError
from receiver.media.display import Display
from receiver.media.files.reading import VideoReader
from receiver.media.pixels import Storage
from receiver.media.planes import copy_frame

logger = logging.getLogger(__name__)

VIDEO_BASE = Fraction(1, 90_000)
"""Unit of the frames' pts in seconds: RTP's for video (RFC 6184, section 5.1)."""
SOUND_RATE = 48_000
"""Samples a second of the sound: Opus's (RFC 7587, section 4.1)."""
PIECE = 960
"""Samples of a piece of sound: 20 ms, as calls send it."""
JITTER = (Fraction(3, 10), Fraction(2, 10))
"""Parts of the time between frames by which one may come too soon and still be within the limit: of
a clip that is not faster on average, and of one that is. With a quarter for the latter, of 120
frames a second some would follow others sooner than the rest."""
SLIP = SOUND_RATE // 25
"""Samples (40 ms) by which times of sound may part from what was decoded so far: more is a gap, to
be filled, or an overlap, to be cut. Files round their times to a millisecond and more."""
INTERLEAVED = Fraction(10)
"""Seconds by which the sound may lag behind the video in the file: FFmpeg's `max_interleave_delta`.
Where none has come by then, there is silence."""
SHORTEST = Fraction(1, 10)
"""Least seconds of one pass, so that a file of a few frames is not opened all the time."""
TRIED = 1000
"""Packets at the begin of a file among which one of sound has to be decoded, if any of it is."""

Stereo: TypeAlias = NDArray[np.int16]
"""Nx2 samples."""


class Loop:
    """A video file that begins anew whenever it has ended.

    Each pass lasts until both video and sound have ended, as players do it: the last frame stays
    while the sound goes on, and silence follows sound that is shorter. Frames and sound may be read
    in different threads, at any pace, or one of them alone: each reads the file for itself, and
    their passes begin at the same times.

    Attributes:
        width, height: of the frames as `frames` gives them: upright, with square pixels.
        rate, fastest: frames a second on average, and where they follow each other most closely.
        has_sound: whether there is sound that can be decoded.
    """

    def __init__(self, path: Path) -> None:
        """Raises InputError if `path` is no video that can be played."""
        self._path = path
        with VideoReader(path) as reader:
            first = next(reader.frames(), None)
            if first is None:
                raise InputError(f"{path} holds no frame that can be decoded: give another clip")
            self._storage = Storage.of(first)
            self._display = Display.of(first, reader.video.sample_aspect_ratio)
            self.rate = reader.rate
            self.fastest = max(self.rate, Fraction(reader.video.base_rate or 0))
        self.width, self.height = self._display.size(first.width, first.height)
        self.has_sound = _has_sound(path)
        self._lasts: Fraction | None = None
        self._lock = threading.Lock()

    def frames(self, most: float) -> Iterator[av.VideoFrame]:
        """Yields frames at their own times, `VIDEO_BASE` their unit; ends if the file is gone.

        The first one comes at 0, though its own time may be later.

        Args:
            most: frames a second: of faster ones, every other one or more is left out.
        """
        rate, is_first = _RateLimit(Fraction(most), JITTER[self.rate > most]), True
        for start, one in self._passes():
            for frame in one.frames():
                time = start + _seconds(frame)
                if self._lasts is not None and time >= start + self._lasts:
                    break
                if not rate.admits(time):
                    continue
                shown = self._display.shown(self._storage.stored(frame))
                if is_first:
                    yield _at(copy_frame(shown), Fraction(0))
                if not is_first or time > 1 / Fraction(most):
                    yield _at(shown, time)
                is_first = False
            if not one.has_frames:
                logger.warning("%s holds no frame any more, it is played no further", self._path)
                return

    def sound(self) -> Iterator[av.AudioFrame]:
        """Yields pieces of `PIECE` samples, 16-bit stereo, without a gap; ends if the file is gone.

        What cannot be decoded is silent.
        """
        line = _SoundLine()
        for start, one in self._passes():
            yield from self._sound_of_pass(one, start, line)
            yield from line.fill(_samples(start + self._ended(one)))

    def _passes(self) -> Iterator[tuple[Fraction, "_Pass"]]:
        """Yields when each pass begins, in seconds, and the opened file."""
        start = Fraction(0)
        while True:
            try:
                one = _Pass(self._path, self.has_sound)
            except InputError as error:
                logger.warning("%s, it is played no further", error)
                return
            with one:
                yield start, one
            start += self._ended(one)

    def _sound_of_pass(
        self, one: "_Pass", start: Fraction, line: "_SoundLine"
    ) -> Iterator[av.AudioFrame]:
        decoder, begins = _SoundDecoder(one.reader), True
        for packet in one.packets():
            if packet.stream is one.reader.video:
                yield from line.fill(_samples(start + one.end - INTERLEAVED))
                continue
            for time, samples in decoder.decode(packet):
                end = None if self._lasts is None else _samples(start + self._lasts)
                at = None if time is None else _samples(start + time)
                yield from line.put(samples, at, end, exactly=begins)
                begins = False

    def _ended(self, one: "_Pass") -> Fraction:
        """How long a pass lasts: whichever is through first, frames or sound, settles it."""
        with self._lock:
            if self._lasts is None:
                self._lasts = max(one.end, SHORTEST)
            return self._lasts


class _Pass:
    """One pass over a file.

    Attributes:
        end: when the last of all that was read so far ends, in seconds.
        has_frames: whether a frame was decoded.
    """

    def __init__(self, path: Path, has_sound: bool) -> None:
        """Raises InputError if the file cannot be read."""
        self.reader = VideoReader(path, side_data=False)
        self.reader.seek(Fraction(0))  # the first time in the file becomes 0
        self._streams = [self.reader.video]
        if has_sound and self.reader.audio is not None:
            self._streams.append(self.reader.audio)
        self.end = Fraction(0)
        self.has_frames = False

    def __enter__(self) -> "_Pass":
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.close()

    def packets(self) -> Iterator[Any]:
        """Yields those of video and sound.

        Of both, whichever is needed: both tell how long the pass is, and where times jump.
        """
        for packet in self.reader.packets(self._streams):
            time = packet.dts if packet.pts is None else packet.pts
            # What an edit list hides is decoded, and not played.
            if packet.size and time is not None and not packet.is_discard:
                lasts = (packet.duration or 0) * Fraction(packet.time_base)
                if packet.stream is self.reader.video:
                    lasts = lasts or 1 / self.reader.rate
                self.end = max(self.end, time * Fraction(packet.time_base) + lasts)
            yield packet

    def frames(self) -> Iterator[av.VideoFrame]:
        """Yields the video's frames."""
        for packet in self.packets():
            if packet.stream is self.reader.video:
                for frame in self.reader.decode(packet):
                    lasts = frame.duration * self.reader.time_base
                    self.end = max(self.end, _seconds(frame) + lasts)
                    self.has_frames = True
                    yield frame


class _RateLimit:
    """Admits frames as long as they are not more a second than a limit.

    It is the generic cell rate algorithm (ITU-T I.371): frames that come regularly are left out
    regularly, and frames that only jitter are not left out.
    """

    def __init__(self, most: Fraction, jitter: Fraction) -> None:
        self._gap = 1 / most
        self._slack = jitter * self._gap
        self._due = Fraction(0)

    def admits(self, time: Fraction) -> bool:
        if time < self._due - self._slack:
            return False
        self._due = max(self._due, time) + self._gap
        return True


class _SoundDecoder:
    """Decodes one pass's sound to 16-bit stereo at `SOUND_RATE`."""

    def __init__(self, reader: VideoReader) -> None:
        self._name = reader.name
        self._resampler: av.AudioResampler | None = None
        self._kind: tuple[Any, ...] = ()
        self._has_failed = False

    def decode(self, packet: Any) -> Iterator[tuple[Fraction | None, Stereo]]:
        """Yields samples and when they are heard, in seconds; None right after those before."""
        try:
            for frame in packet.decode():
                time = None if frame.pts is None else _seconds(frame)
                for samples in self._resampled(frame):
                    yield time, samples
                    time = None
            if not packet.size and self._resampler is not None:
                for rest in self._resampler.resample(None):
                    yield None, _stereo(rest)
        except (av.FFmpegError, OSError, ValueError) as error:
            if not self._has_failed:
                logger.debug("%s: sound that cannot be decoded is silent: %s", self._name, error)
            self._has_failed = True

    def _resampled(self, frame: av.AudioFrame) -> Iterator[Stereo]:
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind != self._kind or self._resampler is None:
            self._kind = kind
            self._resampler = av.AudioResampler("s16", "stereo", SOUND_RATE)
        for piece in self._resampler.resample(frame):
            yield _stereo(piece)


class _SoundLine:
    """Cuts sound into pieces that follow one another without a gap.

    Attributes:
        end: samples so far.
    """

    def __init__(self) -> None:
        self.end = 0
        self._rest: Stereo = np.empty((0, 2), np.int16)

    def put(
        self, samples: Stereo, at: int | None, end: int | None, *, exactly: bool
    ) -> Iterator[av.AudioFrame]:
        """Appends samples and yields what pieces are full.

        Args:
            samples: of the sound.
            at: number of the first of them; None if it follows those before.
            end: number of the first sample that is not heard any more; None for no end.
            exactly: whether `at` counts to the sample, rather than within `SLIP`.
        """
        if at is None or (not exactly and abs(at - self.end) <= SLIP):
            at = self.end
        last = len(samples) if end is None else max(0, end - at)
        yield from self.fill(at if end is None else min(at, end))
        yield from self._append(samples[max(0, self.end - at) : last])

    def fill(self, until: int) -> Iterator[av.AudioFrame]:
        """Appends silence until sample number `until`, if that is later than the end."""
        while self.end < until:
            yield from self._append(np.zeros((min(PIECE, until - self.end), 2), np.int16))

    def _append(self, samples: Stereo) -> Iterator[av.AudioFrame]:
        at = self.end - len(self._rest)
        self.end += len(samples)
        self._rest = np.concatenate([self._rest, samples])
        while len(self._rest) >= PIECE:
            piece = av.AudioFrame.from_ndarray(self._rest[:PIECE].reshape(1, -1), "s16", "stereo")
            piece.sample_rate, piece.pts, piece.time_base = SOUND_RATE, at, Fraction(1, SOUND_RATE)
            self._rest = self._rest[PIECE:]
            at += PIECE
            yield piece


def _has_sound(path: Path) -> bool:
    """Whether a file's sound can be decoded; a warning says so if there is some that cannot be."""
    with VideoReader(path) as reader:
        tried = 0
        if reader.audio is not None:
            decoder = _SoundDecoder(reader)
            for packet in islice(reader.packets([reader.video, reader.audio]), TRIED):
                if packet.stream is reader.audio:
                    tried += bool(packet.size)
                    if any(True for _ in decoder.decode(packet)):
                        return True
        if tried or (reader.audio is None and reader.container.streams.audio):
            logger.warning("%s is sent without its sound: it cannot be decoded", path)
            return False
        return reader.audio is not None  # it begins later, or never


def _seconds(frame: Any) -> Fraction:
    return Fraction(frame.pts * frame.time_base)


def _samples(seconds: Fraction) -> int:
    return round(seconds * SOUND_RATE)


def _at(frame: av.VideoFrame, time: Fraction) -> av.VideoFrame:
    frame.pts, frame.time_base = round(time / VIDEO_BASE), VIDEO_BASE
    return frame


def _stereo(piece: av.AudioFrame) -> Stereo:
    return piece.to_ndarray().astype(np.int16, copy=False).reshape(-1, 2)
