"""A long call: `python -m bench soak --minutes N`.

Calls itself over a real connection as the demo does, at 30 fps, and looks once a second at what may
grow: memory, threads, open files, queues. Writes table, JSON and plot to --out.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection
from aiortc.mediastreams import MediaStreamTrack
from rich.progress import track as progress
from rich.table import Table

from receiver.calls.track import EnhancedVideoTrack
from receiver.commands.loopback import connect, consume
from receiver.commands.terminal import console
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.generator import Generator
from receiver.errors import InputError
from receiver.media.encoding import Encoding
from receiver.sending.tracks import EncodedTrack, portrait_source
from receiver.transport.receiving import SteadyReceiver

matplotlib.use("Agg")
import matplotlib.pyplot as plt

KBPS = 150.0
WARM_UP = 0.1, 120.0
"""Of the time, and seconds at least, before growth counts: caches fill, pools find their size, and
timings are kept for a hundred seconds (`receiver.stats.TIMINGS_KEPT`)."""
MOST_MB_AN_HOUR = 20.0
CONSTANT = ("threads", "handles")
GROWING = ("rss_mb", "gpu_mb")


@dataclass(frozen=True)
class Sample:
    """What is looked at.

    Attributes:
        seconds: since the call's first frame.
        rss_mb: resident memory.
        threads, handles: of the whole process, sender included.
        gpu_mb: of the GPU that this process takes, 0 without.
        decoder_queue: frames that wait for the decoder.
        packets: that wait to be whole frames.
        track_queue: decoded frames that wait to be taken.
        slot: 1 where a frame waits for the enhancer.
        frames: that left so far.
    """

    seconds: float
    rss_mb: float
    threads: int
    handles: int
    gpu_mb: float
    decoder_queue: int
    packets: int
    track_queue: int
    slot: int
    frames: int


@dataclass(frozen=True)
class Verdict:
    """Growth of memory after the warm-up in MB an hour, and the numbers that did not stay.

    `growth_mb_an_hour` is None where the run ended within its warm-up.
    """

    growth_mb_an_hour: dict[str, float] | None
    changed: list[str]

    @property
    def holds(self) -> bool:
        """Whether nothing grows."""
        grown = self.growth_mb_an_hour
        return grown is not None and not self.changed and max(grown.values()) <= MOST_MB_AN_HOUR


class Call:
    """The demo's call without its recorder."""

    def __init__(self, enhancer: Enhancer) -> None:
        """To be made inside an event loop."""
        here = RTCConfiguration(iceServers=[])
        self._connections = RTCPeerConnection(here), RTCPeerConnection(here)
        self._sender = EncodedTrack(portrait_source(), Encoding(KBPS, None, 300))
        self._enhancer = enhancer
        self._began = 0.0

    async def begin(self) -> None:
        """Connects and lets the first frame go."""
        tracks: list[MediaStreamTrack] = []
        self._connections[1].on("track", tracks.append)
        await connect(*self._connections, self._sender)
        (self._source,) = tracks
        self._receiver = self._connections[1].getReceivers()[0]
        self._track = EnhancedVideoTrack(self._source, self._enhancer)
        self._consumer = asyncio.ensure_future(consume(self._track, lambda _: None))
        self._sender.begin()
        self._began = time.perf_counter()

    def sample(self) -> Sample:
        """What is to be seen now."""
        receiver: Any = self._receiver
        steady = isinstance(receiver, SteadyReceiver)
        frames = self._enhancer.stats.frames
        return Sample(
            seconds=time.perf_counter() - self._began,
            rss_mb=rss_mb(),
            threads=threading.active_count(),
            handles=len(os.listdir("/proc/self/fd")),
            gpu_mb=gpu_mb() if self._enhancer.generator.device != "cpu" else 0.0,
            decoder_queue=receiver._RTCRtpReceiver__decoder_queue.qsize(),
            packets=len(receiver._assembler._packets) if steady else 0,
            track_queue=self._source._queue.qsize(),  # type: ignore[attr-defined]
            slot=int(self._track._slot._frame is not None),
            frames=frames.enhanced + frames.passed,
        )

    async def end(self) -> None:
        """Hangs up."""
        self._sender.stop()
        await asyncio.gather(*(connection.close() for connection in self._connections))
        await self._consumer


def rss_mb() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def gpu_mb() -> float:
    """What this process takes of the GPU's memory, as the driver tells."""
    line = "nvidia-smi --query-compute-apps=pid,used_memory --format=csv,noheader,nounits"
    told = subprocess.run(line.split(), capture_output=True, text=True, check=False).stdout
    rows = [row.split(", ") for row in told.splitlines()]
    return sum(float(used) * 1.048576 for pid, used in rows if int(pid) == os.getpid())


