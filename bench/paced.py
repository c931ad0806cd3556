"""Calls at 30 frames a second: their pictures, packets at their times, and when frames leave."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from fractions import Fraction
from itertools import islice
from math import isnan
from typing import Any

import av
from aiortc.jitterbuffer import JitterFrame
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from receiver.calls.rooms import read_to_the_end
from receiver.calls.track import EnhancedVideoTrack
from receiver.commands.progress import progress_bar
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.generator import Generator
from receiver.enhance.faces.tracking import MAX_FACES, Box, FaceTracker
from receiver.errors import InputError
from receiver.media.encoding import Encoding
from receiver.media.frame import DecodedFrame
from receiver.media.planes import cut_frame, planes
from receiver.sending.sources import Source
from receiver.stats import Stats
from receiver.transport.aiortc_hooks import ObservingDecoder

FPS = 30
PHASE = 0.618
"""Of a frame's time between one call's packets and the next call's: neither in step nor evenly
apart, as calls are."""
AROUND = 1.3
"""Sides of a face's box that the picture around it has at least, where several share a frame: all
of them are found by the same search then, the coarse or the fine one."""
APART = 15
"""Frames between what two faces of one frame do."""
GREY = (60, 128, 128)
"""Y, U and V where a frame holds no face."""


def composed(source: Source, width: int, height: int, faces: int) -> Source:
    """A source whose frames show the first face of another one `faces` times, 1 to 4.

    One face keeps as much as fits of the picture around it; several are cut out closely, so that
    each is three quarters of its part of the frame high.

    Args:
        width, height: of the frames in pixels, multiples of 4.

    Raises InputError if the source's first frame shows no face and it has to be cut.
    """
    if not 1 <= faces <= MAX_FACES:
        raise ValueError(f"{faces} faces are not within 1 to {MAX_FACES}")
    if faces == 1 and (width, height) == (source.width, source.height):
        return source
    columns, rows = min(faces, 2), 1 if faces <= 2 else 2
    tile = width // columns, height // rows
    window = _window(source, tile, closely=faces > 1)

    def frames() -> Iterator[av.VideoFrame]:
        parts = [islice(source.frames(), APART * number, None) for number in range(faces)]
        for pictures in zip(*parts, strict=False):
            cut = [cut_frame(picture, *window).reformat(*tile, "yuv420p") for picture in pictures]
            whole = _mosaic(cut, width, height)
            whole.pts, whole.time_base = pictures[0].pts, pictures[0].time_base
            yield whole

    return Source(frames, width, height, source.rate)


def _window(source: Source, tile: tuple[int, int], *, closely: bool) -> tuple[int, int, int, int]:
    """Left, top, width and height, all even, of what a source's frames show of its face."""
    left, top, right, bottom = _face_of(source).tolist()
    aspect = tile[0] / tile[1]
    height = min(source.height, source.width / aspect)
    if closely:
        height = min(height, AROUND * (bottom - top) * max(1.0, 1.0 / aspect))
    width = height * aspect
    corner = max(0.0, (left + right - width) / 2), max(0.0, (top + bottom - height) / 2)
    x, y, w, h = (int(value) // 2 * 2 for value in (*corner, width, height))
    return x, y, w, h


def _face_of(source: Source) -> Box:
    luma, tracker = planes(next(source.frames()))[0], FaceTracker()
    for _ in range(2):  # a coarse search and a fine one
        faces = tracker.find(luma)
        if faces:
            return faces[0].box
    raise InputError(
        "no face is in the clip's first frame: give a clip that begins with one, "
        "or leave --sizes and --faces out"
    )


def _mosaic(parts: list[av.VideoFrame], width: int, height: int) -> av.VideoFrame:
    """Equal parts in two columns; a single one is the frame."""
    whole = av.VideoFrame(width, height, "yuv420p")
    for plane, level in zip(planes(whole), GREY, strict=True):
        plane[:] = level
    for number, part in enumerate(parts):
        for to, of in zip(planes(whole), planes(part), strict=True):
            down, across = of.shape
            row, column = number // 2 * down, number % 2 * across
            to[row : row + down, column : column + across] = of
    return whole


def encode(source: Source, kbps: float, count: int) -> list[JitterFrame]:
    """The first frames of a source as a sender would send them, an access unit each.

    Args:
        kbps: x264's target bitrate in kbit/s.
    """
    encoder = Encoding(kbps=kbps).open(source.width, source.height, source.rate)
    packets = []
    for index, frame in enumerate(islice(source.frames(), count)):
        frame.pts, frame.time_base = round(index * 90000 / source.rate), Fraction(1, 90000)
        frame.pict_type = av.video.frame.PictureType.NONE
        packets += [JitterFrame(bytes(one), one.pts or 0) for one in encoder.encode(frame)]
    return packets


class TimedEnhancer(Enhancer):
    """Notes when it was through with its last frame.

    Attributes:
        ended: that moment, by `time.perf_counter`.
    """

    ended = 0.0

    def enhance(self, frame: DecodedFrame) -> av.VideoFrame:
        """See `Enhancer.enhance`."""
        output = super().enhance(frame)
        self.ended = time.perf_counter()
        return output


class PacedSource(MediaStreamTrack):
    """Hands packets to the decoder at their times, in a thread as aiortc does; gives the frames.

    Attributes:
        due: when each frame's packet came, in seconds of `time.perf_counter`, by its pts. A
            decoder that is not free yet does not move these.
    """

    kind = "video"

    def __init__(self, packets: list[JitterFrame], begins: float, stats: Stats) -> None:
        """`begins` is the first packet's time; the decoder's timings go to `stats`."""
        super().__init__()
        self.due = {one.timestamp: begins + number / FPS for number, one in enumerate(packets)}
        self._packets = iter(packets)
        self._decoder, self._stats = ObservingDecoder(), stats
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="decoder")

    async def recv(self) -> av.VideoFrame:
        """The next frame. Raises MediaStreamError at the end."""
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
    """One call, from its packets' times to its restored frames' leaving the real track."""

    def __init__(
        self,
        packets: list[JitterFrame],
        generator: Generator,
        warm_up: int,
        on_frame: Callable[[], None],
    ) -> None:
        """
        Args:
            warm_up: packets that do not count, 1 and more.
            on_frame: called for every frame that leaves.
        """
        self._enhancer = TimedEnhancer(generator)
        self._packets, self._on_frame = packets, on_frame
        self._warm_until = packets[warm_up - 1].timestamp
        self._before: dict[str, int] | None = None  # counts at the end of the warm-up
        self._faces: list[int] = []
        self._last_left = 0.0

    async def run(self, begins: float) -> None:
        """Goes through all packets, the first of which comes at `begins` (`time.perf_counter`)."""
        stats = self._enhancer.stats
        self._source = PacedSource(self._packets, begins, stats)
        track = EnhancedVideoTrack(self._source, self._enhancer, on_frame=self._left)
        try:
            await read_to_the_end(track)
        finally:
            track.stop()

    def figures(self, stages: Iterable[str]) -> dict[str, Any] | None:
        """Counts after the warm-up and milliseconds; None if it did not get so far."""
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

    def _left(self, frame: DecodedFrame, output: av.VideoFrame) -> None:
        """In the event loop, as a frame leaves the track."""
        self._on_frame()
        stats, pts = self._enhancer.stats, frame.video.pts or 0
        if self._before is None:
            if pts >= self._warm_until:
                stats.forget_timings()
                self._before = asdict(stats.frames)
            return
        self._last_left = time.perf_counter()
        end_to_end = self._last_left - self._source.due[pts]
        stats.add("end to end", end_to_end)
        if output is not frame.video:
            stats.add("restored, end to end", end_to_end)
            stats.add("output", self._last_left - self._enhancer.ended)
            self._faces.append(len(self._enhancer.faces))


def run_calls(
    packets: list[JitterFrame],
    generator: Generator,
    calls: int,
    warm_up: int,
    stages: Iterable[str],
) -> dict[str, Any]:
    """So many calls at once in this process, each with its own enhancer on one generator.

    Returns `calls`, their number; `each`, the `PacedCall.figures` of those that got beyond their
    warm-up; and `interrupted`, whether Ctrl-C ended them.
    """
    # Each redrawing of the bar takes Python's lock from the calls.
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
        return True  # what was measured so far is worth telling
    return False


def times(stats: Stats, name: str) -> dict[str, float | None]:
    """Median, p95 and p99 of a stage in ms; None where it never ran."""
    values = stats.milliseconds(name, 50, 95, 99)
    shown = (None if isnan(value) else round(value, 4) for value in values)
    return dict(zip(("median", "p95", "p99"), shown, strict=True))
