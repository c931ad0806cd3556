"""Clips through senders and receivers, job by job in parallel; finished jobs are not run again."""

import hashlib
import multiprocessing
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import av
import cv2

from bench.common.framing import framed, nearest_faces
from bench.common.result_cache import ResultCache
from receiver.commands.progress import progress_bar
from receiver.cores import usable_cores
from receiver.enhance.faces.generator import Generator
from receiver.enhance.faces.tracking import Face
from receiver.errors import InputError, ReceiverError

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables that limit the threads of a job's libraries: each job has one core."""

SMALLEST = 192
"""Width and height in pixels of the smallest clips: NIQE needs two patches, MS-SSIM 176 pixels."""


@dataclass(frozen=True)
class Captured:
    """A clip as a camera captures it.

    Attributes:
        frames: at most 640x480, yuv420p; empty for a clip without a face.
        rate: frames a second.
        faces: the nearest face of each frame.
        face_height: median height of the detector's boxes in pixels; 0 without a face.
    """

    frames: list[av.VideoFrame]
    rate: Fraction
    faces: list[Face | None] = field(repr=False)
    face_height: float


@dataclass(frozen=True)
class Job:
    """A measurement of one clip, to be made in another process.

    Attributes:
        clip: the file.
        person: who it shows.
        seconds: its length at most.
        run: returns the result, ready for JSON, of the captured clip, with an empty folder for
            large files. None if the clip is not suitable. A function or partial that can be
            pickled.
        key: what the result depends on, for the cache; `key_of` gives its common part.
        title: what the progress bar shows.
    """

    clip: Path
    person: str
    seconds: float
    run: Callable[[Captured, Path], Any]
    key: dict[str, Any]
    title: str


def key_of(clip: Path, model: Generator, *, seconds: float, min_face: float) -> dict[str, Any]:
    """Returns the part of a job's key that all benches share.

    Args:
        seconds: length of the clip.
        min_face: height in pixels of the detector's box.
    """
    return {
        "clip": clip.name,
        "clip_sha256": sha256_of(clip),
        "model_sha256": model.model.sha256,
        "seconds": seconds,
        "min_face": min_face,
    }


def run_jobs(jobs: Sequence[Job], results: ResultCache, processes: int | None = None) -> None:
    """Adds the result of each job that is not finished yet to the cache.

    A broken clip is refused before the work. After Ctrl-C the finished results are kept. Raises
    ReceiverError if the work fails for a reason outside of it: a full disk, too little memory.

    Args:
        processes: how many jobs run at once; by default one on each core.
    """
    missing = [job for job in jobs if job.key not in results]
    if not missing:
        return
    for clip in dict.fromkeys(job.clip for job in missing):
        _view(clip, 0.1)
    count = min(len(missing), processes or usable_cores())
    again = "finished results are kept, run the same command to go on"
    try:
        # Killed processes leave their files behind, so the folder is this process's.
        with (
            _one_thread_each(),
            tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder,
            _pool(count, folder) as pool,
            progress_bar() as bar,
        ):
            task = bar.add_task("jobs", total=len(jobs), completed=len(jobs) - len(missing))
            with _ctrl_c_held_back():
                waiting = {pool.submit(run, job): job for job in missing}
            for done in as_completed(waiting):
                results.add(waiting[done].key, done.result())
                bar.update(task, advance=1, description=f"{waiting[done].title} done")
    except BrokenProcessPool:
        raise ReceiverError(f"a process was killed, perhaps for want of memory: {again}") from None
    except subprocess.CalledProcessError as error:
        raise ReceiverError(f"FFmpeg failed ({error.returncode}), see above: {again}") from None
    except OSError as error:
        raise ReceiverError(
            f"the work's files cannot be used ({error}): make room, or set TMPDIR; {again}"
        ) from None


@contextmanager
def _pool(count: int, folder: str) -> Iterator[ProcessPoolExecutor]:
    """Gives a pool of processes, whose temporary files are in the folder; kills them on errors."""
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, spawn, _prepare, (folder,))
    try:
        yield pool
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.kill()  # a job may take a minute more
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def run(job: Job) -> Any:
    """Returns a job's result; its files are in a new temporary folder meanwhile."""
    with tempfile.TemporaryDirectory() as own:
        return job.run(captured(job.clip, job.seconds), Path(own))


@lru_cache(maxsize=1)
def captured(clip: Path, seconds: float) -> Captured:
    """Returns a clip as a camera captures it. Raises InputError if it cannot be measured."""
    frames, rate = _view(clip, seconds)
    faces = nearest_faces(frames)
    heights = sorted(float(face.box[3] - face.box[1]) for face in faces if face is not None)
    return Captured(frames, rate, faces, heights[len(heights) // 2] if heights else 0.0)


def _view(clip: Path, seconds: float) -> tuple[list[av.VideoFrame], Fraction]:
    """Returns `framed`. Raises InputError for a clip that is too small for the metrics."""
    frames, rate = framed(clip, seconds)
    if frames and min(frames[0].width, frames[0].height) < SMALLEST:
        size = f"{frames[0].width}x{frames[0].height}"
        raise InputError(f"{clip} has {size} pixels: give {SMALLEST}x{SMALLEST}, or remove it")
    return frames, rate


@lru_cache(maxsize=2)
def generator(model: str) -> Generator:
    """Returns a generator on one thread of the CPU, kept for later jobs of this process."""
    return Generator(model, "cpu", 1)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Limits the threads of the processes that are started meanwhile."""
    before = dict(os.environ)
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Delays Ctrl-C; processes that are started meanwhile do not get it while they import."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare(folder: str) -> None:
    """Leaves Ctrl-C to the parent, which ends this process; uses one core and this folder."""
    tempfile.tempdir = folder
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # FFmpeg ends by it
    cv2.setNumThreads(1)


@cache
def sha256_of(path: Path) -> str:
    """Returns the hash of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
