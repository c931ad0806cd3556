"""The class of a fuzzing target, and what all targets share."""

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
"""Separates the packets, access units, messages or answers of one input."""
SIZE = (160, 120)
"""Width and height of the fuzzed clips in pixels."""
RUNS_MOST = 5.0
"""Seconds for one input after which a native library counts as hanging."""


class NativeCrashError(Exception):
    """A foreign library ended its whole process."""


@dataclass(frozen=True)
class Target:
    """Something that accepts input from outside.

    Attributes:
        run: handles one input; raises if it breaks a promise.
        seeds: returns valid inputs.
        separator: separates the parts of an input; None if it has no parts.
        parts: what the parts are called.
    """

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    separator: bytes | None = None
    parts: str = "inputs"


def check(holds: bool, promise: str) -> None:
    """Raises AssertionError with the promise if it does not hold."""
    if not holds:
        raise AssertionError(promise)


@cache
def small_portrait() -> list[av.VideoFrame]:
    """Returns 1.5 seconds of the demo's own clip, small, so that many frames can be decoded."""
    return [frame.reformat(*SIZE, "yuv420p") for frame in islice(portrait_frames(), 45)]


@cache
def loop() -> asyncio.AbstractEventLoop:
    """Returns the event loop of all inputs."""
    return asyncio.new_event_loop()


@cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="fuzz-")


def folder() -> Path:
    """Returns the folder of fuzzed files; the end of the process removes it."""
    return Path(_temporary().name)
