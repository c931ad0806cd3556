"""Shows frames live: in a virtual camera and in a window."""

import asyncio
import contextlib
import os
import queue
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import av
import cv2

from receiver.errors import MissingError
from receiver.media.fitting import fitted

Result = TypeVar("Result")

LARGEST_SHOWN = 1920, 1080
"""Width and height in pixels beyond which a window shows a frame scaled down."""


class VirtualCamera:
    """A camera that other programs can select; it shows the newest frame.

    It has the size of the first frame. Frames of other sizes are scaled to fit into it.
    """

    def __init__(self, rate: float = 30.0) -> None:
        """Starts the thread that feeds the camera.

        Args:
            rate: frames a second that the camera announces.

        Raises:
            MissingError: if pyvirtualcam is not installed. A missing driver shows at the first
                frame and is reported by `close`.
        """
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
        """Accepts a frame, or drops it if the previous one still waits."""
        with contextlib.suppress(queue.Full):
            self._newest.put_nowait(frame)

    def close(self) -> None:
        """Removes the camera. Raises MissingError if it could not be created."""
        while self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._newest.put(None, timeout=0.1)
            self._thread.join(0.1)
        if self._error is not None:
            raise MissingError(
                f"the virtual camera could not be created: {self._error}"
            ) from self._error

    def _run(self) -> None:
        try:
            while (frame := self._newest.get()) is not None:
                if self._camera is None:
                    self._camera = self._library.Camera(frame.width, frame.height, self._rate)
                size = self._camera.width, self._camera.height
                self._camera.send(fitted(frame, *size).to_ndarray(format="rgb24"))
        except Exception as error:  # close() raises it in the caller's thread
            self._error = error
        finally:
            if self._camera is not None:
                self._camera.close()


class Window:
    """A window that shows the newest frame; q or Esc closes it.

    It runs in the main thread, as window systems require, and takes frames from any other thread,
    so that the call's event loop never waits for it.

    Attributes:
        closed: whether the user has closed it, or `run` has ended.
    """

    def __init__(self, title: str) -> None:
        """Opens nothing yet: the window appears with the first frame in `run`."""
        self._title = title
        self._newest: queue.Queue[av.VideoFrame] = queue.Queue(1)
        self.closed = False

    @staticmethod
    def possible() -> bool:
        """Returns whether there is a display."""
        has_server = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
        return has_server or sys.platform in ("win32", "darwin")

    def put(self, frame: av.VideoFrame) -> bool:
        """Accepts a frame, or drops it if the previous one still waits.

        Returns whether the window is still wanted.
        """
        with contextlib.suppress(queue.Full):
            self._newest.put_nowait(frame)
        return not self.closed

    def run(self, done: Callable[[], bool]) -> None:
        """Shows frames until `done()` is true or the user closes the window; main thread only."""
        try:
            while not done() and not self.closed:
                with contextlib.suppress(queue.Empty):
                    frame = self._newest.get(timeout=0.02)
                    size = _shown_size(frame.width, frame.height)
                    cv2.imshow(self._title, frame.reformat(*size, "bgr24").to_ndarray())
                self.closed = cv2.pollKey() in (ord("q"), 27)
        finally:
            self.closed = True
            cv2.destroyAllWindows()


def run_beside(window: Window, call: Coroutine[Any, Any, Result]) -> Result:
    """Runs a call in another thread while the window has the main one; returns its result."""
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(asyncio.run, call)
        window.run(result.done)
        return result.result()


def _shown_size(width: int, height: int) -> tuple[int, int]:
    """Returns the width and height of a frame in a window, at most `LARGEST_SHOWN`."""
    scale = min(1.0, LARGEST_SHOWN[0] / width, LARGEST_SHOWN[1] / height)
    return max(1, round(width * scale)), max(1, round(height * scale))
