"""Real calls over bad networks: `python -m bench calls`.

Headless Chromium publishes the demo's own clip through the page of `receiver serve`. Each of them
has a network namespace; bench.calls.relay between them delays, loses and queues packets. Makes each
call with aiortc's stock transport and then with this project's. The page and WHIP take another
path, so the conditions start with the first frame.
"""

import argparse
import itertools
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from bench.calls.conducting import call
from bench.calls.figures import figures
from bench.calls.receiving import clip
from bench.calls.relay import obstacle
from bench.calls.report import TRANSPORTS, WIDTH, plot, table, write
from bench.calls.scenarios import Scenario, chosen, scenarios
from bench.chromium.driver import BINARY, write_y4m
from bench.command_line import bench_parser, require
from receiver.commands.progress import progress_bar
from receiver.commands.terminal import console
from receiver.errors import InputError, MissingError, ReceiverError

SHORTEST = 8
"""Minimum seconds of a call: an outage and the recovery have to fit."""


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parses the arguments. Raises InputError for a call that is too short."""
    parser = bench_parser("calls", __doc__, f"scenarios: {', '.join(scenarios(60))}")
    parser.add_argument("--only", metavar="NAME[,NAME]", help="these scenarios (default all)")
    parser.add_argument("--seconds", type=float, default=60, help="of each call (default 60)")
    parser.add_argument("--transport", choices=(*TRANSPORTS, "both"), default="both")
    parser.add_argument("--seed", type=int, default=1, help="of the random numbers (default 1)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("bench-output/calls"),
        metavar="FOLDER",
        help="for calls.json and calls.png (default %(default)s)",
    )
    args = parser.parse_args(arguments)
    if not args.seconds >= SHORTEST:
        raise InputError(f"a call of {args.seconds:g} s is too short: give {SHORTEST} or more")
    return args


def main(arguments: list[str]) -> None:
    """Runs the command line. Raises InputError for bad input."""
    args = parse(arguments)
    require("calls", "matplotlib", "skimage")
    wanted = chosen(args.only, args.seconds)
    if BINARY is None:
        raise MissingError("there is no Chromium: apt install chromium")
    if problem := obstacle():
        raise InputError(problem)
    results: list[dict[str, Any]] = []
    transports = TRANSPORTS if args.transport == "both" else (args.transport,)
    with tempfile.TemporaryDirectory(prefix="calls-") as name, progress_bar() as bar:
        camera = Path(name) / "camera.y4m"
        write_y4m(camera, clip())
        for title, transport in itertools.product(wanted, transports):
            task = bar.add_task(f"{title}, {transport}", total=args.seconds)
            passed = partial(bar.update, task)
            try:
                noted = call(wanted[title], transport, args.seconds, args.seed, camera, passed)
            except ReceiverError as error:
                bar.console.print(f"{title}, {transport}: {error}")
                continue
            finally:
                bar.remove_task(task)
            results.append(result_of(title, transport, wanted[title], noted))
            write(args.out, results)
    if not results:
        raise InputError("no call succeeded: see above")
    shown = table(results, args.seconds)
    console(width=max(WIDTH, console().width)).print(shown)
    plot(results, args.out / "calls.png")
    print(f"written: {args.out / 'calls.json'}, {args.out / 'calls.png'}")


def result_of(
    title: str, transport: str, scenario: Scenario, noted: dict[str, Any]
) -> dict[str, Any]:
    """Returns a call's result, as it is shown and written."""
    return {
        "scenario": title,
        "transport": transport,
        "phases": [asdict(phase) for phase in scenario.phases],
        "figures": figures(noted, scenario),
        "noted": noted,
    }
