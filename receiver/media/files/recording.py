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

BACKLOG = 90
"""Pictures and pieces of sound that may wait for a file."""


JUMP = 3.0
"""Seconds by which what comes may part from the clock before its own times are not believed any
more; and the longest pause that a recording keeps."""


EARLY = 0.25
"""Seconds by which sound may be ahead of the clock. It does not come before its time: what came
first was late, as the first packets for a new viewer may be."""


class Timeline:
    """Gives pictures and sound their times in a recording, whatever happens to their own.

    Its clock begins with the first item and runs while something comes. Items keep their own
    times as long as these go on with the clock; where they jump, sound comes too early, or
    another session begins at nought, they go on from the clock.
    """

    def __init__(self) -> None:
        self._arrived: float | None = None
        self._now = Fraction(0)
        self._offsets: dict[type, Fraction] = {}
        self._ends: dict[type, Fraction] = {}

    def place(self, frame: Any, arrived: float) -> None:
        """Gives the next frame its pts; it keeps its time base.

        Args:
            frame: a picture or a piece of sound, with pts.
            arrived: when it came, in seconds of `time.perf_counter`.
        """
        passed = arrived - (arrived if self._arrived is None else self._arrived)
        self._arrived, self._now = arrived, self._now + Fraction(min(max(passed, 0.0), JUMP))
        base = Fraction(frame.time_base or Fraction(1, 90000))
        lasts = Fraction(1, 1000)  # at least: the rest is for the next picture to say
        most = JUMP
        if isinstance(frame, av.AudioFrame):
            lasts, most = Fraction(frame.samples, frame.sample_rate), EARLY
        kind, own = type(frame), (frame.pts or 0) * base
        end = self._ends.get(kind, Fraction(0))
        time = own + self._offsets.get(kind, self._now - own)
        if time + lasts <= end or not -JUMP <= time - self._now <= most:
            time = self._now
        time = max(time, end)
        self._offsets[kind], self._ends[kind] = time - own, time + lasts
        frame.pts, frame.time_base = -int(-time // base), base


class FileOutput:
    """A thread that writes pictures and sound to a video file; a slow disk never slows the call.

    Attributes:
        written: pictures in the file.
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
        """
        Args:
            path: of the file.
            rate: frames a second to be expected; times come as `Timeline` says.
            has_sound: whether there is any.
            crf: x264's.
            say: is told in a sentence, in another thread, when writing ends before `close`.
        """
        self.written = 0
        self._say = say
        self._path, self._rate, self._has_sound, self._crf = path, rate, has_sound, crf
        self._queue: queue.Queue[Any] = queue.Queue(BACKLOG)
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="recorder")
        self._thread.start()

    def put(self, item: Any) -> None:
        """Takes a yuv420p frame with pts or a piece of sound; never waits, drops when behind.

        It is only read: others may use it too.
        """
        if self._error is None:
            with contextlib.suppress(queue.Full):
                self._queue.put_nowait((item, time.perf_counter()))

    def close(self) -> None:
        """Waits until everything is written.

        Raises InputError if the file could not be, or not to its end; what plays of it is kept.
        """
        if self._error is None:
            self._queue.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def picture(self, item: Any) -> av.VideoFrame:
        """A new picture to write for a video item; runs in the thread."""
        return copy_frame(item)

    def _run(self) -> None:
        if sys.platform == "linux":  # where a thread has a priority of its own
            os.nice(10)  # a file can wait, the call cannot
        file: VideoWriter | None = None
        try:
            file = VideoWriter(self._path, live=True)
            with file:
                self._write(file)
        except (av.FFmpegError, OSError) as error:
            kept = "what came before is in it" if file and file.kept else "nothing of it is left"
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
            picture = self.picture(item)
            timeline.place(picture, arrived)
            if video is None:
                size = even(picture.width), even(picture.height)
                base = Fraction(1, 90000)
                video = add_h264(file.container, size, self._rate, base, self._crf, "ultrafast")
            # A call changes its resolution now and then, a file never does.
            fitting = fitted(picture, *size).reformat(format="yuv420p")
            fitting.pict_type = av.video.frame.PictureType.NONE
            file.container.mux(video.encode(fitting))
            self.written += 1
        for stream in (video, sound):
            if stream is not None:
                file.container.mux(stream.encode(None))
        file.container.close()  # what the disk refuses at last is an error like any other


def _copy_sound(piece: av.AudioFrame) -> av.AudioFrame:
    copy = av.AudioFrame.from_ndarray(piece.to_ndarray(), piece.format.name, piece.layout.name)
    copy.sample_rate, copy.pts, copy.time_base = piece.sample_rate, piece.pts, piece.time_base
    return copy


def even(side: int) -> int:
    """The next even number downwards, at least 2."""
    return max(2, side // 2 * 2)
