"""`python -m bench NAME`."""

import argparse
import sys
from collections.abc import Callable
from importlib import import_module

from bench.command_line import MissingPackageError
from receiver.commands import terminal

BENCHES = {
    "bitrate": "bench.bitrate.command",
    "browser": "bench.browser.command",
    "calls": "bench.calls.command",
    "files": "bench.files",
    "fuzz": "bench.fuzz.command",
    "golden": "bench.golden",
    "identity": "bench.identity.command",
    "latency": "bench.latency.command",
    "mutation": "bench.mutation.command",
    "quality": "bench.quality.command",
    "references": "bench.references.command",
    "soak": "bench.soak",
}
"""The module of each bench. It is imported only if the bench is named."""
PACKAGE_IS_MISSING = 1
"""Exit code if an optional package is not installed."""


def main() -> None:
    """Passes the arguments to the bench that was named."""
    # Messages start with the bench's name, including those about the arguments.
    name = sys.argv[1] if sys.argv[1:2] and sys.argv[1] in BENCHES else ""
    terminal.run(f"bench {name}".rstrip(), _load)


def _load() -> Callable[[], int]:
    parser = argparse.ArgumentParser(
        prog="python -m bench", epilog="python -m bench NAME --help lists the options of a bench"
    )
    parser.add_argument("name", choices=BENCHES, help="what to measure")
    bench = import_module(BENCHES[parser.parse_args(sys.argv[1:2]).name])  # takes seconds
    from receiver.cores import limit_opencv  # loads OpenCV

    def work() -> int:
        limit_opencv()
        try:
            bench.main(sys.argv[2:])
        except MissingPackageError as error:
            print(error, file=sys.stderr)  # names the bench itself
            return PACKAGE_IS_MISSING
        return 0

    return work


if __name__ == "__main__":
    main()
