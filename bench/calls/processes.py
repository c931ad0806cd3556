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

ANSWER_SECONDS = 90
"""Longest wait for a process' answer: a browser starts slowly on a busy machine."""


class Child:
    """A process that reads and writes JSON lines and ends when its standard input is closed."""

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        self.pid = process.pid
        self._process, self._errors = process, errors

    def tell(self, **message: Any) -> None:
        """Sends a message. Raises ReceiverError if the process has ended."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._gone() from None

    def answer(self) -> dict[str, Any]:
        """Returns its next message. Raises ReceiverError if it ends first, or takes too long."""
        assert self._process.stdout is not None
        watchdog = threading.Timer(ANSWER_SECONDS, self._process.kill)
        watchdog.start()
        try:
            for line in self._process.stdout:
                if line.startswith("{"):  # libraries may print other lines
                    answer: dict[str, Any] = json.loads(line)
                    return answer
        finally:
            watchdog.cancel()
        raise self._gone()

    def finish(self) -> dict[str, Any]:
        """Ends the process and returns its last message, the results."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self.answer()

    def _gone(self) -> ReceiverError:
        lines = self._errors.read_text().strip().splitlines() or ["it printed nothing"]
        return ReceiverError(f"the {self._errors.stem} ended early: {lines[-1]}")


@contextlib.contextmanager
def started(
    name: str, command: list[str], folder: Path, *, namespace: bool = False
) -> Iterator[Child]:
    """Runs Python with arguments such as `["-m", "some.module"]` until the context ends.

    Args:
        name: its name in errors; its standard error goes to `folder`/NAME.log.
        namespace: whether it gets a separate network namespace.
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
            start_new_session=True,  # Ctrl-C reaches the parent alone, which ends all in order
        ) as process,
    ):
        try:
            yield Child(process, errors)
        finally:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """Waits for the process to end, then kills it with all processes that it started."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
