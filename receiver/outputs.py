"""Where pictures go: video files, panels side by side, a window."""

import contextlib
import os
import queue
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import cv2

from keyframes import Picture
from receiver.alignment import planes
from receiver.errors import InputError


class VideoFile:
    """Writes a video under a temporary name; it gets its own name when it is whole.

    As a context manager: leaving with an exception removes what was written.
    """

    def __init__(self, path: Path) -> None:
        """Raises InputError if the folder cannot be written or the ending is of no container."""
        self.path = path
        # The ending stays, because the container is chosen by it.
        self._unfinished = path.with_name(f".{path.stem}.part{path.suffix}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.container = av.open(str(self._unfinished), "w")
        except (av.FFmpegError, ValueError) as error:
            raise InputError(
                f"{path} names no video container that can be written: end it in .mp4 or .mkv"
            ) from error
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}") from error

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with contextlib.suppress(*((Exception,) if kind else ())):  # the first error counts
                self.container.close()
            if kind is None and self._unfinished.exists():  # libav makes no file without a stream
                os.replace(self._unfinished, self.path)
        except (av.FFmpegError, OSError) as failure:
            raise InputError(f"{self.path} cannot be written: {failure.strerror}") from failure
        finally:
            self._unfinished.unlink(missing_ok=True)


def add_h264(
    container: av.container.OutputContainer,
    size: tuple[int, int],
    rate: Fraction,
    time_base: Fraction,
    crf: float,
    preset: str,
) -> av.VideoStream:
    """An x264 stream for yuv420p pictures of `size` (width, height); CRF 0 is lossless."""
    stream = container.add_stream("libx264", rate=rate)
    stream.width, stream.height = size
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = time_base
    stream.options = {"crf": f"{crf:g}", "preset": preset}
    return stream


def side_by_side(frames: list[av.VideoFrame], labels: list[str]) -> av.VideoFrame:
    """yuv420p frames of one even size in a row, each with its label in its upper left corner."""
    width, height = frames[0].width, frames[0].height
    row = av.VideoFrame(width * len(frames), height, "yuv420p")
    for index, (frame, label) in enumerate(zip(frames, labels, strict=True)):
        for to, of in zip(planes(row), planes(frame), strict=True):
            step = of.shape[1]
            to[:, index * step : (index + 1) * step] = of
        luma, blue, red = (
            plane[:, index * plane.shape[1] // len(frames) :] for plane in planes(row)
        )
        write_label(luma, label)
        blue[4:16, 4 : 4 + _label_width(label) // 2] = 128
        red[4:16, 4 : 4 + _label_width(label) // 2] = 128
    return row


def write_label(image: Picture, label: str) -> None:
    """White on dark into the upper left corner of an HxW or HxWx3 picture."""
    image[8:32, 8 : 8 + _label_width(label)] = 32
    cv2.putText(
        image, label, (14, 26), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (235, 235, 235), 1, cv2.LINE_AA
    )


def _label_width(label: str) -> int:
    return int(cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)[0][0]) // 2 * 2 + 14


class Window:
    """A window that shows the newest frame; closed by q or Esc.

    It lives in the main thread, as window systems ask for, and frames come from any other: the
    call's event loop never waits for it.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._newest: queue.Queue[av.VideoFrame] = queue.Queue(1)
        self._closed = False

    @staticmethod
    def possible() -> bool:
        """Whether there is a display."""
        has_server = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
        return has_server or sys.platform in ("win32", "darwin")

    def put(self, frame: av.VideoFrame) -> bool:
        """Takes a frame, unless one still waits; returns whether the person wants to go on."""
        with contextlib.suppress(queue.Full):
            self._newest.put_nowait(frame)
        return not self._closed

    def run(self, done: Callable[[], bool]) -> None:
        """Shows frames until `done` says so or the person closes the window; main thread only."""
        try:
            while not done() and not self._closed:
                with contextlib.suppress(queue.Empty):
                    frame = self._newest.get(timeout=0.02)
                    cv2.imshow(self._title, frame.to_ndarray(format="bgr24"))
                self._closed = cv2.pollKey() in (ord("q"), 27)
        finally:
            self._closed = True
            cv2.destroyAllWindows()
