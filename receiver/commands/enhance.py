"""`receiver enhance`: restores the faces of video files."""

import argparse
import math
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from receiver.commands.jobs import DEFAULT_ENDING, Job, check, jobs_into, one_job
from receiver.commands.options import add_enhancing, new_enhancer, number
from receiver.commands.progress import frames_bar
from receiver.commands.terminal import console, json_fields, json_line, say
from receiver.commands.verdict import why_not_restored
from receiver.cores import usable_cores
from receiver.enhance.faces.generator import Generator
from receiver.enhance.files import FileResult, enhance_file
from receiver.enhance.quality import Quality
from receiver.errors import InputError
from receiver.heap import return_large_blocks
from receiver.media.files.writing import WRITTEN_FORMATS
from receiver.text import escaped

MOST_SECONDS = 1e7
"""Largest value of --start and --duration, in seconds: more than a hundred days."""
KILLED = 128
"""Exit code of a command that a signal ended, minus the signal's number, as shells report it."""
NAME_SHOWN = 16
"""Characters of a file's name beside its progress bar."""
NARROW = 60
"""Columns of a terminal below which the table would be unreadable: a list is printed instead."""


def add(commands: Any) -> None:
    """Adds the command to argparse's subparsers."""
    enhance = commands.add_parser(
        "enhance",
        help="restore the faces of video files",
        usage="receiver enhance [options] IN OUT\n"
        "       receiver enhance [options] IN ... --into DIR",
        description="Writes IN to OUT with its faces restored, as in a call: the file's own "
        "I-frames serve as references. Number of frames, timestamps, size and sound stay the same. "
        "Exits with 1 if one of several files failed.",
    )
    enhance.add_argument(
        "places",
        nargs="+",
        metavar="IN OUT",
        help="any video file, or - for standard input; and the file to write: "
        f"{', '.join(WRITTEN_FORMATS)}, or - for Matroska on standard output",
    )
    enhance.add_argument(
        "--into",
        type=Path,
        metavar="DIR",
        help="write any number of IN, files or folders of videos, into this folder, which is "
        f"created; outputs keep their ending if it can be written, others get {DEFAULT_ENDING}",
    )
    enhance.add_argument(
        "--start",
        type=_seconds,
        default=0.0,
        metavar="TIME",
        help="start of the part to write, in seconds or HH:MM:SS (default 0)",
    )
    enhance.add_argument(
        "--duration",
        type=_length,
        metavar="TIME",
        help="length of the part to write, in seconds or HH:MM:SS (default: to the end)",
    )
    enhance.add_argument(
        "--strength",
        type=number(float, 0, 1),
        default=1.0,
        metavar="0..1",
        help="how much of the restoration to apply (default 1)",
    )
    enhance.add_argument(
        "--split", action="store_true", help="restore only the right half of the picture"
    )
    enhance.add_argument(
        "--crf",
        type=number(float, 0, 51),
        default=12.0,
        metavar="CRF",
        help="x264's constant rate factor for OUT, 0 (lossless) to 51 (default 12)",
    )
    add_enhancing(
        enhance,
        run,
        "files have no deadline: auto uses 8-bit integers on all cores; best takes more than twice "
        "as long for each face and gains hardly anything (default auto)",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command. Raises ReceiverError if it cannot start, or if a single file fails."""
    return_large_blocks()
    with _stoppable():
        if args.into is not None:
            return _enhance_several(args, jobs_into(args.places, args.into))
        return _enhance_one(args, one_job(args.places))


@contextmanager
def _stoppable() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP end the command like Ctrl-C: unfinished outputs are removed."""

    def stop(number: int, _: object) -> None:
        sys.exit(KILLED + number)

    names = [getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")]  # Windows lacks SIGHUP
    taken = [one for one in names if one is not None and signal.getsignal(one) == signal.SIG_DFL]
    for one in taken:
        signal.signal(one, stop)
    try:
        yield
    finally:
        for one in taken:
            signal.signal(one, signal.SIG_DFL)


class _Enhancing:
    """Enhances files one after the other with one generator."""

    def __init__(self, args: argparse.Namespace) -> None:
        """Loads the generator. Raises ModelError or DeviceError."""
        self._args = args
        self._generator = Generator(args.model, args.device, threads=usable_cores())

    def run(self, job: Job, total: int | None, description: str) -> FileResult:
        """Enhances a job that `check` has accepted, and prints its notes.

        Args:
            total: expected number of frames; None if unknown.
            description: shown beside the progress bar.

        Raises:
            InputError: if the file cannot be enhanced.
        """
        args = self._args
        # A new enhancer: references never pass from one file to another.
        enhancer = new_enhancer(args, self._generator, strength=args.strength)
        if args.quality != "auto":
            Quality(self._generator, args.quality, None).watch(enhancer)
        said: list[str] = []

        def tell(sentence: str) -> None:
            said.append(sentence)
            say(f"note: {sentence}")

        with _shown(description, total, quiet=args.json) as progress:
            result = enhance_file(
                job.source,
                job.target,
                enhancer,
                split=args.split,
                crf=args.crf,
                start=args.start,
                duration=args.duration,
                progress=progress,
                say=tell,
            )
        for note in result.notes:
            if note not in said:  # notes that are known only at the end
                say(f"note: {note}")
        return result


@contextmanager
def _shown(description: str, total: int | None, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Yields a function that shows the number of frames done.

    The bar appears with the first frame, so that an error before it shows no bar.
    """
    bar = frames_bar(quiet=quiet)
    task = bar.add_task(escaped(description), total=total)

    def show(frames: int) -> None:
        bar.start()  # does nothing from the second frame on
        if total is not None and frames > total:  # the file has more than it says
            bar.tasks[0].total = None
        bar.update(task, completed=frames)

    try:
        yield show
    finally:
        bar.stop()


def _enhance_one(args: argparse.Namespace, job: Job) -> int:
    total = check(job, args.start, args.duration)
    result = _Enhancing(args).run(job, total, "enhancing")
    # If the video goes to standard output, the summary goes to standard error.
    to = sys.stderr if job.target is None else sys.stdout
    if args.json:
        print(json_line(json_fields(result) | {"output": job.output}), file=to)
        return 0
    frames = result.frames
    unchanged = frames["passed"] - result.high_quality_inputs
    print(
        f"{escaped('standard output' if job.target is None else job.target)}: "
        f"{frames['received']} frames, {frames['enhanced']} enhanced, "
        f"{result.high_quality_inputs} already of high quality, "
        f"{unchanged} {'without a face' if args.strength else 'unchanged'}, "
        f"with {result.model} on {result.device}",
        file=to,
    )
    if not frames["enhanced"]:
        print(f"Nothing was restored: {_why_nothing(result, args.strength)}.", file=to)
    return 0


def _why_nothing(result: FileResult, strength: float) -> str:
    """Returns why a file without a restored frame has none, as a clause."""
    if not strength:
        return "--strength is 0"
    frames = result.frames
    reason = why_not_restored(frames["received"], frames["enhanced"], result.high_quality_inputs)
    return reason.clause if reason is not None else ""


@dataclass(frozen=True)
class _Done:
    """The result of a job that succeeded, and the seconds it took."""

    result: FileResult
    seconds: float


def _enhance_several(args: argparse.Namespace, jobs: list[Job]) -> int:
    """Enhances files, continues after a failure, and returns 1 if there was one.

    The table is printed even if the work is interrupted.
    """
    outcomes: dict[Job, _Done | InputError] = {}

    def note(job: Job, outcome: _Done | InputError) -> None:
        outcomes[job] = outcome
        if isinstance(outcome, InputError):
            say(str(outcome))
        if args.json:
            print(json_line(_line(job, outcome)), flush=True)

    totals: dict[Job, int | None] = {}
    for job in jobs:
        try:
            totals[job] = check(job, args.start, args.duration)
        except InputError as error:
            note(job, error)
    enhancing = _Enhancing(args) if totals else None
    try:
        for index, (job, total) in enumerate(totals.items(), 1):
            assert enhancing is not None
            began = time.perf_counter()
            name = Path(job.input).name[:NAME_SHOWN]
            try:
                result = enhancing.run(job, total, f"{index}/{len(totals)} {name}")
            except InputError as error:
                note(job, error)
            else:
                note(job, _Done(result, time.perf_counter() - began))
    finally:
        if not args.json:
            _print_summary([_row(job, outcomes.get(job), args.strength) for job in jobs])
    return 1 if any(isinstance(outcome, InputError) for outcome in outcomes.values()) else 0


def _line(job: Job, outcome: _Done | InputError) -> dict[str, Any]:
    """Returns the object that `--json` prints for one of several files."""
    if isinstance(outcome, InputError):
        return {"input": job.input, "error": str(outcome)}
    return {"input": job.input} | json_fields(outcome.result) | {"output": job.output}


def _row(job: Job, outcome: _Done | InputError | None, strength: float) -> list[str]:
    """Returns the cells of a job's line in the table; `outcome` is None if it was not finished."""
    if outcome is None:
        return [job.input, "-", "-", "-", "not finished"]
    if isinstance(outcome, InputError):
        return [job.input, "-", "-", "-", f"failed: {outcome}"]
    frames, notes = outcome.result.frames, list(outcome.result.notes)
    if not frames["enhanced"]:
        notes.append(_why_nothing(outcome.result, strength))
    counts = [str(frames["received"]), str(frames["enhanced"]), f"{outcome.seconds:.1f}"]
    return [job.input, *counts, "; ".join(notes)]


def _print_summary(rows: list[list[str]]) -> None:
    """Prints a table of the files, or a list if the terminal is narrow."""
    to = console()
    if to.width < NARROW:
        for name, frames, enhanced, seconds, note in rows:
            counts = f"{frames} frames, {enhanced} enhanced, {seconds} s" if frames != "-" else ""
            to.print(f"{name}: {'; '.join(part for part in (counts, note) if part)}")
        return
    table = Table("file", "frames", "enhanced", "seconds", "note", title="receiver enhance")
    for row in rows:
        table.add_row(*row)
    to.print(table)


def _seconds(text: str) -> float:
    """Parses seconds or [HH:]MM:SS, with an optional fraction; returns seconds."""
    parts = re.fullmatch(r"(?:(?:(\d+):)?([0-5]?\d):)?(\d+\.?\d*|\.\d+)", text, re.ASCII)
    given = parts.groups() if parts else (math.nan,) * 3
    hours, minutes, seconds = (float(part or 0) for part in given)
    value = 3600 * hours + 60 * minutes + seconds
    if not value <= MOST_SECONDS or (":" in text and seconds >= 60):
        raise argparse.ArgumentTypeError(f"{text!r} is not a valid time: give seconds or HH:MM:SS")
    return value


def _length(text: str) -> float:
    """Parses a time of more than 0; returns seconds."""
    value = _seconds(text)
    if not value:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a valid duration: give more than 0 seconds"
        )
    return value
