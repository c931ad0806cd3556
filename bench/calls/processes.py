"""Child processes that exchange JSON lines with their parent."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from receiver.errors import ReceiverError

PATIENCE = 90
"""Seconds that a process has for an answer: a browser starts slowly on a busy machine."""


class Child:
    """A process that is told JSON lines, answers with JSON lines, and ends when nobody can tell."""

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        self.pid = process.pid
        self._process, self._errors = process, errors

    def tell(self, **message: Any) -> None:
        """One line to its standard input. Raises ReceiverError if it has ended."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._gone() from None

    def answer(self) -> dict[str, Any]:
        """Its next line. Raises ReceiverError if it ends first, or takes too long."""
        assert self._process.stdout is not None
        watchdog = threading.Timer(PATIENCE, self._process.kill)
        watchdog.start()
        try:
            for line in self._process.stdout:
                if line.startswith("{"):  # libraries may print what they like
                    answer: dict[str, Any] = json.loads(line)
                    return answer
        finally:
            watchdog.cancel()
        raise self._gone()

    def finish(self) -> dict[str, Any]:
        """Ends it; its last line, which says what it has measured."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self.answer()

    def _gone(self) -> ReceiverError:
        said = self._errors.read_text().strip().splitlines() or ["it said nothing"]
        return ReceiverError(f"the {self._errors.stem} broke off: {said[-1]}")


@contextlib.contextmanager
def started(
    name: str, command: list[str], folder: Path, *, namespace: bool = False
) -> Iterator[Child]:
    """Runs a Python command, `["-m", "some.module", ...]`, until the context ends.

    Args:
        name: what errors call it; its standard error goes to `folder`/NAME.log.
        namespace: whether it gets a network namespace of its own.
    """
    errors = folder / f"{name}.log"
    alone = ["unshare", "--net"] if namespace else []
    with (
        errors.open("w") as log,
        subprocess.Popen(
            [*alone, sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,  # Ctrl-C is for the parent, which ends all in their order
        ) as process,
    ):
        try:
            yield Child(process, errors)
        finally:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """Lets it end by itself for a while, then ends it with everything that it started."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
