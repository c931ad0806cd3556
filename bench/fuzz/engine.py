"""Feeds mutated inputs to a target and keeps what breaks a promise."""

import hashlib
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count as endless
from pathlib import Path

from bench.fuzz.mutations import Mutator
from bench.fuzz.target import NativeCrashError, Target
from bench.fuzz.targets import TARGETS

OURS = str(Path(__file__).resolve().parents[2])
"""Folder of this project."""


@dataclass
class Report:
    """The results of one target.

    Attributes:
        inputs: number of inputs so far.
        parts: number of their parts.
        seconds: time for all inputs.
        slowest_s: time for the slowest input.
        native: number of inputs that crashed a library's process.
        crashers: file and error by kind and line of the error.
    """

    inputs: int = 0
    parts: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    native: int = 0
    crashers: dict[str, tuple[Path, str]] = field(default_factory=dict)


def feed(name: str, target: Target, data: bytes, report: Report, folder: Path) -> None:
    """Feeds one input. Writes it to `folder` if it causes an error of a new kind or line."""
    began = time.perf_counter()
    try:
        target.run(data)
    except Exception as error:
        report.native += isinstance(error, NativeCrashError)
        key = f"{type(error).__name__} at {_place(error)}"
        if key not in report.crashers:
            path = folder / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}.bin"
            folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            report.crashers[key] = path, f"{key}: {error}"
    took = time.perf_counter() - began
    report.inputs += 1
    report.parts += 1 if target.separator is None else data.count(target.separator) + 1
    report.seconds += took
    report.slowest_s = max(report.slowest_s, took)


def _place(error: Exception) -> str:
    """Returns the last line of this project in an error's traceback."""
    places = traceback.extract_tb(error.__traceback__)
    ours = [place for place in places if ".venv" not in place.filename and OURS in place.filename]
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"


def fuzz(
    name: str, *, count: int | None, seconds: float | None, seed: int, folder: Path
) -> Iterator[Report]:
    """Feeds one target, seeds first. Yields the same report after each input."""
    target, report = TARGETS[name], Report()
    seeds, mutated = target.seeds(), Mutator(seed, target.separator)
    until = time.perf_counter() + (seconds or float("inf"))
    for number in endless():
        if number == count or time.perf_counter() > until:
            return
        data = seeds[number] if number < len(seeds) else mutated(seeds)
        feed(name, target, data, report, folder)
        yield report
