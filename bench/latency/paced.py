"""Calls at 30 frames a second: packets arrive at their times, and frames leave."""

import asyncio
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import av
from aiortc.jitterbuffer import JitterFrame
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from bench.latency.timings import TimedEnhancer, times
from receiver.calls.track import EnhancedVideoTrack
from receiver.commands.progress import progress_bar
from receiver.enhance.faces.generator import Generator
from receiver.enhance.stage import EnhancedFrame
from receiver.signalling.connections import read_to_the_end
from receiver.stats import Stats
from receiver.transport.aiortc_hooks import ObservingDecoder

FPS = 30
PHASE = 0.618
"""Offset between the packets of successive calls as a fraction of a frame's time: calls are
neither in step nor evenly spread."""


class PacedSource(MediaStreamTrack):
    """A track that decodes packets at their times, in a thread as aiortc does.

    Attributes:
        due: arrival of each frame's packet in seconds of `time.perf_counter`, by pts. A busy
            decoder does not delay it.
    """

    kind = "video"

    def __init__(self, packets: list[JitterFrame], begins: float, stats: Stats) -> None:
        """`begins` is the first packet's time; `stats` receives the decoder's timings."""
        super().__init__()
        self.due = {one.timestamp: begins + number / FPS for number, one in enumerate(packets)}
        self._packets = iter(packets)
        self._decoder, self._stats = ObservingDecoder(), stats
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="decoder")

    async def recv(self) -> av.VideoFrame:
        """Returns the next frame. Raises MediaStreamError at the end."""
        for packet in self._packets:
            await asyncio.sleep(max(0.0, self.due[packet.timestamp] - time.perf_counter()))
            loop = asyncio.get_running_loop()
            frames: list[av.VideoFrame] = await loop.run_in_executor(
                self._thread, self._decode, packet
            )
            if frames:
                return frames[0]
        self.stop()
        raise MediaStreamError

    def stop(self) -> None:
        """Ends the track and its thread."""
        super().stop()
        self._thread.shutdown(wait=False)

    def _decode(self, packet: JitterFrame) -> list[Any]:
        with self._stats.stage("decode"):
            return self._decoder.decode(packet)


class PacedCall:
    """One call, from the arrival of packets to the restored frames that leave the real track."""

    def __init__(
        self,
        packets: list[JitterFrame],
        generator: Generator,
        warm_up: int,
        on_frame: Callable[[], None],
    ) -> None:
        """
        Args:
            warm_up: number of packets that do not count, at least 1.
            on_frame: called for every frame that leaves.
        """
        self._enhancer = TimedEnhancer(generator)
        self._packets, self._on_frame = packets, on_frame
        self._warm_until = packets[warm_up - 1].timestamp
        self._before: dict[str, int] | None = None  # counts at the end of the warm-up
        self._faces: list[int] = []
        self._last_left = 0.0

    async def run(self, begins: float) -> None:
        """Receives all packets; the first arrives at `begins` in seconds of `time.perf_counter`."""
        stats = self._enhancer.stats
        self._source = PacedSource(self._packets, begins, stats)
        track = EnhancedVideoTrack(self._source, self._enhancer, on_frame=self._left)
        try:
            await read_to_the_end(track)
        finally:
            track.stop()

    def figures(self, stages: Iterable[str]) -> dict[str, Any] | None:
        """Returns counts and milliseconds after the warm-up; None if the call ended before."""
        if self._before is None or self._last_left == 0.0:
            return None
        stats = self._enhancer.stats
        counts = {name: n - self._before[name] for name, n in asdict(stats.frames).items()}
        seconds = self._last_left - self._source.due[self._warm_until]
        return {
            "frames": counts["enhanced"] + counts["passed"] + counts["dropped"],
            "restored": counts["enhanced"],
            "skipped": counts["skipped"],
            "untouched": counts["passed"] - counts["skipped"],
            "dropped": counts["dropped"],
            "restored_fps": counts["enhanced"] / max(seconds, counts["received"] / FPS),
            "faces": sum(self._faces) / max(1, len(self._faces)),
            "end_to_end_ms": times(stats, "end to end"),
            "restored_end_to_end_ms": times(stats, "restored, end to end"),
            "added_latency_ms": times(stats, "added latency"),
            "stages_ms": {name: times(stats, name) for name in stages},
        }

    def _left(self, enhanced: EnhancedFrame) -> None:
        """Counts a frame that leaves the track. Called in the event loop."""
        self._on_frame()
        stats, pts = self._enhancer.stats, enhanced.video.pts or 0
        if self._before is None:
            if pts >= self._warm_until:
                stats.forget_timings()
                self._before = asdict(stats.frames)
            return
        self._last_left = time.perf_counter()
        end_to_end = self._last_left - self._source.due[pts]
        stats.add("end to end", end_to_end)
        if enhanced.is_restored:
            stats.add("restored, end to end", end_to_end)
            stats.add("output", self._last_left - self._enhancer.ended)
            self._faces.append(len(enhanced.faces))


def run_calls(
    packets: list[JitterFrame],
    generator: Generator,
    calls: int,
    warm_up: int,
    stages: Iterable[str],
) -> dict[str, Any]:
    """Runs several calls at once in this process, each with its own enhancer on one generator.

    Returns `calls`, their number; `each`, the `PacedCall.figures` of calls that outlasted the
    warm-up; and `interrupted`, whether Ctrl-C ended them.
    """
    # Each redraw of the bar takes Python's lock from the calls.
    with progress_bar(refresh_per_second=1) as bar:
        task = bar.add_task(f"paced, calls: {calls}", total=calls * len(packets))
        made = [
            PacedCall(packets, generator, warm_up, lambda: bar.advance(task)) for _ in range(calls)
        ]
        interrupted = asyncio.run(_together(made))
        if not interrupted:
            bar.update(task, completed=calls * len(packets))  # dropped ones never left
    each = [figures for call in made if (figures := call.figures(stages)) is not None]
    return {"calls": calls, "interrupted": interrupted, "each": each}


async def _together(calls: list[PacedCall]) -> bool:
    """Runs the calls; returns whether Ctrl-C ended them."""
    begins = time.perf_counter() + 0.2
    runs = (call.run(begins + number * PHASE % 1 / FPS) for number, call in enumerate(calls))
    try:
        await asyncio.gather(*runs)
    except asyncio.CancelledError:
        return True  # what was measured so far counts
    return False
