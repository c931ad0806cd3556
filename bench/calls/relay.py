"""A network between two processes on one machine that delays, loses and queues packets.

Each process runs in a separate, unnamed network namespace, which ends with it. The relay, a
third process, has a TUN device in each namespace and carries packets between them. Its standard
input starts and ends it: `python -m bench.calls.relay PLAN PID PID`.

    with started("one", ...) as one, started("other", ...) as other:
        with relaying(one, other, Plan(phases, seed=1), folder) as relay:
            relay.tell(begin=time.monotonic())

All times are seconds of `time.monotonic`, which is the same in all processes.
"""

import contextlib
import errno
import fcntl
import json
import math
import os
import select
import shutil
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from bench.calls.link import Conditions, Hole, Link, Passage, Plan
from bench.calls.processes import Child, started
from receiver.errors import InputError

ADDRESSES = ("10.77.0.1", "10.77.0.2")
"""Addresses of the first and the second namespace. They are invisible elsewhere."""
DEVICE = Path("/dev/net/tun")
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
"""Constants of Linux' if_tun.h."""


def obstacle() -> str | None:
    """Returns why this machine cannot make such a network; None if it can."""
    absent = [name for name in ("ip", "nsenter", "unshare") if shutil.which(name) is None]
    if sys.platform != "linux" or absent:
        return f"an isolated network needs Linux and {', '.join(absent) or 'ip'}"
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return f"an isolated network needs {DEVICE}, which cannot be opened here"
    if subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode:
        return "an isolated network needs the right to make namespaces: run it as root"
    return None


def open_tun(name: str) -> int:
    """Returns the descriptor of a new TUN device for bare IP packets; closing it removes it."""
    descriptor = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK)
    request = struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI)
    fcntl.ioctl(descriptor, TUNSETIFF, request)
    return descriptor


def place_tun(name: str, pid: int, address: str) -> None:
    """Moves a TUN device into the namespace of process `pid` and sets its address."""
    run = ["nsenter", "--target", str(pid), "--net", "ip"]
    for command in (
        ["ip", "link", "set", name, "netns", str(pid)],
        [*run, "link", "set", "lo", "up"],
        [*run, "link", "set", name, "addrgenmode", "none"],  # no IPv6: it would be another path
        [*run, "address", "add", f"{address}/24", "dev", name],
        [*run, "link", "set", name, "up"],
    ):
        subprocess.run(command, check=True)


def relay(tuns: tuple[int, int], plan: Plan, commands: IO[str]) -> dict[str, Any]:
    """Carries packets until the commands end. Returns all passages, ready for JSON."""
    links = Link(2 * plan.seed), Link(2 * plan.seed + 1)
    hole: Hole | None = None
    phases: deque[tuple[float, Conditions]] = deque()
    while True:
        now = time.monotonic()
        _deliver(links, tuns, now)
        if phases and phases[0][0] <= now:
            _, links[0].conditions = phases.popleft()
            links[1].conditions = links[0].conditions
        changes = phases[0][0] if phases else math.inf
        wait = min(changes, links[0].next_at(), links[1].next_at(), now + 1) - now
        sources: list[Any] = [*tuns, commands]
        ready, _, _ = select.select(sources, [], [], max(0.0, wait))
        if commands in ready:
            if not (line := commands.readline()):
                return _log(links, hole)
            start = json.loads(line)
            phases.extend((start["begin"] + one.at, one.conditions) for one in plan.phases)
            if plan.hole_s is not None:
                hole = Hole(start["begin"] + plan.hole_s, start["ssrc"], start["rtx"])
            continue  # the conditions come before any packet that is waiting
        try:
            _take(links, tuns, hole)
        except OSError as error:
            if error.errno != errno.EBADFD:
                raise
            return _log(links, hole)  # a namespace has ended, and its device with it


def _take(links: tuple[Link, Link], tuns: tuple[int, int], hole: Hole | None) -> None:
    now = time.monotonic()
    for link, tun in zip(links, tuns, strict=True):
        for packet in _packets(tun):
            if link is links[0] and hole is not None and hole.swallows(now, packet):
                link.passages.append(Passage(now, len(packet), None))
            else:
                link.push(now, packet)


def _deliver(links: tuple[Link, Link], tuns: tuple[int, int], now: float) -> None:
    for link, tun in zip(links, reversed(tuns), strict=True):
        for packet in link.due(now):
            with contextlib.suppress(OSError):  # its device is gone or full: the packet is lost
                os.write(tun, packet)


def _packets(tun: int) -> Iterator[bytes]:
    with contextlib.suppress(BlockingIOError):
        while True:
            yield os.read(tun, 65536)


def _log(links: tuple[Link, Link], hole: Hole | None) -> dict[str, Any]:
    return {
        "passages": [[one.at, one.size, one.waited] for one in links[0].passages],
        "late": sorted([*links[0].late, *links[1].late]),
        "hole_at": hole and hole.made_at,
    }


@contextlib.contextmanager
def relaying(one: Child, other: Child, plan: Plan, folder: Path) -> Iterator[Child]:
    """Runs a relay between two children with namespaces, which then can reach each other.

    A message of `begin`, a time, starts its conditions; for a hole, `ssrc` and `rtx` are the SSRCs
    of the video and of its retransmissions. Raises InputError if the machine cannot do it.
    """
    if problem := obstacle():
        raise InputError(problem)
    command = ["-m", __name__, json.dumps(asdict(plan)), str(one.pid), str(other.pid)]
    with started("relay", command, folder) as child:
        child.answer()
        yield child


def main() -> None:
    """Runs the relay's process. Arguments: the plan as JSON, two process ids."""
    plan, pids = Plan.from_json(sys.argv[1]), [int(pid) for pid in sys.argv[2:4]]
    names = [f"call{os.getpid()}{side}" for side in "ab"]
    tuns = open_tun(names[0]), open_tun(names[1])
    for name, pid, address in zip(names, pids, ADDRESSES, strict=True):
        place_tun(name, pid, address)
    print(json.dumps({"ready": True}), flush=True)
    print(json.dumps(relay(tuns, plan, sys.stdin)), flush=True)


if __name__ == "__main__":
    main()
