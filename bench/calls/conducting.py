"""One call: publisher, receiver and relay are processes."""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench.calls.link import Plan
from bench.calls.processes import started
from bench.calls.relay import relaying
from bench.calls.scenarios import Scenario


def call(
    scenario: Scenario,
    transport: str,
    seconds: float,
    seed: int,
    camera: Path,
    passed: Callable[..., None],
) -> dict[str, Any]:
    """Makes a call and returns all notes; their times are seconds since the first frame.

    Args:
        passed: called with `completed`, the seconds that have passed.
    """
    plan = Plan(scenario.phases, seed, scenario.hole_s)
    with tempfile.TemporaryDirectory(prefix="calls-") as name:
        folder = Path(name)
        child = partial(started, folder=folder, namespace=True)
        receiving = ["-m", "bench.calls.receiving", name, transport]
        publishing = ["-m", "bench.calls.publishing", name, str(camera), str(scenario.cap_kbps)]
        with child("publisher", publishing) as publisher, child("receiver", receiving) as receiver:
            publisher.answer()
            receiver.answer()
            with relaying(publisher, receiver, plan, folder) as network:
                publisher.tell()
                ssrcs = publisher.answer()
                begin = receiver.answer()["first"]
                network.tell(begin=begin, **ssrcs)
                until(begin, seconds, passed)
                reports: dict[str, Any] = {}
                for one in (receiver, publisher, network):
                    reports |= one.finish()
    return from_beginning(reports, begin, seconds)


def until(begin: float, seconds: float, passed: Callable[..., None]) -> None:
    """Waits for the end of the call."""
    while (now := time.monotonic() - begin) < seconds:
        passed(completed=now)
        time.sleep(min(0.5, seconds - now))


def from_beginning(reports: dict[str, Any], begin: float, seconds: float) -> dict[str, Any]:
    """Returns the processes' notes from within the call, by its clock."""

    def rows(name: str) -> list[list[Any]]:
        shifted = ([row[0] - begin, *row[1:]] for row in reports[name])
        return [row for row in shifted if row[0] <= seconds]

    samples = [{**one, "at": one["at"] - begin} for one in reports["sent"]]
    return {
        "seconds": seconds,
        "left": rows("left"),
        "passages": rows("passages"),
        "stats": rows("stats"),
        "sent": [one for one in samples if one["at"] <= seconds],
        "decoded": rows("decoded"),
        "late": reports["late"],
        "faces": reports["faces"],
        "hole_at": reports["hole_at"] and reports["hole_at"] - begin,
    }
