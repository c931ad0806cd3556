"""How a command meets the terminal: standard streams that never break it, sentences, exit codes.

Imports nothing slow, so that `run` can begin before the rest of the package is loaded.
"""

import contextlib
import errno
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, cast

from receiver.errors import ReceiverError
from receiver.text import escaped

if TYPE_CHECKING:
    from rich.console import Console

BAD_INPUT = 2
"""Exit code after bad input, and if standard output cannot be written."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells give it."""
CLOSED = (errno.EPIPE, errno.EBADF)
"""Errors of a stream that nobody reads (any more): no failure of the command."""


class _Stream(io.FileIO):
    """A standard stream that drops what it cannot write, and keeps the first error."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Writes or drops `data`, a bytes-like object."""
        if self.error is None:
            try:
                return super().write(data)
            except OSError as error:
                self.error = error
        return memoryview(data).nbytes


def run(name: str, load: Callable[[], Callable[[], int]]) -> NoReturn:
    """Runs the command `name` and exits with the code of its work.

    Exits with 2 and a sentence after a ReceiverError, or if standard output cannot be written (a
    full disk, say); with 130 after Ctrl-C. A standard stream that is closed changes nothing.

    Args:
        load: imports what the command needs, and returns its work, which returns an exit code.
    """
    _prepare_streams()
    code: Any
    try:
        with _ending_at_once(name):
            work = load()
        code = work()
    except SystemExit as end:  # argparse's
        code = end.code
    except ReceiverError as error:
        say(str(error), name)
        code = BAD_INPUT
    except KeyboardInterrupt:
        say("interrupted", name)
        code = INTERRUPTED
    lost = _output_error()
    if lost is not None:
        say(f"standard output cannot be written: {lost.strerror}", name)
        code = code or BAD_INPUT
    sys.exit(code)


@contextlib.contextmanager
def _ending_at_once(name: str) -> Iterator[None]:
    """Ends the process on Ctrl-C while modules are loaded, when there is nothing to clean up.

    A KeyboardInterrupt would not always arrive: modules in C make ImportErrors of it.
    """

    def end(*_: object) -> None:
        with contextlib.suppress(OSError):
            os.write(2, f"{name}: interrupted\n".encode())
        os._exit(INTERRUPTED)

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # ignored, as in a shell's background
        yield
        return
    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def say(sentence: str, name: str = "receiver") -> None:
    """Prints a line to standard error, in the name of a command."""
    print(f"{name}: {escaped(sentence)}", file=sys.stderr, flush=True)


def console(*, stderr: bool = False, width: int | None = None) -> "Console":
    """Returns a console whose strings are plain text: no markup, no emoji codes, escaped lines."""
    from rich.console import Console  # takes a tenth of a second
    from rich.text import Text

    class Terminal(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            lines = "\n".join(map(escaped, text.split("\n")))
            return super().render_str(lines, **options)

    return Terminal(stderr=stderr, width=width, markup=False, emoji=False)


def _prepare_streams() -> None:
    """Opens what is closed of the standard streams and makes output drop what it cannot write."""
    for descriptor, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            # Else the next file that is opened would be standard output. In the wrong mode: using
            # it fails, as with a closed one.
            os.set_inheritable(os.open(os.devnull, mode), True)
    sys.stdout = _forgiving(sys.stdout, 1)
    sys.stderr = _forgiving(sys.stderr, 2)
    if logging.lastResort is not None:  # names of files stand in what is logged, too
        logging.lastResort.setFormatter(_LogLines())


def _forgiving(stream: Any, descriptor: int) -> TextIO:
    """Returns a text stream that writes as `stream` does, but drops what cannot be written.

    Characters that the encoding lacks are escaped. Any other stream than the interpreter's own on
    a file or a pipe is returned as it is: a test's, say, or a console on Windows.
    """
    if stream is not None:
        buffer = getattr(stream, "buffer", None)
        if type(getattr(buffer, "raw", buffer)) is not io.FileIO:
            return cast(TextIO, stream)
        stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Stream(descriptor, "w", closefd=False)),
        encoding=stream.encoding if stream is not None else "utf-8",
        errors="backslashreplace",
        line_buffering=stream is not None and (stream.line_buffering or stream.write_through),
    )


def _output_error() -> OSError | None:
    """What kept standard output from being written, if it is not merely closed."""
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    error = raw.error if isinstance(raw, _Stream) else None
    return None if error is None or error.errno in CLOSED else error


class _LogLines(logging.Formatter):
    """Log messages on one line each; tracebacks below stay as they are."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return escaped(super().formatMessage(record))
