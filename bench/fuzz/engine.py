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


@dataclass
class Report:
    """What became of one target.

    Attributes:
        inputs: fed so far.
        parts: of all inputs: packets, pictures, messages.
        seconds: taken by all of them.
        slowest_s: of one input.
        native: inputs that took a library's process down.
        crashers: file and error, one for each place where errors come from.
    """

    inputs: int = 0
    parts: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    native: int = 0
    crashers: dict[str, tuple[Path, str]] = field(default_factory=dict)


def feed(name: str, target: Target, data: bytes, report: Report, folder: Path) -> None:
    """One input; an error is noted, and its input written to `folder` if its place is new."""
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
    """The last line of our own that an error came through."""
    places = traceback.extract_tb(error.__traceback__)
    ours = [place for place in places if ".venv" not in place.filename and OURS in place.filename]
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"


def fuzz(
    name: str, *, count: int | None, seconds: float | None, seed: int, folder: Path
) -> Iterator[Report]:
    """Feeds one target and yields the same report after every input, the seeds' own first."""
    target, report = TARGETS[name], Report()
    seeds, mutated = target.seeds(), Mutator(seed, target.separator)
    until = time.perf_counter() + (seconds or float("inf"))
    for number in endless():
        if number == count or time.perf_counter() > until:
            return
        data = seeds[number] if number < len(seeds) else mutated(seeds)
        feed(name, target, data, report, folder)
        yield report
