"""How a command meets the terminal: standard streams that never break it, sentences, exit codes.

Imports nothing slow, so that `run` can begin before the rest of the package is loaded.
"""

import contextlib
import errno
import io
import json
import logging
import math
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


class _Output(io.TextIOWrapper):
    """A standard stream that drops text which cannot be written, and keeps the first error.

    Bytes that are written to its `buffer` raise, as always.
    """

    error: OSError | None = None

    def write(self, text: str, /) -> int:
        """Writes or drops `text`."""
        try:
            return super().write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        """Writes or drops what is in the buffers."""
        try:
            super().flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        """Leads the stream nowhere: what its buffers hold would fail again, up to the very end."""
        self.error = self.error or error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


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
    sys.stdout.flush()
    lost = sys.stdout.error if isinstance(sys.stdout, _Output) else None
    if lost is not None and lost.errno not in CLOSED and code != BAD_INPUT:
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


def json_line(value: Any) -> str:
    """Returns JSON on one line that any reader takes.

    A number that JSON lacks (NaN, infinity) becomes null; a byte of a name that is no UTF-8, for
    which Python has half a surrogate pair, its escape as `escaped` has it.
    """
    return json.dumps(_for_json(value))


def _for_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _for_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_for_json(inner) for inner in value]
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def console(*, stderr: bool = False, width: int | None = None) -> "Console":
    """Returns a console whose strings are plain text: no markup, no emoji codes, escaped lines.

    Words that are too long go on in the next line; nothing is cut.
    """
    from rich.console import Console  # takes a tenth of a second
    from rich.text import Text

    class Terminal(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            lines = "\n".join(map(escaped, text.split("\n")))
            return super().render_str(lines, **{**options, "overflow": "fold"})

    return Terminal(stderr=stderr, width=width, markup=False, emoji=False)


def _prepare_streams() -> None:
    """Opens what is closed of the standard streams and makes output drop what it cannot write."""
    for descriptor, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            # Else the next file that is opened would be standard output. In the wrong mode: using
            # it fails, as with a closed one.
            os.open(os.devnull, mode)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)))
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
        if isinstance(stream, _Output) or not isinstance(getattr(buffer, "raw", buffer), io.FileIO):
            return cast(TextIO, stream)
    return _Output(
        io.BufferedWriter(io.FileIO(descriptor, "w", closefd=False)),
        encoding=stream.encoding if stream is not None else "utf-8",
        errors="backslashreplace",
        line_buffering=stream is not None and (stream.line_buffering or stream.write_through),
    )


class _LogLines(logging.Formatter):
    """Log messages on one line each; tracebacks below stay as they are."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return escaped(super().formatMessage(record))