async def soak(enhancer: Enhancer, seconds: float) -> list[Sample]:
    """A call of so many seconds, a sample a second; Ctrl-C ends it early."""
    samples: list[Sample] = []
    call = Call(enhancer)
    await call.begin()
    try:
        for _ in progress(range(round(seconds)), "calling"):
            await asyncio.sleep(1)
            samples.append(await asyncio.to_thread(call.sample))
    except asyncio.CancelledError:
        pass  # what there is so far is worth telling
    finally:
        await call.end()
    return samples


def judge(samples: list[Sample]) -> Verdict:
    """Growth as a straight line through what came after the warm-up."""
    total = samples[-1].seconds if samples else 0.0
    warm = max(WARM_UP[0] * total, WARM_UP[1])
    steady = [sample for sample in samples if sample.seconds > warm]
    if len(steady) < 2:
        return Verdict(None, [])
    hours = [sample.seconds / 3600 for sample in steady]
    grown = {
        name: round(float(np.polyfit(hours, [getattr(one, name) for one in steady], 1)[0]), 1)
        for name in GROWING
    }
    changed = [name for name in CONSTANT if len({getattr(one, name) for one in steady}) > 1]
    return Verdict(grown, changed)


def table(samples: list[Sample], verdict: Verdict) -> Table:
    """A row a figure: at the beginning, at the end, least and most."""
    shown = Table("figure", "first", "last", "least", "most", title="a long call with oneself")
    for name in Sample.__dataclass_fields__:
        values = [getattr(sample, name) for sample in samples]
        row = (values[0], values[-1], min(values), max(values))
        shown.add_row(name, *(f"{value:.1f}".removesuffix(".0") for value in row))
    grown = verdict.growth_mb_an_hour
    told = "ended within its warm-up: nothing can be told"
    if grown is not None:
        told = ", ".join(f"{name} {value:+.1f} MB an hour" for name, value in grown.items())
        told += f"; changed: {', '.join(verdict.changed) or 'nothing'}"
        told += " -- " + ("holds" if verdict.holds else "does not hold")
    shown.caption = told
    return shown


def plot(samples: list[Sample], path: Path) -> None:
    """Memory, counts, queues and frames over time."""
    figure, axes = plt.subplots(4, 1, figsize=(9, 10), sharex=True, layout="constrained")
    seconds = [sample.seconds for sample in samples]
    panels = {
        "MB": GROWING,
        "of the process": CONSTANT,
        "waiting": ("decoder_queue", "packets", "track_queue", "slot"),
        "frames": ("frames",),
    }
    for axis, (label, names) in zip(axes, panels.items(), strict=True):
        for name in names:
            axis.plot(seconds, [getattr(sample, name) for sample in samples], label=name)
        axis.axvline(max(WARM_UP[0] * seconds[-1], WARM_UP[1]), color="grey", linestyle=":")
        axis.set_ylabel(label)
        axis.legend(loc="lower right")
    axes[-1].set_xlabel("seconds (dotted: the warm-up's end)")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(arguments: list[str]) -> None:
    """The command line; exits with 1 where something grows."""
    parser = argparse.ArgumentParser(
        prog="python -m bench soak",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=60.0, metavar="N", help="(default 60)")
    parser.add_argument("--out", type=Path, default=Path("bench-output/soak"), metavar="FOLDER")
    args = parser.parse_args(arguments)
    if not Path("/proc/self/statm").exists():
        raise InputError("soak reads /proc: run it on Linux")
    if not 0 < args.minutes < 100_000:
        raise InputError(f"{args.minutes:g} minutes is no length: give 1 and more")
    enhancer = Enhancer(Generator())
    enhancer.warm_up()
    samples = asyncio.run(soak(enhancer, 60 * args.minutes))
    if not samples:
        raise InputError("the call was too short to be looked at: give more --minutes")
    verdict = judge(samples)
    args.out.mkdir(parents=True, exist_ok=True)
    figures = {"samples": [asdict(sample) for sample in samples], "verdict": asdict(verdict)}
    (args.out / "soak.json").write_text(json.dumps(figures, indent=1) + "\n")
    plot(samples, args.out / "soak.png")
    console().print(table(samples, verdict))
    if verdict.growth_mb_an_hour is not None and not verdict.holds:
        sys.exit(1)
