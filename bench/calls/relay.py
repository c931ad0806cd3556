"""A network between two processes on one machine that delays, loses and queues as it is told.

Each process lives in a network namespace of its own, without a name, which is gone with it. A
relay, a process too, holds a TUN device in each and carries packets from one to the other:
`python -m bench.calls.relay PLAN`, begun and ended over its standard input.

    with started("bench.one", ...) as one, started("bench.other", ...) as other:
        with relaying(one, other, Plan(phases, seed=1), folder) as relay:
            relay.tell(begin=time.monotonic())

All times are seconds of `time.monotonic`, which all processes share.
"""

import contextlib
import errno
import fcntl
import json
import math
import os
import random
import select
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from receiver.errors import InputError, ReceiverError

ADDRESSES = ("10.77.0.1", "10.77.0.2")
"""Of the first and the second namespace; nothing outside them ever sees these."""
DEVICE = Path("/dev/net/tun")
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
"""Of Linux' if_tun.h."""
RTX_GONE = 1.0
"""Seconds without retransmissions after the packet that never comes."""
PATIENCE = 90
"""Seconds that a process has for an answer: a browser starts slowly on a busy machine."""


@dataclass(frozen=True)
class Conditions:
    """What happens to packets, in each direction.

    Attributes:
        delay_ms: one way.
        jitter_ms: of it at most, evenly spread; packets stay in order.
        loss: share of the packets that are lost, 0 to 1.
        burst: packets lost in a row on average (Gilbert-Elliott); None for losses that know
            nothing of each other.
        kbps: rate of the link in kbit/s, None without a limit.
        queue_ms: what the drop-tail queue before a limited link holds, in time to send it.
    """

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    burst: float | None = None
    kbps: float | None = None
    queue_ms: float = 500.0


@dataclass(frozen=True)
class Phase:
    """From `at` seconds after the beginning these conditions hold."""

    at: float
    conditions: Conditions


@dataclass(frozen=True)
class Plan:
    """What the network does: nothing before the beginning.

    Attributes:
        phases: in their order.
        seed: of all chance.
        hole_s: seconds after the beginning, from which the next packet of the first namespace's
            video never arrives; None without.
    """

    phases: tuple[Phase, ...]
    seed: int
    hole_s: float | None = None

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """The reverse of `json.dumps(asdict(plan))`."""
        read = json.loads(text)
        phases = (Phase(one["at"], Conditions(**one["conditions"])) for one in read["phases"])
        return cls(tuple(phases), read["seed"], read["hole_s"])


@dataclass(frozen=True, slots=True)
class Passage:
    """One packet's way: when it came, its bytes, seconds in the queue (None: it was lost)."""

    at: float
    size: int
    waited: float | None


class Link:
    """One direction. It has no clock: every method is told the time."""

    def __init__(self, seed: int) -> None:
        self.conditions = Conditions()
        self.passages: list[Passage] = []
        self.late: list[float] = []  # seconds that packets left later than they were due
        self._random = random.Random(seed)
        self._losing = False
        self._queue: deque[tuple[float, bytes]] = deque()
        self._queued = 0  # bytes
        self._free_at = 0.0
        self._flying: deque[tuple[float, bytes]] = deque()

    def push(self, now: float, packet: bytes) -> None:
        """A packet that came in now."""
        self._serve(now)
        room = math.inf if self.conditions.kbps is None else self._room(self.conditions.kbps)
        if self._loses() or len(packet) > room:
            self.passages.append(Passage(now, len(packet), None))
            return
        self._queue.append((now, packet))
        self._queued += len(packet)
        self._serve(now)

    def due(self, now: float) -> list[bytes]:
        """The packets that have to leave by now."""
        self._serve(now)
        packets = []
        while self._flying and self._flying[0][0] <= now:
            at, packet = self._flying.popleft()
            self.late.append(now - at)
            packets.append(packet)
        return packets

    def next_at(self) -> float:
        """When `due` has something to do again; infinity where nothing is under way."""
        flying = self._flying[0][0] if self._flying else math.inf
        return min(flying, self._free_at if self._queue else math.inf)

    def _room(self, kbps: float) -> float:
        return kbps * self.conditions.queue_ms / 8 - self._queued

    def _loses(self) -> bool:
        """The next step of the chain of two states; all is lost in one, nothing in the other."""
        loss, burst = self.conditions.loss, self.conditions.burst
        ends = 1 - loss if burst is None else 1 / burst
        begins = loss if burst is None else min(1.0, loss / (1 - loss) / burst)
        stays = 1 - ends if self._losing else begins
        self._losing = self._random.random() < stays
        return self._losing

    def _serve(self, now: float) -> None:
        """Takes from the queue what the link could begin to send until now."""
        how = self.conditions
        while self._queue and self._free_at <= now:
            came, packet = self._queue.popleft()
            self._queued -= len(packet)
            begins = max(came, self._free_at)
            self._free_at = begins + (8e-3 * len(packet) / how.kbps if how.kbps else 0.0)
            delay = how.delay_ms + self._random.uniform(0, how.jitter_ms)
            before = self._flying[-1][0] if self._flying else 0.0
            self._flying.append((max(before, self._free_at + delay / 1e3), packet))
            self.passages.append(Passage(came, len(packet), begins - came))


