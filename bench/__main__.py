"""`python -m bench NAME`."""

import argparse
import sys

from bench import bitrate, browser, calls, files, fuzz, identity, latency, quality, references, soak
from receiver.errors import ReceiverError

BENCHES = {
    "bitrate": bitrate.main,
    "browser": browser.main,
    "calls": calls.main,
    "files": files.main,
    "fuzz": fuzz.main,
    "identity": identity.main,
    "latency": latency.main,
    "quality": quality.main,
    "references": references.main,
    "soak": soak.main,
}


def main() -> None:
    """Hands the arguments on to the bench that was named."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", epilog="python -m bench NAME --help tells what each takes"
    )
    parser.add_argument("name", choices=list(BENCHES), help="what to measure")
    name = parser.parse_args(sys.argv[1:2]).name
    try:
        BENCHES[name](sys.argv[2:])
    except ReceiverError as error:
        parser.exit(2, f"bench {name}: {error}\n")
    except KeyboardInterrupt:
        sys.exit(f"bench {name}: interrupted")


if __name__ == "__main__":
    main()
