"""Plays a video file in a loop, with its frames and its sound on one continuous clock."""

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
"""How much too early a frame may be and still be within the rate limit, as a fraction of the frame
interval: for clips whose average rate is within the limit, and for faster ones. With 1/4 for the
latter, frames selected from 120 frames a second would be spaced unevenly."""
SLIP = SOUND_RATE // 25
"""Samples (40 ms) by which the time of sound may differ from the end of the sound so far. Anything
more is a gap, which is filled, or an overlap, which is cut. Files round times to 1 ms and more."""
INTERLEAVED = Fraction(10)
"""Seconds by which sound may lag behind the video in the file (FFmpeg's `max_interleave_delta`). If
none has been read by then, it is replaced by silence."""
SHORTEST = Fraction(1, 10)
"""Shortest pass in seconds, so that a file of a few frames is not reopened all the time."""
TRIED = 1000
"""Packets at the start of a file that are searched for sound that can be decoded."""

Stereo: TypeAlias = NDArray[np.int16]
"""Nx2 samples."""


class Loop:
    """A video file that restarts whenever it has ended.

    Each pass lasts until both video and sound have ended, as in players: the last frame stays while
    the sound continues, and shorter sound is followed by silence. Frames and sound can be read in
    different threads, at any pace, or one without the other: each iterator opens the file itself,
    and their passes start at the same times.

    Attributes:
        width, height: size of the frames that `frames` yields, which are upright with square
            pixels.
        rate, fastest: frames a second, on average and at the highest rate within the file.
        has_sound: whether the file has sound that can be decoded.
    """

    def __init__(self, path: Path) -> None:
        """Opens the file once to read its properties.

        Raises InputError if it cannot be played as a video.
        """
        self._path = path
        with VideoReader(path) as reader:
            first = next(reader.frames(), None)
            if first is None:
                raise InputError(f"{path} has no frame that can be decoded: give another clip")
            self._storage = Storage.of(first)
            self._display = Display.of(first, reader.video.sample_aspect_ratio)
            self.rate = reader.rate
            self.fastest = max(self.rate, Fraction(reader.video.base_rate or 0))
        self.width, self.height = self._display.size(first.width, first.height)
        self.has_sound = _has_sound(path)
        self._lasts: Fraction | None = None
        self._lock = threading.Lock()

    def frames(self, most: float) -> Iterator[av.VideoFrame]:
        """Yields frames with their own times in units of `VIDEO_BASE`; ends if the file is gone.

        The first frame has time 0, even if its own time is later.

        Args:
            most: frames a second; frames of faster clips are left out.
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
                logger.warning("%s has no frames any more, playing ends", self._path)
                return

    def sound(self) -> Iterator[av.AudioFrame]:
        """Yields pieces of `PIECE` samples, 16-bit stereo, without gaps; ends if the file is gone.

        Sound that cannot be decoded is replaced by silence.
        """
        line = _SoundLine()
        for start, one in self._passes():
            yield from self._sound_of_pass(one, start, line)
            yield from line.fill(_samples(start + self._ended(one)))

    def _passes(self) -> Iterator[tuple[Fraction, "_Pass"]]:
        """Yields the start of each pass in seconds, and the opened file."""
        start = Fraction(0)
        while True:
            try:
                one = _Pass(self._path, self.has_sound)
            except InputError as error:
                logger.warning("%s; playing ends", error)
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
        """Returns the length of a pass in seconds; the iterator that ends first determines it."""
        with self._lock:
            if self._lasts is None:
                self._lasts = max(one.end, SHORTEST)
            return self._lasts


class _Pass:
    """One pass over a file.

    Attributes:
        end: end of the last packet or frame so far, in seconds.
        has_frames: whether a frame was decoded.
    """

    def __init__(self, path: Path, has_sound: bool) -> None:
        """Opens the file. Raises InputError if it cannot be read."""
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
        """Yields the packets of video and sound.

        Both are read even if only one is used: both determine the length of the pass, and where
        times jump.
        """
        for packet in self.reader.packets(self._streams):
            time = packet.dts if packet.pts is None else packet.pts
            # Packets that an edit list hides are decoded, but not played.
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
    """Limits the frames a second.

    Implements the generic cell rate algorithm (ITU-T I.371): from a regular sequence it leaves out
    frames regularly, and it does not leave out frames that only jitter.
    """

    def __init__(self, most: Fraction, jitter: Fraction) -> None:
        self._gap = 1 / most
        self._slack = jitter * self._gap
        self._due = Fraction(0)

    def admits(self, time: Fraction) -> bool:
        """Returns whether a frame at `time` (seconds) is within the limit."""
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
        """Yields times in seconds and samples; the time is None directly after other samples."""
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
                logger.debug("%s: sound cannot be decoded and is silent: %s", self._name, error)
            self._has_failed = True

    def _resampled(self, frame: av.AudioFrame) -> Iterator[Stereo]:
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind != self._kind or self._resampler is None:
            self._kind = kind
            self._resampler = av.AudioResampler("s16", "stereo", SOUND_RATE)
        for piece in self._resampler.resample(frame):
            yield _stereo(piece)


class _SoundLine:
    """Cuts sound into pieces without gaps between them.

    Attributes:
        end: number of samples so far.
    """

    def __init__(self) -> None:
        self.end = 0
        self._rest: Stereo = np.empty((0, 2), np.int16)

    def put(
        self, samples: Stereo, at: int | None, end: int | None, *, exactly: bool
    ) -> Iterator[av.AudioFrame]:
        """Appends samples and yields the pieces that are complete.

        Args:
            samples: to append.
            at: position of the first sample; None directly after the previous ones.
            end: position at which the sound is cut off; None for no end.
            exactly: whether `at` is exact to the sample, rather than within `SLIP`.
        """
        if at is None or (not exactly and abs(at - self.end) <= SLIP):
            at = self.end
        last = len(samples) if end is None else max(0, end - at)
        yield from self.fill(at if end is None else min(at, end))
        yield from self._append(samples[max(0, self.end - at) : last])

    def fill(self, until: int) -> Iterator[av.AudioFrame]:
        """Appends silence up to sample `until`, if that is later than the end."""
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
    """Returns whether a file's sound can be decoded; logs a warning if it has sound that cannot."""
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
            logger.warning("%s is sent without its sound, which cannot be decoded", path)
            return False
        return reader.audio is not None  # it starts later, or never


def _seconds(frame: Any) -> Fraction:
    return Fraction(frame.pts * frame.time_base)


def _samples(seconds: Fraction) -> int:
    return round(seconds * SOUND_RATE)


def _at(frame: av.VideoFrame, time: Fraction) -> av.VideoFrame:
    frame.pts, frame.time_base = round(time / VIDEO_BASE), VIDEO_BASE
    return frame


def _stereo(piece: av.AudioFrame) -> Stereo:
    return piece.to_ndarray().astype(np.int16, copy=False).reshape(-1, 2)
