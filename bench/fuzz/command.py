"""Fuzzing: `python -m bench fuzz`.

Feeds mutated packets, access units, messages, requests and files to everything that accepts input
from outside. Writes each input that breaks a promise to bench-output/fuzz/TARGET-HASH.bin.
"""

import logging
import sys
from pathlib import Path

from rich.progress import Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench.command_line import bench_parser, require
from bench.fuzz.engine import Report, fuzz
from bench.fuzz.targets import TARGETS
from receiver.commands.terminal import console
from receiver.errors import InputError

OUTPUT = Path("bench-output") / "fuzz"
TARGET_SECONDS = 10.0
"""Default time for each target."""


def by_atheris(name: str, seconds: float | None, seed: int) -> None:
    """Lets libFuzzer choose the inputs by coverage. Never returns."""
    require("fuzz --engine atheris", "atheris")
    import atheris

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
    """Feeds one file again. Raises whatever error it causes."""
    name = path.name.split("-")[0]
    if name not in TARGETS or not path.is_file():
        raise InputError(
            f"{path} is not an input of a target: give a bench-output/fuzz/TARGET-HASH.bin"
        )
    TARGETS[name].run(path.read_bytes())
    console().print(f"{path}: breaks no promise")


def table(reports: dict[str, Report]) -> Table:
    """Returns the results, a row per target."""
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
    """Fuzzes one target after the other, or until Ctrl-C. Returns the number of crashers."""
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
    """Runs the command line. Exits with 1 if a crasher was found."""
    parser = bench_parser("fuzz", __doc__, f"targets: {', '.join(TARGETS)}")
    parser.add_argument("--only", metavar="TARGET,...", help="these targets (default all)")
    long = parser.add_mutually_exclusive_group()
    long.add_argument("--count", type=int, metavar="N", help="number of inputs a target")
    long.add_argument(
        "--seconds", type=float, metavar="S", help="time for each target (default 10)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the mutations (default 0)")
    parser.add_argument("--engine", choices=["own", "atheris"], default="own", help="(default own)")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="feed one file again")
    args = parser.parse_args(arguments)
    require("fuzz", "skimage")
    names = list(TARGETS) if args.only is None else args.only.split(",")
    unknown = [name for name in names if name not in TARGETS]
    if unknown:
        raise InputError(f"there is no target {unknown[0]!r}: give some of {', '.join(TARGETS)}")
    for logger in ("aioice", "receiver.signalling.links", "receiver.signalling.sessions"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    seconds = args.seconds or (None if args.count else TARGET_SECONDS)
    if args.replay:
        replay(args.replay)
    elif args.engine == "atheris":
        if len(names) != 1:
            raise InputError("atheris takes one target at a time: give --only TARGET")
        by_atheris(names[0], seconds, args.seed)
    elif run(names, args.count, seconds, args.seed):
        sys.exit(1)
