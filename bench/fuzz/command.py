"""Fuzzing: `python -m bench fuzz`.

Feeds mutated packets, pictures, messages, requests and files to everything that takes something
from outside. Whatever breaks a promise is written to bench-output/fuzz/TARGET-HASH.bin.
"""

import argparse
import hashlib
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count as endless
from pathlib import Path

from rich.progress import Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench.fuzz import client as fuzz_answers
from bench.fuzz.mutations import Mutator
from bench.fuzz.targets import BETWEEN, NativeCrashError, Target
from bench.fuzz.targets import TARGETS as PARTS
from receiver.commands.terminal import console
from receiver.errors import InputError

TARGETS = PARTS | {
    "answers": Target(fuzz_answers.answers, fuzz_answers.answers_seeds, b"\r\n", "lines"),
    "janus": Target(fuzz_answers.janus, fuzz_answers.janus_seeds, BETWEEN, "answers"),
    "links": Target(fuzz_answers.links, fuzz_answers.links_seeds, b"\r\n", "lines"),
    "redirects": Target(fuzz_answers.redirects, fuzz_answers.redirects_seeds, BETWEEN, "answers"),
}
"""What is fed, by name."""
OUTPUT = Path("bench-output") / "fuzz"
OURS = str(Path(__file__).resolve().parents[2])
SECONDS = 10.0
"""Each target's, where nothing else is asked for."""


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


def by_atheris(name: str, seconds: float | None, seed: int) -> None:
    """Lets libFuzzer choose the inputs, led by coverage; never returns."""
    try:
        import atheris
    except ImportError:
        raise InputError("--engine atheris needs atheris: pip install atheris") from None
    target, corpus = TARGETS[name], OUTPUT / f"corpus-{name}"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(data)
    atheris.instrument_all()
    limits = [f"-max_total_time={seconds:.0f}", f"-seed={seed + 1}", "-max_len=100000"]
    prefix = f"-artifact_prefix={OUTPUT}/{name}-"
    atheris.Setup(["fuzz", str(corpus), *limits, prefix], target.run)
    atheris.Fuzz()


def replay(path: Path) -> None:
    """Feeds one file again and lets its error through."""
    name = path.name.split("-")[0]
    if name not in TARGETS or not path.is_file():
        raise InputError(
            f"{path} is no input of a target: give a bench-output/fuzz/TARGET-HASH.bin"
        )
    TARGETS[name].run(path.read_bytes())
    console().print(f"{path}: nothing is wrong with it")


def table(reports: dict[str, Report]) -> Table:
    """A row a target."""
    names = ("target", "inputs", "parts", "inputs/s", "slowest, ms", "native crashes", "crashers")
    shown = Table(*names, title="fuzzing")
    for name, report in reports.items():
        parts = f"{report.parts:,} {TARGETS[name].parts}" if TARGETS[name].separator else ""
        shown.add_row(
            name,
            f"{report.inputs:,}",
            parts,
            f"{report.inputs / max(report.seconds, 1e-9):,.0f}",
            f"{1e3 * report.slowest_s:.0f}",
            str(report.native),
            str(len(report.crashers)),
        )
    return shown


def run(names: list[str], count: int | None, seconds: float | None, seed: int) -> int:
    """Fuzzes one target after the other until all are done or Ctrl-C; returns how many crashers."""
    reports: dict[str, Report] = {}
    columns = TextColumn("{task.description}"), TimeElapsedColumn()
    try:
        with Progress(*columns, console=console()) as progress:
            for name in names:
                task = progress.add_task(name, total=None)
                for report in fuzz(name, count=count, seconds=seconds, seed=seed, folder=OUTPUT):
                    reports[name] = report
                    done = f"{name}: {report.inputs:,} inputs, {len(report.crashers)} crashers"
                    progress.update(task, description=done)
                progress.stop_task(task)
    except KeyboardInterrupt:
        console().print("interrupted")
    console().print(table(reports))
    found = [one for report in reports.values() for one in report.crashers.values()]
    for path, error in found:
        console().print(f"{path}  {error}", highlight=False)
    return len(found)


def main(arguments: list[str]) -> None:
    """The command line; exits with 1 if anything was found."""
    parser = argparse.ArgumentParser(
        prog="python -m bench fuzz",
        description=f"{__doc__}\ntargets: {', '.join(TARGETS)}",
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--only", metavar="TARGET,...", help="these targets (default all)")
    long = parser.add_mutually_exclusive_group()
    long.add_argument("--count", type=int, metavar="N", help="inputs a target")
    long.add_argument("--seconds", type=float, metavar="S", help="a target (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (default 0)")
    parser.add_argument("--engine", choices=["own", "atheris"], default="own", help="(default own)")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="feed one file again")
    args = parser.parse_args(arguments)
    names = list(TARGETS) if args.only is None else args.only.split(",")
    unknown = [name for name in names if name not in TARGETS]
    if unknown:
        raise InputError(f"there is no target {unknown[0]!r}: give some of {', '.join(TARGETS)}")
    for logger in ("aioice", "receiver.signalling.links", "receiver.signalling.sessions"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    seconds = args.seconds or (None if args.count else SECONDS)
    if args.replay:
        replay(args.replay)
    elif args.engine == "atheris":
        if len(names) != 1:
            raise InputError("atheris takes one target at a time: give --only TARGET")
        by_atheris(names[0], seconds, args.seed)
    elif run(names, args.count, seconds, args.seed):
        sys.exit(1)
