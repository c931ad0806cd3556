"""Computes embeddings of faces, which show whether two faces are the same person's."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from functools import lru_cache
from pathlib import Path

import numpy as np

from keyframes import Embedding, Landmarks, Picture
from receiver.enhance.faces.embedder import CROP_SIDE, EMBEDDING_SIZE, POINTS
from receiver.inference.package_models import RECOGNITION, package_model
from receiver.worker import Worker

ANSWERS_WITHIN = 30.0
"""Seconds for an answer, including the start of the process, before the process counts as hung and
is killed. If all cores are busy the process gets a fortieth of one, and its start needs a third of
a second of a whole core."""
RESTARTS_AFTER = 10.0
"""Seconds from a failure to the next start of the process."""
MAX_WAITING = 64
"""Maximum number of faces that wait for the process, 200 kB each; further ones are refused."""


class RecognitionError(Exception):
    """An embedding that could not be computed."""


class FaceRecogniser:
    """Computes embeddings with dlib's ResNet, in a separate process.

    dlib holds Python's lock for the 25 ms or more that a face takes; in this process that would
    stop frames and packets. The other process starts with the first face, is restarted after a
    failure and ends with this process.
    """

    def __init__(self) -> None:
        self._worker = Worker("recognition")
        self._process: subprocess.Popen[bytes] | None = None
        self._may_start = 0.0  # seconds of time.monotonic
        self._lock = threading.Lock()
        self._waiting = 0

    def submit(self, picture: Picture, landmarks: Landmarks) -> "Future[Embedding]":
        """Starts to compute the embedding of a face; may be called from any thread.

        Args:
            picture: 256x256x3 uint8 RGB crop.
            landmarks: 68x2 in crop pixels.

        Returns:
            A future, which raises RecognitionError, or as `package_model` does.

        Raises:
            ValueError: for arrays of other shapes.
        """
        if picture.shape != (CROP_SIDE, CROP_SIDE, 3) or landmarks.shape != (POINTS, 2):
            raise ValueError(f"a face of shapes {picture.shape} and {landmarks.shape}")
        record = landmarks.astype(np.float32).tobytes() + picture.astype(np.uint8).tobytes()
        with self._lock:
            if self._waiting >= MAX_WAITING:
                return _failed(f"{MAX_WAITING} faces are waiting already")
            try:
                future = self._worker.submit(self._embed, record)
            except RuntimeError:
                return _failed("the recogniser is closed")
            self._waiting += 1
        future.add_done_callback(self._no_longer_waiting)
        return future

    def close(self) -> None:
        """Ends the process and cancels the faces that wait."""
        self._worker.shutdown(wait=False, cancel_futures=True)
        process = self._process
        if process is not None:
            process.kill()
            process.wait()

    def _no_longer_waiting(self, future: "Future[Embedding]") -> None:
        with self._lock:
            self._waiting -= 1

    def _embed(self, record: bytes) -> Embedding:
        """Returns the embedding of a record; runs in the worker's thread."""
        process = self._process or self._start()
        # Not every system has time limits for pipes; killing the process ends the read.
        watchdog = threading.Timer(ANSWERS_WITHIN, process.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(record)
            process.stdin.flush()
            answer = process.stdout.read(4 * EMBEDDING_SIZE)
        except OSError:
            answer = b""
        finally:
            watchdog.cancel()
        embedding = np.frombuffer(answer[: len(answer) // 4 * 4], np.float32)
        # An embedding has length 1. Anything else is not one, such as text that a library printed.
        if (
            len(answer) != 4 * EMBEDDING_SIZE
            or not abs(float(np.linalg.norm(embedding.astype(np.float64))) - 1.0) < 1e-3
        ):
            self._end(process)
            raise RecognitionError(f"the recognition process ended with code {process.returncode}")
        return embedding

    def _end(self, process: "subprocess.Popen[bytes]") -> None:
        """Kills the process; the next one starts after `RESTARTS_AFTER` at the earliest."""
        self._process, self._may_start = None, time.monotonic() + RESTARTS_AFTER
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):  # from data that could not be written
                if pipe is not None:
                    pipe.close()

    def _start(self) -> "subprocess.Popen[bytes]":
        if time.monotonic() < self._may_start:
            raise RecognitionError("the recognition process ended and is not restarted yet")
        model = package_model(RECOGNITION)
        script = Path(__file__).with_name("embedder.py")
        # One thread, because BLAS would spin on the cores that the call needs. -P keeps this folder
        # out of sys.path, where its modules would hide others of the same name.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(script), str(model)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
        except (OSError, TypeError) as error:  # an embedded Python may have no executable
            self._may_start = time.monotonic() + RESTARTS_AFTER
            raise RecognitionError(f"{sys.executable!r} cannot be started: {error}") from error
        return self._process


def _failed(reason: str) -> "Future[Embedding]":
    future: Future[Embedding] = Future()
    future.set_exception(RecognitionError(reason))
    return future


@lru_cache(maxsize=1)
def shared_recogniser() -> FaceRecogniser:
    """Returns the recogniser that all calls of this process share."""
    return FaceRecogniser()
