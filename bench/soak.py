"""A long call: `python -m bench soak --minutes N`.

Calls itself over a real connection at 30 fps, as the demo does, and samples every second what may
grow: memory, threads, open files, queues. Prints a table and writes JSON and a plot to --out.
"""

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

import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection
from aiortc.mediastreams import MediaStreamTrack
from rich.progress import track as progress
from rich.table import Table

from bench.command_line import bench_parser, require
from receiver.calls.track import EnhancedVideoTrack
from receiver.commands.loopback import connect
from receiver.commands.terminal import console
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.generator import Generator
from receiver.errors import InputError
from receiver.media.encoding import Encoding
from receiver.sending.encoded_track import EncodedTrack
from receiver.sending.sources import portrait_source
from receiver.signalling.connections import read_to_the_end
from receiver.transport.receiving import SteadyReceiver

KBPS = 150.0
"""Bitrate of the call in kbit/s."""
WARM_UP_SHARE, WARM_UP_LEAST = 0.1, 120.0
"""Share of the run, and minimum of seconds, before growth counts: caches fill, pools find
their size, and timings are kept for a hundred seconds (`receiver.stats.KEPT_TIMINGS`)."""
MOST_MB_AN_HOUR = 20.0
"""Largest growth of memory that passes."""
CONSTANT = ("threads", "handles")
"""Fields of a sample that have to stay the same."""
GROWING = ("rss_mb", "gpu_mb")
"""Fields of a sample whose growth is limited."""


@dataclass(frozen=True)
class Sample:
    """The state of the process and its call at one moment.

    Attributes:
        seconds: since the start of the call.
        rss_mb: resident memory.
        threads, handles: number of threads and open files of the process, sender included.
        gpu_mb: GPU memory of this process; 0 without a GPU.
        decoder_queue: frames that wait for the decoder.
        packets: packets that wait for the rest of their frame.
        track_queue: decoded frames that wait in the track.
        slot: 1 if a frame waits for the enhancer, else 0.
        frames: frames that have left so far.
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
    """What grew after the warm-up.

    Attributes:
        growth_mb_an_hour: growth of `GROWING`; None if the run ended within its warm-up.
        changed: those of `CONSTANT` that did not stay the same.
    """

    growth_mb_an_hour: dict[str, float] | None
    changed: list[str]

    @property
    def holds(self) -> bool:
        """Whether nothing grows beyond the limits; False if nothing was measured."""
        grown = self.growth_mb_an_hour
        return grown is not None and not self.changed and max(grown.values()) <= MOST_MB_AN_HOUR


class Call:
    """The demo's call without its recorder."""

    def __init__(self, enhancer: Enhancer) -> None:
        """Creates the connections. Needs a running event loop."""
        here = RTCConfiguration(iceServers=[])
        self._connections = RTCPeerConnection(here), RTCPeerConnection(here)
        self._sender = EncodedTrack(portrait_source(), Encoding(KBPS, None, 300))
        self._enhancer = enhancer
        self._began = 0.0

    async def begin(self) -> None:
        """Connects and starts to send."""
        tracks: list[MediaStreamTrack] = []
        self._connections[1].on("track", tracks.append)
        await connect(*self._connections, self._sender)
        (self._source,) = tracks
        self._receiver = self._connections[1].getReceivers()[0]
        self._track = EnhancedVideoTrack(self._source, self._enhancer)
        self._consumer = asyncio.ensure_future(read_to_the_end(self._track))
        self._sender.begin()
        self._began = time.perf_counter()

    def sample(self) -> Sample:
        """Returns the present state."""
        receiver: Any = self._receiver
        steady = isinstance(receiver, SteadyReceiver)
        frames = self._enhancer.stats.frames
        return Sample(
            seconds=time.perf_counter() - self._began,
            rss_mb=rss_mb(),
            threads=threading.active_count(),
            handles=len(os.listdir("/proc/self/fd")),
            gpu_mb=gpu_mb() if self._enhancer.generator.device != "cpu" else 0.0,
            decoder_queue=receiver.decoder_queue.qsize(),
            packets=len(receiver._assembler._packets) if steady else 0,
            track_queue=self._source._queue.qsize(),  # type: ignore[attr-defined]
            slot=int(self._track._slot._frame is not None),
            frames=frames.enhanced + frames.passed,
        )

    async def end(self) -> None:
        """Ends the call."""
        self._sender.stop()
        await asyncio.gather(*(connection.close() for connection in self._connections))
        await self._consumer


