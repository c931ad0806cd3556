"""Fuzzing: `python -m bench fuzz`.

Feeds mutated packets, pictures, messages, requests and files to everything that takes something
from outside. Whatever breaks a promise is written to bench-output/fuzz/TARGET-HASH.bin.
"""

import argparse
import logging
import sys
from pathlib import Path

from rich.progress import Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench.fuzz.engine import Report, fuzz
from bench.fuzz.targets import TARGETS
from receiver.commands.terminal import console
from receiver.errors import InputError

OUTPUT = Path("bench-output") / "fuzz"
SECONDS = 10.0
"""Each target's, where nothing else is asked for."""


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
