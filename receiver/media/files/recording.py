"""Records a running call to a video file, in a thread that never delays the call."""

import contextlib
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from receiver.errors import InputError
from receiver.media.files.writing import VideoWriter, add_h264
from receiver.media.fitting import fitted
from receiver.media.planes import copy_frame

RECORDING_BACKLOG = 90
"""Frames and pieces of sound that may wait for the file."""
LONGEST_PAUSE = 3.0
"""Longest pause that a recording keeps, in seconds. If an item's own time differs from the
recording's clock by more, that time is no longer trusted."""
EARLY_SOUND = 0.25
"""Seconds by which sound may be ahead of the clock. Sound never arrives before its time: the first
pieces were late, as the first packets for a new viewer may be."""


class Timeline:
    """Places frames and sound in a recording, even if their own times jump.

    Its clock starts with the first item and runs as long as items arrive. Items keep their own
    times while these agree with the clock. If times jump, sound is too early, or another session
    starts at zero, the items continue from the clock.
    """

    def __init__(self) -> None:
        """Starts with an empty recording."""
        self._arrived: float | None = None
        self._now = Fraction(0)
        self._offsets: dict[type, Fraction] = {}
        self._ends: dict[type, Fraction] = {}

    def place(self, frame: Any, arrived: float) -> None:
        """Sets the pts of the next item; its time base stays.

        Args:
            frame: a video frame or a piece of sound, with pts.
            arrived: when it arrived, in seconds of `time.perf_counter`.
        """
        passed = arrived - (arrived if self._arrived is None else self._arrived)
        self._arrived = arrived
        self._now += Fraction(min(max(passed, 0.0), LONGEST_PAUSE))
        base = Fraction(frame.time_base or Fraction(1, 90000))
        lasts = Fraction(1, 1000)  # at least: only the next frame shows how long this one lasts
        most = LONGEST_PAUSE
        if isinstance(frame, av.AudioFrame):
            lasts, most = Fraction(frame.samples, frame.sample_rate), EARLY_SOUND
        kind, own = type(frame), (frame.pts or 0) * base
        end = self._ends.get(kind, Fraction(0))
        time = own + self._offsets.get(kind, self._now - own)
        if time + lasts <= end or not -LONGEST_PAUSE <= time - self._now <= most:
            time = self._now
        time = max(time, end)
        self._offsets[kind], self._ends[kind] = time - own, time + lasts
        frame.pts, frame.time_base = -int(-time // base), base


class FileOutput:
    """A thread that writes frames and sound to a video file; a slow disk never delays the call.

    The file has the size of the first frame, rounded down to even numbers. Frames of other sizes
    are scaled to fit into it.

    Attributes:
        written: frames in the file.
    """

    def __init__(
        self,
        path: Path,
        rate: Fraction,
        has_sound: bool,
        crf: float = 20.0,
        *,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """Starts the thread.

        Args:
            path: of the file.
            rate: expected frames a second; `Timeline` sets the actual times.
            has_sound: whether sound will be put as well.
            crf: x264's constant rate factor, 0 to 51.
            say: called with one sentence, in another thread, if writing ends before `close`.
        """
        self.written = 0
        self._say = say
        self._path, self._rate, self._has_sound, self._crf = path, rate, has_sound, crf
        self._queue: queue.Queue[Any] = queue.Queue(RECORDING_BACKLOG)
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="recorder")
        self._thread.start()

    def put(self, item: Any) -> None:
        """Accepts a yuv420p frame with pts or a piece of sound; never waits.

        Drops the item if `RECORDING_BACKLOG` items wait. Only reads it: others may use it too.
        """
        if self._error is None:
            with contextlib.suppress(queue.Full):
                self._queue.put_nowait((item, time.perf_counter()))

    def close(self) -> None:
        """Waits until everything is written.

        Raises InputError if writing failed; the part of the file that plays is kept.
        """
        if self._error is None:
            self._queue.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def picture(self, item: Any) -> av.VideoFrame:
        """Returns a new frame to write for a video item; runs in the thread."""
        return copy_frame(item)

    def _run(self) -> None:
        if sys.platform == "linux":  # only there each thread has its own priority
            os.nice(10)  # a file can wait, the call cannot
        file: VideoWriter | None = None
        try:
            file = VideoWriter(self._path, live=True)
            with file:
                self._write(file)
        except (av.FFmpegError, OSError) as error:
            kept = "the part before that is kept" if file and file.kept else "no part of it is kept"
            reason = error.strerror or error
            self._error = InputError(f"{self._path} cannot be written: {reason}; {kept}")
        except Exception as error:
            self._error = error
        if self._error is not None:  # close() raises it in the caller's thread
            if self._say is not None:
                self._say(f"recording has ended: {self._error}")
            with contextlib.suppress(queue.Empty):
                while True:
                    self._queue.get_nowait()

    def _write(self, file: VideoWriter) -> None:
        video: av.VideoStream | None = None
        sound = file.container.add_stream("aac", rate=48000) if self._has_sound else None
        timeline, size = Timeline(), (0, 0)
        while (taken := self._queue.get()) is not None:
            item, arrived = taken
            if isinstance(item, av.AudioFrame):
                if sound is not None and video is not None:
                    piece = _copy_sound(item)
                    timeline.place(piece, arrived)
                    file.container.mux(sound.encode(piece))
                continue
            frame = self.picture(item)
            timeline.place(frame, arrived)
            if video is None:
                size = _even(frame.width), _even(frame.height)
                base = Fraction(1, 90000)
                video = add_h264(file.container, size, self._rate, base, self._crf, "ultrafast")
            # The resolution may change during a call, but not within a file.
            fitting = fitted(frame, *size).reformat(format="yuv420p")
            fitting.pict_type = av.video.frame.PictureType.NONE
            file.container.mux(video.encode(fitting))
            self.written += 1
        for stream in (video, sound):
            if stream is not None:
                file.container.mux(stream.encode(None))
        file.container.close()  # here, so that a disk error is reported like any other


def _copy_sound(piece: av.AudioFrame) -> av.AudioFrame:
    """Returns a copy of a piece of sound, whose times may be changed."""
    copy = av.AudioFrame.from_ndarray(piece.to_ndarray(), piece.format.name, piece.layout.name)
    copy.sample_rate, copy.pts, copy.time_base = piece.sample_rate, piece.pts, piece.time_base
    return copy


def _even(side: int) -> int:
    """Returns `side` rounded down to an even number, at least 2."""
    return max(2, side // 2 * 2)
