"""What a fuzzing target is, and what all of them share."""

import asyncio
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

import av

from receiver.sending.portrait import portrait_frames

BETWEEN = b"\xfe\xedRTP\xfe"
"""Stands between the packets, pictures or messages of one input."""


SIZE = (160, 120)


RUNS_MOST = 5.0
"""Seconds that a native library may take for one input before it counts as hanging."""


class NativeCrashError(Exception):
    """A library that is not ours took its whole process down."""


@dataclass(frozen=True)
class Target:
    """What is fed, what with, and what a part of its inputs is called."""

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    separator: bytes | None = None
    parts: str = "inputs"


def check(holds: bool, promise: str) -> None:
    """Raises AssertionError with the promise that does not hold."""
    if not holds:
        raise AssertionError(promise)


@cache
def small_portrait() -> list[av.VideoFrame]:
    """A second and a half of the demo's own clip, small, so that much of it can be decoded."""
    return [frame.reformat(*SIZE, "yuv420p") for frame in islice(portrait_frames(), 45)]


@cache
def loop() -> asyncio.AbstractEventLoop:
    """One for all inputs."""
    return asyncio.new_event_loop()


@cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="fuzz-")


def folder() -> Path:
    """For the files that are fed; gone with the process."""
    return Path(_temporary().name)
