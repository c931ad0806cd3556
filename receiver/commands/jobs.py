"""The files that `receiver enhance` reads and writes, checked before the work starts."""

import errno
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from receiver.commands.options import make_folder
from receiver.enhance.files import frame_total
from receiver.errors import InputError
from receiver.media.files.reading import ENDINGS
from receiver.media.files.writing import FORMATS, format_of

PIPE = "-"
"""Name that stands for standard input or output."""


DEFAULT_ENDING = ".mp4"
"""Ending of an output if the ending of its input stands for a format that cannot be written."""


@dataclass(frozen=True)
class Job:
    """One file to enhance.

    Attributes:
        source: the file to read; None for standard input.
        target: the file to write; None for standard output.
    """

    source: Path | None
    target: Path | None

    @property
    def input(self) -> str:
        """The source as it was given, `PIPE` for standard input."""
        return PIPE if self.source is None else str(self.source)

    @property
    def output(self) -> str:
        """The target as it was given, `PIPE` for standard output."""
        return PIPE if self.target is None else str(self.target)


def one_job(places: list[str]) -> Job:
    """Returns the job for the arguments IN and OUT. Raises InputError if there are not two."""
    if len(places) != 2:
        raise InputError(
            f"got {len(places)} name{'s' * (len(places) > 1)}: "
            "give IN and OUT, or files and folders and --into DIR"
        )
    # Compared before Path turns ./- into -
    job = Job(*(None if place == PIPE else Path(place) for place in places))
    if job.source is not None and job.source.is_dir():
        raise InputError(f"{job.source} is a folder: give --into DIR for its videos")
    return job


def jobs_into(places: list[str], folder: Path) -> list[Job]:
    """Returns the jobs that write files, and the videos of folders, into `folder`.

    Creates the folder. Raises InputError if that fails, if there is no input, if an output would
    replace an input, or if two inputs would get the same output.
    """
    if PIPE in places:
        raise InputError("standard input has no file name for --into DIR: give IN and OUT")
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
            f"{' and '.join(same)} would both become {folder / name}: enhance one separately"
        )
    make_folder(folder)
    return [Job(source, folder / name) for source, name in zip(sources, names, strict=True)]


def _videos(place: Path) -> list[Path]:
    """Returns a file itself, or the videos of a folder sorted by name.

    Hidden files are left out: they may be unfinished outputs.
    """
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
    """Returns the name that a source's output gets in the folder of `--into`."""
    if source.suffix.lower() in FORMATS:
        return source.name
    return source.with_suffix(DEFAULT_ENDING).name


def check(job: Job, start: float, duration: float | None) -> int | None:
    """Checks that a job's source can be read and its target written, before any slow work.

    Args:
        start: of the part to enhance, in seconds.
        duration: of the part in seconds; None for the rest.

    Returns:
        The expected number of frames; None if it is not known.

    Raises:
        InputError: if the source cannot be read or the target cannot be written.
    """
    source, target = job.source, job.target
    if source is None:
        _check_pipe(0, lambda: os.read(0, 0), "input", "send a video to it, or name a file")
    if target is None:
        _check_pipe(1, lambda: os.write(1, b""), "output", "send it to a file, or name a file")
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
    """Raises InputError if a standard stream cannot be used, or is a terminal.

    Args:
        use: reads or writes nothing, to see whether the stream works.
    """
    try:
        use()
    except OSError as error:
        why = "is closed" if error.errno == errno.EBADF else f"cannot be used ({error.strerror})"
        raise InputError(f"standard {name} {why}: {way_out}") from error
    if os.isatty(descriptor):
        raise InputError(f"standard {name} is a terminal: {way_out}")