def rtp_of(packet: bytes) -> tuple[int, int] | None:
    """SSRC and sequence number of an IPv4 packet; None where it holds no RTP.

    SRTP leaves them readable. Bytes 192 to 223 after the first are RTCP (RFC 5761).
    """
    if len(packet) < 20 or packet[0] >> 4 != 4 or packet[9] != 17:
        return None
    payload = packet[4 * (packet[0] & 15) + 8 :]
    if len(payload) < 12 or payload[0] >> 6 != 2 or 192 <= payload[1] <= 223:
        return None
    return int.from_bytes(payload[8:12], "big"), int.from_bytes(payload[2:4], "big")


class Hole:
    """One packet of a video that never arrives, nor does any retransmission of it.

    What a retransmission repeats is encrypted, so none arrives for `RTX_GONE` seconds.
    """

    def __init__(self, at: float, ssrc: int, rtx: int) -> None:
        self.made_at: float | None = None
        self._at, self._ssrc, self._rtx = at, ssrc, rtx
        self._number: int | None = None

    def swallows(self, now: float, packet: bytes) -> bool:
        """Whether this packet is lost."""
        rtp = rtp_of(packet)
        if now < self._at or rtp is None:
            return False
        if self._number is None and rtp[0] == self._ssrc:
            self.made_at, self._number = now, rtp[1]
        if self.made_at is None:
            return False
        repeats = rtp[0] == self._rtx and now < self.made_at + RTX_GONE
        return repeats or rtp == (self._ssrc, self._number)


def obstacle() -> str | None:
    """What keeps this machine from making such a network, as one sentence; None if nothing does."""
    absent = [name for name in ("ip", "nsenter", "unshare") if shutil.which(name) is None]
    if sys.platform != "linux" or absent:
        return f"a network of one's own needs Linux and {', '.join(absent) or 'ip'}"
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return f"a network of one's own needs {DEVICE}, which cannot be opened here"
    if subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode:
        return "a network of one's own needs the right to make namespaces: run it as root"
    return None


def open_tun(name: str) -> int:
    """A new TUN device's file descriptor, IP packets without a header; gone when it is closed."""
    descriptor = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK)
    request = struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI)
    fcntl.ioctl(descriptor, TUNSETIFF, request)
    return descriptor


def place_tun(name: str, pid: int, address: str) -> None:
    """Moves a TUN device into the namespace of process `pid` and gives it its address."""
    run = ["nsenter", "--target", str(pid), "--net", "ip"]
    for command in (
        ["ip", "link", "set", name, "netns", str(pid)],
        [*run, "link", "set", "lo", "up"],
        [*run, "link", "set", name, "addrgenmode", "none"],  # no IPv6: it would be a way too
        [*run, "address", "add", f"{address}/24", "dev", name],
        [*run, "link", "set", name, "up"],
    ):
        subprocess.run(command, check=True)


def relay(tuns: tuple[int, int], plan: Plan, commands: IO[str]) -> dict[str, Any]:
    """Carries packets until the commands end; what became of them, ready for JSON."""
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
            told = json.loads(line)
            phases.extend((told["begin"] + one.at, one.conditions) for one in plan.phases)
            if plan.hole_s is not None:
                hole = Hole(told["begin"] + plan.hole_s, told["ssrc"], told["rtx"])
        try:
            _take(links, tuns, hole)
        except OSError as error:
            if error.errno != errno.EBADFD:
                raise
            return _log(links, hole)  # a namespace is gone, and its device with it


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
            with contextlib.suppress(OSError):  # its device is gone or full: so is the packet
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


@contextlib.contextmanager
def relaying(one: Child, other: Child, plan: Plan, folder: Path) -> Iterator[Child]:
    """A relay between two children with namespaces, who can reach each other from now on.

    Its conditions begin when it is told `begin`, and for a hole `ssrc` and `rtx`, the video's and
    its retransmissions' SSRC. Raises InputError where the machine cannot do it.
    """
    if problem := obstacle():
        raise InputError(problem)
    command = ["-m", __name__, json.dumps(asdict(plan)), str(one.pid), str(other.pid)]
    with started("relay", command, folder) as child:
        child.answer()
        yield child


def main() -> None:
    """The relay's process: a plan, two process ids."""
    plan, pids = Plan.from_json(sys.argv[1]), [int(pid) for pid in sys.argv[2:4]]
    names = [f"call{os.getpid()}{side}" for side in "ab"]
    tuns = open_tun(names[0]), open_tun(names[1])
    for name, pid, address in zip(names, pids, ADDRESSES, strict=True):
        place_tun(name, pid, address)
    print(json.dumps({"ready": True}), flush=True)
    print(json.dumps(relay(tuns, plan, sys.stdin)), flush=True)


if __name__ == "__main__":
    main()
