"""`python -m bench NAME`."""

import argparse
import sys
from collections.abc import Callable
from importlib import import_module

from receiver.commands import terminal

BENCHES = {
    "bitrate": "bench.bitrate.command",
    "browser": "bench.browser",
    "calls": "bench.calls.command",
    "files": "bench.files",
    "fuzz": "bench.fuzz.command",
    "golden": "bench.golden",
    "identity": "bench.identity.command",
    "latency": "bench.latency.command",
    "quality": "bench.quality.command",
    "references": "bench.references.command",
    "soak": "bench.soak",
}
"""The module of each bench."""


def main() -> None:
    """Hands the arguments on to the bench that was named."""
    # Its name stands in every sentence, also in those about its arguments.
    name = sys.argv[1] if sys.argv[1:2] and sys.argv[1] in BENCHES else ""
    terminal.run(f"bench {name}".rstrip(), _load)


def _load() -> Callable[[], int]:
    parser = argparse.ArgumentParser(
        prog="python -m bench", epilog="python -m bench NAME --help tells what each takes"
    )
    parser.add_argument("name", choices=BENCHES, help="what to measure")
    bench = import_module(BENCHES[parser.parse_args(sys.argv[1:2]).name])  # takes seconds

    def work() -> int:
        bench.main(sys.argv[2:])
        return 0

    return work


if __name__ == "__main__":
    main()
