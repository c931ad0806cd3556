"""Writes files that appear under their name only when they are complete."""

import contextlib
import logging
import os
import re
import secrets
import stat
from io import FileIO
from pathlib import Path
from types import TracebackType

from receiver.errors import InputError

logger = logging.getLogger(__name__)

PRIVATE = 0o600
"""Mode of files with faces of other people: recordings and albums."""
SHORT = 40
"""Characters of the target's name at the start of a temporary name."""
PUBLIC = 0o666
"""Mode of other files, before the process's umask."""


class NewFile:
    """A file that is written under a temporary name in the target's folder, then renamed.

    The temporary name is random, hidden, and has the target's ending: `.call.1f0c….part.mp4` for
    `call.mp4`. The file is created exclusively and without following symbolic links, so that no
    existing file is overwritten. `finish` replaces the target in one step: a symbolic link at the
    target is itself replaced, and the file it points to stays.

    As a context manager, it finishes the file at the end, or discards it after an exception. A
    process that is killed leaves the temporary file; no other process deletes it, but the next
    `NewFile` for the same target logs its name.

    Attributes:
        path: the target.
        unfinished: the temporary name.
        file: open for reading and writing; each write is complete or raises OSError.
        finished: whether the target has been replaced.
    """

    def __init__(self, path: Path, *, private: bool) -> None:
        """Creates the temporary file.

        Args:
            path: the target, in an existing folder.
            private: whether only this user may read the file (`PRIVATE`); otherwise the umask
                applies.

        Raises:
            InputError: if the file cannot be created there.
        """
        self.path = path
        self.finished = False
        self.unfinished = path.parent / (
            # libav selects the format by the ending. Shortened to stay within the system's limit.
            f".{path.stem[:SHORT]}.{secrets.token_hex(8)}.part{path.suffix}"
        )
        mode = PRIVATE if private else PUBLIC

        def create(name: str, flags: int) -> int:
            # Windows lacks O_NOFOLLOW; O_EXCL, from the mode "x", rejects links anyway.
            return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), mode)

        try:
            _check_target(path)
            _log_leftovers(path)
            self.file = _WholeWrites(str(self.unfinished), "x+", opener=create)
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}") from error

    def __enter__(self) -> "NewFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.finish()
        else:
            self.discard()

    def finish(self) -> None:
        """Replaces the target by the file, after flushing it to the disk.

        Raises InputError if that fails; the content then stays under the temporary name.
        """
        try:
            try:
                os.fsync(self.file.fileno())
            finally:
                self.file.close()  # Windows cannot rename an open file
            os.replace(self.unfinished, self.path)
        except OSError as error:
            raise InputError(
                f"{self.path} cannot be written: {error.strerror}; "
                f"what was written is in {self.unfinished}"
            ) from error
        self.finished = True
        _sync_folder(self.path.parent)

    def discard(self) -> None:
        """Deletes the temporary file; does nothing after `finish`, whether that failed or not."""
        if not self.file.closed:
            with contextlib.suppress(OSError):
                self.file.close()
            with contextlib.suppress(OSError):
                self.unfinished.unlink()


class _WholeWrites(FileIO):
    """An unbuffered file whose `write` writes all data, as libav and zipfile expect.

    Because Python buffers nothing, a process that is killed loses no data that libav has written.
    """

    def write(self, data: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        """Returns the size of `data`. Raises OSError if not all of it can be written."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        while rest:
            rest = rest[super().write(rest) :]
        return size


def _check_target(path: Path) -> None:
    """Raises InputError if the target is a folder, a device, a pipe or a socket."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise InputError(f"{path} is not a regular file: give another name for the output")


def _log_leftovers(path: Path) -> None:
    """Logs the names of unfinished files for the same target."""
    stem, suffix = re.escape(path.stem[:SHORT]), re.escape(path.suffix)
    leftover = re.compile(
        rf"\.{stem}(\.[0-9a-f]{{16}})?\.part{suffix}"
    )  # earlier versions used no number
    with contextlib.suppress(OSError):  # a folder may be writable but not readable
        for found in sorted(path.parent.iterdir()):
            if leftover.fullmatch(found.name):
                logger.warning(
                    "%s is an unfinished %s of a process that was killed or still runs; it is kept",
                    found,
                    path.name,
                )


def _sync_folder(folder: Path) -> None:
    """Makes a rename outlive a power failure, if the system can."""
    with contextlib.suppress(
        OSError
    ):  # Windows cannot open folders, and some file systems cannot sync them
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