def rss_mb() -> float:
    """Returns the resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def gpu_mb() -> float:
    """Returns the GPU memory of this process in MB, as the driver reports it."""
    line = "nvidia-smi --query-compute-apps=pid,used_memory --format=csv,noheader,nounits"
    printed = subprocess.run(line.split(), capture_output=True, text=True, check=False).stdout
    rows = [row.split(", ") for row in printed.splitlines()]
    return sum(float(used) * 1.048576 for pid, used in rows if int(pid) == os.getpid())


async def soak(enhancer: Enhancer, seconds: float) -> list[Sample]:
    """Returns one sample per second of a call of `seconds` seconds. Ctrl-C ends it early."""
    samples: list[Sample] = []
    call = Call(enhancer)
    await call.begin()
    try:
        for _ in progress(range(round(seconds)), "calling"):
            await asyncio.sleep(1)
            samples.append(await asyncio.to_thread(call.sample))
    except asyncio.CancelledError:
        pass  # the samples so far count
    finally:
        await call.end()
    return samples


def judge(samples: list[Sample]) -> Verdict:
    """Returns the growth of a straight line through the samples after the warm-up."""
    total = samples[-1].seconds if samples else 0.0
    warm = warm_up_of(total)
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


def warm_up_of(total: float) -> float:
    """Returns the seconds of warm-up of a run of `total` seconds."""
    return max(WARM_UP_SHARE * total, WARM_UP_LEAST)


def table(samples: list[Sample], verdict: Verdict) -> Table:
    """Returns the first, last, least and greatest value of each field, and the verdict."""
    shown = Table("figure", "first", "last", "least", "most", title="a long call with oneself")
    for name in Sample.__dataclass_fields__:
        values = [getattr(sample, name) for sample in samples]
        row = (values[0], values[-1], min(values), max(values))
        shown.add_row(name, *(f"{value:.1f}".removesuffix(".0") for value in row))
    grown = verdict.growth_mb_an_hour
    caption = "ended within its warm-up: no verdict"
    if grown is not None:
        caption = ", ".join(f"{name} {value:+.1f} MB an hour" for name, value in grown.items())
        caption += f"; changed: {', '.join(verdict.changed) or 'nothing'}"
        caption += " -- " + ("holds" if verdict.holds else "does not hold")
    shown.caption = caption
    return shown


def plot(samples: list[Sample], path: Path) -> None:
    """Plots memory, counts, queues and frames over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 10), layout="constrained")
    axes = figure.subplots(4, 1, sharex=True)
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
        axis.axvline(warm_up_of(seconds[-1]), color="grey", linestyle=":")
        axis.set_ylabel(label)
        axis.legend(loc="lower right")
    axes[-1].set_xlabel("seconds (dotted: end of the warm-up)")
    figure.savefig(path, dpi=110)


def main(arguments: list[str]) -> None:
    """Runs the command line. Exits with 1 if something grows."""
    parser = bench_parser("soak", __doc__)
    parser.add_argument("--minutes", type=float, default=60.0, metavar="N", help="(default 60)")
    parser.add_argument("--out", type=Path, default=Path("bench-output/soak"), metavar="FOLDER")
    args = parser.parse_args(arguments)
    require("soak", "matplotlib", "skimage")
    if not Path("/proc/self/statm").exists():
        raise InputError("soak reads /proc: run it on Linux")
    if not 0 < args.minutes < 100_000:
        raise InputError(f"{args.minutes:g} minutes is not a length: give more than 0")
    enhancer = Enhancer(Generator())
    enhancer.warm_up()
    samples = asyncio.run(soak(enhancer, 60 * args.minutes))
    if not samples:
        raise InputError("the call was too short for a sample: give more --minutes")
    verdict = judge(samples)
    args.out.mkdir(parents=True, exist_ok=True)
    figures = {"samples": [asdict(sample) for sample in samples], "verdict": asdict(verdict)}
    (args.out / "soak.json").write_text(json.dumps(figures, indent=1) + "\n")
    plot(samples, args.out / "soak.png")
    console().print(table(samples, verdict))
    if verdict.growth_mb_an_hour is not None and not verdict.holds:
        sys.exit(1)
