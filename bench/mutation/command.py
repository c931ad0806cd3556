"""Mutation testing: `python -m bench mutation`. By hand: it takes hours.

Changes one place of the code at a time, in a copy of the checkout, and runs the tests: a mutation
that no test notices survives. Writes the survivors with file, line and diff to
bench-output/mutation/TARGET.md. Ctrl-C ends a run, and the next one goes on where it ended, as long
as the mutated modules are the same. Tests that need clips are skipped.
"""

import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.command_line import bench_parser, require
from receiver.commands.terminal import console
from receiver.errors import InputError

if TYPE_CHECKING:
    from bench.mutation.session import Session

OUTPUT = Path("bench-output") / "mutation"
ROOT = Path(__file__).parents[2]
TARGETS = {
    "keyframes": (("keyframes",), ("tests/keyframes",)),
    "faces": (
        ("receiver/enhance/faces", "receiver/enhance/pipeline.py", "receiver/enhance/quality.py"),
        ("tests/enhance/test_golden.py", "tests/enhance"),
    ),
}
"""Sources and tests by target; see `bench.mutation.session.Target`."""


def run(session: "Session", name: str, count: int | None, minutes: float, again: bool) -> None:
    """Tests mutations until `count` or the time is reached, or until Ctrl-C."""
    items = list(islice(session.survived() if again else session.pending(), count))
    until = time.monotonic() + 60.0 * minutes
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    survived = 0
    try:
        with Progress(*columns, TimeElapsedColumn(), console=console()) as progress:
            task = progress.add_task(f"{name}: tests without a mutation", total=len(items))
            session.check()
            progress.update(task, description=f"{name}: none survived yet")
            for noticed in session.run(items):
                survived += not noticed
                progress.update(task, advance=1, description=f"{name}: {survived} survived")
                if time.monotonic() > until:
                    break
    except KeyboardInterrupt:
        console().print("interrupted: run the same command to go on")


def main(arguments: list[str]) -> None:
    """Runs the command line."""
    parser = bench_parser("mutation", __doc__, f"targets: {', '.join(TARGETS)}")
    parser.add_argument("--only", metavar="TARGET", help="this target (default all)")
    parser.add_argument("--count", type=int, metavar="N", help="at most N mutations a target")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), metavar="N", help="time for each target"
    )
    parser.add_argument(
        "--again", action="store_true", help="test the survivors again: after new tests"
    )
    args = parser.parse_args(arguments)
    if args.count is not None and args.count < 1:
        parser.error(f"--count {args.count} is no number of mutations: give 1 or more")
    if not args.minutes > 0:
        parser.error(f"--minutes {args.minutes:g} is no time: give more than 0")
    require("mutation", "cosmic_ray", "pytest")
    if args.only not in (None, *TARGETS):
        raise InputError(f"there is no target {args.only!r}: give one of {', '.join(TARGETS)}")

    from bench.mutation.report import markdown, table
    from bench.mutation.session import Session, Target

    OUTPUT.mkdir(parents=True, exist_ok=True)
    for name in [args.only] if args.only else TARGETS:
        target = Target(*TARGETS[name])
        session = Session(target, ROOT, OUTPUT / f"{name}-{target.digest(ROOT)}.sqlite")
        try:
            run(session, name, args.count, args.minutes, args.again)
            console().print(table(session.counts()))
            survivors = session.survivors()
        finally:
            session.close()
        report = OUTPUT / f"{name}.md"
        report.write_text(markdown(survivors))
        console().print(f"survivors: {len(survivors)}, in {report}")
