"""Runs the command `receiver`, also as `python -m receiver`."""

import sys
from collections.abc import Callable

from receiver.commands import terminal


def main() -> None:
    """Runs the command line and exits: 0 success, 1 something is missing or failed, 2 bad input."""
    terminal.run("receiver", _load)


def _load() -> Callable[[], int]:
    from receiver.commands import cli  # takes a second

    return lambda: cli.run(sys.argv[1:])


if __name__ == "__main__":
    main()
