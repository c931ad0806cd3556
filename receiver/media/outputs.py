"""Where pictures go: video files, panels side by side, a window."""

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

Result = TypeVar("Result")


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


def run_beside(window: Window, call: Coroutine[Any, Any, Result]) -> Result:
    """Runs the call in a thread, so that the window has the main one."""
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(asyncio.run, call)
        window.run(result.done)
        return result.result()
