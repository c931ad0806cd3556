"""Which files `receiver enhance` reads and writes, checked before the work begins."""

import errno
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from receiver.enhance.files import frame_total
from receiver.errors import InputError
from receiver.media.files.reading import ENDINGS
from receiver.media.files.writing import FORMATS, format_of

PIPE = "-"
"""Name that stands for standard input or output."""


DEFAULT_ENDING = ".mp4"
"""Ending of outputs whose input has one that cannot be written."""


@dataclass(frozen=True)
class Job:
    """One file: its source, None for standard input, and target, None for standard output."""

    source: Path | None
    target: Path | None

    @property
    def input(self) -> str:
        """The source as it was given."""
        return PIPE if self.source is None else str(self.source)

    @property
    def output(self) -> str:
        """The target as it was given."""
        return PIPE if self.target is None else str(self.target)


def one_job(places: list[str]) -> Job:
    """The job of the arguments IN and OUT. Raises InputError if they are not two."""
    if len(places) != 2:
        raise InputError(
            f"got {len(places)} name{'s' * (len(places) > 1)}: "
            "give IN and OUT, or files and folders and --into DIR"
        )
    # Before Path, which makes - of ./-
    job = Job(*(None if place == PIPE else Path(place) for place in places))
    if job.source is not None and job.source.is_dir():
        raise InputError(f"{job.source} is a folder: give --into DIR for its videos")
    return job


def jobs_into(places: list[str], folder: Path) -> list[Job]:
    """The jobs that write files, and the videos of folders, into `folder`, which is made.

    Raises InputError if there is no input, an output would replace an input, or two inputs would
    get the same output.
    """
    if PIPE in places:
        raise InputError("standard input has no name for --into DIR: give IN and OUT")
    sources = [source for place in places for source in _videos(Path(place))]
    if not sources:
        raise InputError(f"there is no video in {' and '.join(places)}: give another folder")
    if os.path.realpath(folder) in {os.path.realpath(source.parent) for source in sources}:
        raise InputError(f"{folder} holds inputs: give --into another folder")
    names = [_output_name(source) for source in sources]
    name, count = Counter(map(os.path.normcase, names)).most_common(1)[0]
    if count > 1:
        same = [str(source) for source in sources if os.path.normcase(_output_name(source)) == name]
        raise InputError(
            f"{' and '.join(same)} would both become {folder / name}: enhance one of them apart"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be a folder: {error.strerror}") from error
    return [Job(source, folder / name) for source, name in zip(sources, names, strict=True)]


def _videos(place: Path) -> list[Path]:
    """A file itself, or the videos of a folder by name; hidden ones may be unfinished."""
    if not place.is_dir():
        return [place]
    try:
        found = sorted(place.iterdir())
    except OSError as error:
        raise InputError(f"{place} cannot be read: {error.strerror}") from error
    return [
        path
        for path in found
        if path.suffix.lower() in ENDINGS and path.name[:1] != "." and path.is_file()
    ]


def _output_name(source: Path) -> str:
    if source.suffix.lower() in FORMATS:
        return source.name
    return source.with_suffix(DEFAULT_ENDING).name


def check(job: Job, start: float, duration: float | None) -> int | None:
    """Looks at a job's ends before anything slow; returns how many frames are expected, if known.

    Raises InputError for a source that cannot be read or a target that cannot be written.
    """
    source, target = job.source, job.target
    if source is None:
        _check_pipe(0, lambda: os.read(0, 0), "input", "send a video to it, or give IN a name")
    if target is None:
        _check_pipe(1, lambda: os.write(1, b""), "output", "send it to a file, or give OUT a name")
    total = None if source is None else frame_total(source, start, duration)
    if target is None:
        return total
    if target.is_dir():
        raise InputError(f"{target} is a folder: give a file, or --into {target}")
    format_of(target)
    if source is not None and os.path.realpath(target) == os.path.realpath(source):
        raise InputError(f"{target} is the input itself: give another name for the output")
    return total


def _check_pipe(descriptor: int, use: Callable[[], object], name: str, way_out: str) -> None:
    """Raises InputError if a standard stream cannot be used, or is a terminal."""
    try:
        use()
    except OSError as error:
        why = "is closed" if error.errno == errno.EBADF else f"cannot be used ({error.strerror})"
        raise InputError(f"standard {name} {why}: {way_out}") from error
    if os.isatty(descriptor):
        raise InputError(f"standard {name} is a terminal: {way_out}")
