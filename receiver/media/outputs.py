"""Where pictures go: video files, panels side by side, a window."""

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
import cv2

from keyframes import Picture
from receiver.errors import InputError, MissingError
from receiver.media.files.writing import VideoWriter, add_h264
from receiver.media.fitting import fitted
from receiver.media.planes import copy_frame, planes
from receiver.safe_files import NewFile

BACKLOG = 90
"""Pictures and pieces of sound that may wait for a file."""
JUMP = 3.0
"""Seconds by which what comes may part from the clock before its own times are not believed any
more; and the longest pause that a recording keeps."""


def side_by_side(frames: list[av.VideoFrame], labels: list[str] | None = None) -> av.VideoFrame:
    """yuv420p frames of one even size in a row, with the first one's pts.

    Each has its label, if any, in its upper left corner.
    """
    width, height = frames[0].width, frames[0].height
    row = av.VideoFrame(width * len(frames), height, "yuv420p")
    row.pts = frames[0].pts
    if frames[0].time_base is not None:
        row.time_base = frames[0].time_base
    for index, frame in enumerate(frames):
        for to, of in zip(planes(row), planes(frame), strict=True):
            step = of.shape[1]
            to[:, index * step : (index + 1) * step] = of
    for index, label in enumerate(labels or ()):
        luma, blue, red = (
            plane[:, index * plane.shape[1] // len(frames) :] for plane in planes(row)
        )
        write_label(luma, label)
        blue[4:16, 4 : 4 + _label_width(label) // 2] = 128
        red[4:16, 4 : 4 + _label_width(label) // 2] = 128
    return row


def write_picture(path: Path, bgr: Picture) -> None:
    """Writes a PNG that only this user may read. Raises InputError if it cannot be written."""
    data = cv2.imencode(".png", bgr)[1].tobytes()
    try:
        with NewFile(path, private=True) as new:
            new.file.write(data)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error


def write_label(image: Picture, label: str) -> None:
    """White on dark into the upper left corner of an HxW or HxWx3 picture."""
    image[8:32, 8 : 8 + _label_width(label)] = 32
    cv2.putText(
        image, label, (14, 26), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (235, 235, 235), 1, cv2.LINE_AA
    )


def _label_width(label: str) -> int:
    return int(cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)[0][0]) // 2 * 2 + 14


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


class VirtualCamera:
    """A camera that other programs can choose, with the newest picture in it."""

    def __init__(self, rate: float = 30.0) -> None:
        """Raises MissingError without pyvirtualcam; what it needs itself shows at the start."""
        try:
            import pyvirtualcam
        except ImportError as error:
            raise MissingError(
                "a virtual camera needs pyvirtualcam: "
                "pip install 'keyframe-receiver[virtual-camera]'"
            ) from error
        self._library: Any = pyvirtualcam
        self._rate = rate
        self._camera: Any = None
        self._newest: queue.Queue[av.VideoFrame | None] = queue.Queue(1)
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="virtual-camera")
        self._thread.start()

    def put(self, frame: av.VideoFrame) -> None:
        """Takes a picture, unless one still waits."""
        with contextlib.suppress(queue.Full):
            self._newest.put_nowait(frame)

    def close(self) -> None:
        """Takes the camera away. Raises MissingError if there was no device to be one."""
        while self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._newest.put(None, timeout=0.1)
            self._thread.join(0.1)
        if self._error is not None:
            raise MissingError(f"no virtual camera could be made: {self._error}") from self._error

    def _run(self) -> None:
        try:
            while (frame := self._newest.get()) is not None:
                if self._camera is None:
                    self._camera = self._library.Camera(frame.width, frame.height, self._rate)
                size = self._camera.width, self._camera.height
                self._camera.send(frame.reformat(*size, "rgb24").to_ndarray())
        except Exception as error:  # told by close(), in the caller's thread
            self._error = error
        finally:
            if self._camera is not None:
                self._camera.close()


def even(side: int) -> int:
    """The next even number downwards, at least 2."""
    return max(2, side // 2 * 2)


class Window:
    """A window that shows the newest frame; closed by q or Esc.

    It lives in the main thread, as window systems ask for, and frames come from any other: the
    call's event loop never waits for it.

    Attributes:
        closed: whether the person has closed it, or it is over.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._newest: queue.Queue[av.VideoFrame] = queue.Queue(1)
        self.closed = False

    @staticmethod
    def possible() -> bool:
        """Whether there is a display."""
        has_server = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
        return has_server or sys.platform in ("win32", "darwin")

    def put(self, frame: av.VideoFrame) -> bool:
        """Takes a frame, unless one still waits; returns whether the person wants to go on."""
        with contextlib.suppress(queue.Full):
            self._newest.put_nowait(frame)
        return not self.closed

    def run(self, done: Callable[[], bool]) -> None:
        """Shows frames until `done` says so or the person closes the window; main thread only."""
        try:
            while not done() and not self.closed:
                with contextlib.suppress(queue.Empty):
                    frame = self._newest.get(timeout=0.02)
                    cv2.imshow(self._title, frame.to_ndarray(format="bgr24"))
                self.closed = cv2.pollKey() in (ord("q"), 27)
        finally:
            self.closed = True
            cv2.destroyAllWindows()
