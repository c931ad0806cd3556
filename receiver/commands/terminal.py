"""Runs commands: standard streams that never raise, error messages, exit codes.

Imports nothing slow, so that `run` can start before the rest of the package is loaded.
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
    from _typeshed import DataclassInstance
    from rich.console import Console

BAD_INPUT = 2
"""Exit code after bad input, and if standard output cannot be written."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells give it."""
JSON_KEYS = {"high_quality_inputs": "well_received"}
"""Keys of `--json` objects that differ from the name of the field: scripts rely on them."""
CLOSED = (errno.EPIPE, errno.EBADF)
"""Errors of a stream that has no reader (any more); they are not failures of the command."""


class _Output(io.TextIOWrapper):
    """A standard stream that drops text that cannot be written, and keeps the first error.

    Writing bytes to its `buffer` still raises.

    Attributes:
        error: the first error; None if there was none.
    """

    error: OSError | None = None

    def write(self, text: str, /) -> int:
        """Writes or drops `text`; returns its length."""
        try:
            return super().write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        """Writes or drops the content of the buffers."""
        try:
            super().flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        """Redirects the stream to the null device, or its buffers would fail again at the exit."""
        self.error = self.error or error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


def run(name: str, load: Callable[[], Callable[[], int]]) -> NoReturn:
    """Runs the command `name` and exits with the code of its work.

    Exits with 2 and a sentence after a ReceiverError, or if standard output cannot be written
    (the disk is full, for example), and with 130 after Ctrl-C. A closed standard stream is not an
    error.

    Args:
        load: imports the modules of the command and returns a function that does the work and
            returns an exit code.
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
    """Ends the process on Ctrl-C while modules are loaded and there is nothing to clean up.

    A KeyboardInterrupt would not always get through: modules in C turn it into an ImportError.
    """

    def end(*_: object) -> None:
        with contextlib.suppress(OSError):
            os.write(2, f"{name}: interrupted\n".encode())
        os._exit(INTERRUPTED)

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # ignored, as for a shell's background jobs
        yield
        return
    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def say(sentence: str, name: str = "receiver") -> None:
    """Prints a line to standard error, after the name of the command."""
    print(f"{name}: {escaped(sentence)}", file=sys.stderr, flush=True)


def json_line(value: Any) -> str:
    """Returns a value as JSON on one line that every parser accepts.

    Numbers that JSON lacks (NaN, infinity) become null. Bytes of a file name that are not UTF-8,
    which Python represents by lone surrogates, become escapes as in `escaped`.
    """
    return json.dumps(_for_json(value))


def json_fields(result: "DataclassInstance") -> dict[str, Any]:
    """Returns the fields of a command's result by the keys of its `--json` object."""
    from dataclasses import asdict

    return {JSON_KEYS.get(key, key): value for key, value in asdict(result).items()}


def _for_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _for_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_for_json(inner) for inner in value]
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def console(*, stderr: bool = False, width: int | None = None) -> "Console":
    """Returns a console that prints strings as plain text, with control characters escaped.

    It interprets no markup and no emoji codes. Words that are too long for a line are continued
    on the next one; nothing is cut off.
    """
    from rich.console import Console  # takes a tenth of a second
    from rich.text import Text

    class Terminal(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            lines = "\n".join(map(escaped, text.split("\n")))
            return super().render_str(lines, **{**options, "overflow": "fold"})

    return Terminal(stderr=stderr, width=width, markup=False, emoji=False)


def _prepare_streams() -> None:
    """Opens closed standard streams, and makes the output streams drop what they cannot write."""
    for descriptor, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            # Otherwise the next file that is opened would become standard output. The mode is the
            # wrong one on purpose: using the stream fails, as if it were closed.
            os.open(os.devnull, mode)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)))
    sys.stdout = _forgiving(sys.stdout, 1)
    sys.stderr = _forgiving(sys.stderr, 2)
    if logging.lastResort is not None:  # log messages contain file names, too
        logging.lastResort.setFormatter(_LogLines())


def _forgiving(stream: Any, descriptor: int) -> TextIO:
    """Returns a text stream that writes like `stream`, but drops what cannot be written.

    Characters that the encoding lacks are escaped. Only the interpreter's own streams on files and
    pipes are replaced; others (of a test, or a console on Windows) are returned as they are.
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
    """Formats each log message on one line; the traceback below it stays as it is."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return escaped(super().formatMessage(record))
