"""The plugin: a video track that enhances the frames of any other aiortc video track."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

import av
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from receiver.enhance.enhancer import Enhancer
from receiver.enhance.pipeline import MISSED_AT_MOST
from receiver.enhance.stage import EnhancedFrame, Outcome
from receiver.media.frame import Arrival, DecodedFrame
from receiver.media.sound import PcmWindow, SoundHistory
from receiver.worker import Worker

DEADLINE = 0.033
"""Seconds after its arrival by which a frame has to be expected to leave, to be enhanced: one frame
at 30 fps."""

ATTEMPTS = 3
"""The fastest of this many enhancements predicts the next: the first one after a pause is slow,
and so is an enhancement that another program interrupted."""

RETRY_AFTER = (3, 30)
"""Frames that are skipped before enhancement is tried again: at first, and at most. The number
doubles with every try that fails: a short disturbance costs little, and a slow machine rests."""

FAILURES = 3
"""Failures in a row after which the enhancer is restarted."""

RECOVER_AFTER = (1.0, 30.0)
"""Seconds before the enhancer is restarted again if the first restart, which is immediate, did not
help: at first, and at most. They double until enhancement works again."""

WAITS_MOST = 1.0
"""Maximum wait of a frame for its enhancement, in seconds (or `deadline`, if that is longer). After
it, frames pass through at once until the enhancer has finished."""

HANGS_AFTER = (3.0, 30.0)
"""Seconds after which an enhancement or a search for faces is considered hung (never less than a
frame waits): usually, and for the first one and a restart, because these load and compile."""

MOST_HANGING = 3
"""Maximum number of threads that hang at once; with one more, enhancement stops for good."""


Item = TypeVar("Item")
Result = TypeVar("Result")


class NewestSlot(Generic[Item]):
    """Holds one frame, which a newer one replaces: the only queue before the enhancer."""

    def __init__(self) -> None:
        self._frame: Item | None = None
        self._closed = False
        self._changed = asyncio.Event()

    def put(self, frame: Item) -> Item | None:
        """Puts the newest frame in; returns the one that it replaced, None if that was taken."""
        replaced, self._frame = self._frame, frame
        self._changed.set()
        return replaced

    def close(self) -> None:
        """Ends the slot: no frame will be put in; a waiting one can still be taken."""
        self._closed = True
        self._changed.set()

    async def take(self) -> Item | None:
        """Waits for a frame and returns it; None once the slot is closed and empty."""
        while self._frame is None and not self._closed:
            self._changed.clear()
            await self._changed.wait()
        frame, self._frame = self._frame, None
        return frame


class EnhancedVideoTrack(MediaStreamTrack):
    """A video track whose frames have been enhanced.

        pc.addTrack(EnhancedVideoTrack(track, Enhancer(Generator())))

    The source is drained continuously into a slot of one, so no queue builds up, and enhancement
    runs in a separate thread, so the event loop stays free. A frame that is expected to leave later
    than `DEADLINE` after its arrival is not enhanced and passes through; so does one whose
    enhancement fails. An enhancement that takes longer than expected is awaited, for `WAITS_MOST`
    at most; then frames pass through until it has ended. An enhancer that keeps failing is
    restarted while frames pass through; one that hangs is restarted in a new thread. pts and time
    base are the source's.
    """

    kind = "video"

    def __init__(
        self,
        source: MediaStreamTrack,
        enhancer: Enhancer,
        *,
        deadline: float = DEADLINE,
        on_frame: Callable[[EnhancedFrame], None] | None = None,
        sound: SoundHistory | None = None,
    ) -> None:
        """Starts to drain the source; needs a running event loop.

        Args:
            source: any aiortc video track.
            enhancer: used by this track alone from now on.
            deadline: seconds after its arrival; a frame that is expected to leave later is not
                enhanced.
            on_frame: called in the event loop with every frame that leaves; must be quick. An
                exception is counted in `stats.faults`.
            sound: the call's sound, for stages that use it.
        """
        super().__init__()
        self.stats = enhancer.stats
        self._source, self._enhancer = source, enhancer
        self._deadline, self._on_frame = deadline, on_frame
        self._sound = sound or SoundHistory()
        self._slot: NewestSlot[av.VideoFrame] = NewestSlot()
        self._missed: deque[av.VideoFrame] = deque(maxlen=MISSED_AT_MOST + 1)
        self._waits_most = max(WAITS_MOST, deadline)
        self._abandoned: list[Worker] = []  # whose work hung when last seen
        self._given_up = False  # for good
        self._has_run = False  # since the last start
        self._under_way: asyncio.Future[EnhancedFrame] | None = None
        self._start_workers()
        self._drain = asyncio.ensure_future(self._drain_source())
        self._took: deque[float] = deque(maxlen=ATTEMPTS)
        self._skipped = 0  # since enhancement was tried again
        self._retry_after = RETRY_AFTER[0]
        self._failures = 0  # in a row
        self._recovery: asyncio.Future[None] | None = None
        self._recover_after = 0.0  # seconds

    async def recv(self) -> av.VideoFrame:
        """Returns the next frame. Raises MediaStreamError once the source has ended."""
        video = await self._slot.take() if self.readyState == "live" else None
        if video is None or self.readyState != "live":
            self.stop()
            raise MediaStreamError
        arrived = arrival_time(video)
        enhanced = await self._enhance_in_time(self._read(video), arrived)
        asyncio.get_running_loop().call_soon(self._between_frames)  # after this one has left
        counts = self.stats.frames
        counts.enhanced += enhanced.is_restored
        counts.passed += not enhanced.is_restored
        self.stats.added_latency.add(time.perf_counter() - arrived)
        self.stats.left(enhanced.is_restored)
        if self._on_frame is not None:
            with self.stats.faults.guard("output"):
                self._on_frame(enhanced)
        return enhanced.video

    def stop(self) -> None:
        """Ends the track and its source; the worker's thread ends on its own."""
        if self.readyState != "live":
            return
        super().stop()
        self._drain.cancel()
        if self._recovery is not None:
            self._recovery.cancel()
        self._slot.close()
        self._source.stop()
        if not self._given_up:
            self._worker.submit(self._detector.shutdown, wait=False)  # a last frame may need it
            self._worker.shutdown(wait=False)

    async def _drain_source(self) -> None:
        try:
            while True:
                frame: Any = await self._source.recv()
                if frame.opaque is None:
                    frame.opaque = Arrival(time.perf_counter(), damaged=False)
                self.stats.frames.received += 1
                dropped = self._slot.put(frame)
                if dropped is not None:
                    self.stats.frames.dropped += 1
                    self._missed.append(dropped)
        except MediaStreamError:
            pass
        finally:
            self._slot.close()

    def _read(self, video: av.VideoFrame) -> DecodedFrame:
        """Returns the frame with what its decoder exported, or without if that cannot be read."""
        with self.stats.faults.guard("reading"):
            return DecodedFrame.from_video(video)
        return DecodedFrame(video, bool(video.key_frame), qp=None)

    def _passed(self, frame: DecodedFrame, outcome: Outcome) -> EnhancedFrame:
        """Returns the result for a frame that passes through, in its own size if that fails."""
        with self.stats.faults.guard("resizing"):
            return self._enhancer.passed(frame, outcome)
        return EnhancedFrame(frame.video, frame, outcome)

    async def _enhance_in_time(self, frame: DecodedFrame, arrived: float) -> EnhancedFrame:
        if not self._is_ready():
            self._missed.append(frame.video)
            is_hanging = self._under_way is not None
            return self._passed(frame, "passed: late" if is_hanging else "passed: failed")
        began = time.perf_counter()
        if began + self._expected() > arrived + self._deadline:
            self._skip()
            self._missed.append(frame.video)
            return self._passed(frame, "passed: late")
        enhanced = await self._enhanced_or_passed(frame, arrived)
        if self._failures >= FAILURES:
            self._recovery = asyncio.ensure_future(self._recover())
        now = time.perf_counter()
        if enhanced.is_restored:
            self._took.append(now - began)
        if now <= arrived + self._deadline:
            self._retry_after = RETRY_AFTER[0]
        return enhanced

    def _is_ready(self) -> bool:
        """Returns whether the enhancer can take a frame; abandons its threads if they hang."""
        if self._given_up or (self._recovery is not None and not self._recovery.done()):
            return False
        if max(self._worker.busy_s, self._detector.busy_s) > self._hangs_after():
            self._abandon_hanging()
            return False
        if self._under_way is not None and self._under_way.done():
            self._under_way, self._has_run = None, True
        return self._under_way is None

    def _hangs_after(self) -> float:
        return max(self._waits_most, HANGS_AFTER[0 if self._has_run else 1])

    async def _enhanced_or_passed(self, frame: DecodedFrame, arrived: float) -> EnhancedFrame:
        """Returns the result of the stages, or the frame unchanged after `_waits_most`."""
        self._between_frames()
        missed = list(self._missed)
        self._missed.clear()
        listen = partial(self._sound.window, arrived)
        work = self._under_way = self._in_worker(
            partial(self._enhance, self._worker, frame, missed, listen)
        )
        await asyncio.wait((work,), timeout=self._waits_most)
        if not work.done():
            self.stats.frames.skipped += 1
            self._took.append(self._waits_most)
            return self._passed(frame, "passed: late")
        self._under_way, self._has_run = None, True
        return work.result()

    def _expected(self) -> float:
        """Returns the seconds that enhancement is expected to take; 0 if unknown."""
        return min(self._took) if len(self._took) == ATTEMPTS else 0.0

    def _skip(self) -> None:
        self.stats.frames.skipped += 1
        self._skipped += 1
        if self._skipped >= self._retry_after:
            self._skipped = 0
            self._retry_after = min(2 * self._retry_after, RETRY_AFTER[1])
            self._took.clear()  # those timings are out of date

    def _between_frames(self) -> None:
        """Starts work between frames, unless the enhancer is busy: then before its next frame."""
        recovering = self._recovery is not None and not self._recovery.done()
        if self._under_way is None and not recovering and self.readyState == "live":
            with self.stats.faults.guard("between frames"):
                self._enhancer.between_frames()

    def _in_worker(self, work: Callable[[], Result]) -> asyncio.Future[Result]:
        return asyncio.get_running_loop().run_in_executor(self._worker, work)

    def _enhance(
        self,
        worker: Worker,
        frame: DecodedFrame,
        missed: list[av.VideoFrame],
        listen: Callable[[], PcmWindow | None],
    ) -> EnhancedFrame:
        """Runs in `worker`, which may have been abandoned by the time that this ends."""
        try:
            enhanced = self._enhancer.process(frame, list(map(self._read, missed)), listen)
        except BaseException as error:  # SystemExit in the event loop would end the process
            if worker is self._worker:
                self._failed(error)
            return self._passed(frame, "passed: failed")
        if worker is self._worker:
            self._failures = 0
            if self.stats.faults.worked("restoring"):
                self._recover_after = 0.0
        return enhanced

    def _failed(self, error: BaseException) -> None:
        self._failures += 1
        self.stats.frames.failed += 1
        self.stats.faults.failed("restoring", error)

    async def _recover(self) -> None:
        """Restarts the enhancer, after a pause that grows while restarts do not help."""
        await asyncio.sleep(self._recover_after)
        self._recover_after = min(max(2 * self._recover_after, RECOVER_AFTER[0]), RECOVER_AFTER[1])
        self._has_run = False
        try:
            await asyncio.wait_for(self._in_worker(self._enhancer.recover), self._hangs_after())
        except TimeoutError:
            self._abandon_hanging()
        except Exception as error:
            self.stats.faults.count("recovery", error)
        self._failures = FAILURES - 1  # with one more failure, this restart did not help

    def _start_workers(self) -> None:
        self._worker, self._detector = Worker("enhancer"), Worker("detector")
        self._enhancer.set_executor(self._detector)

    def _abandon_hanging(self) -> None:
        """Abandons threads that hang, and restarts the enhancer in new ones.

        If such a thread continues after all, it may disturb its successor's work on a frame or two,
        which is no worse than any other failure; its own result is discarded.
        """
        hanging = [*self._abandoned, self._worker, self._detector]
        self._abandoned = [one for one in hanging if one.busy_s]
        for worker in (self._worker, self._detector):
            worker.abandon()
        if self._under_way is not None:
            self._under_way.cancel()  # its thread may end after the event loop
            self._under_way = None
        self._failed(TimeoutError(f"no answer within {self._hangs_after():g} s"))
        if len(self._abandoned) > MOST_HANGING:
            self._given_up = True
            self.stats.faults.failed("hanging", TimeoutError("given up for good"))
            return
        self._start_workers()
        self._recovery = asyncio.ensure_future(self._recover())


def arrival_time(video: av.VideoFrame) -> float:
    """Returns a frame's arrival from its `opaque`, in seconds of `time.perf_counter`.

    Returns the present time if `opaque` is used for something else.
    """
    arrival = video.opaque
    return arrival.seconds if isinstance(arrival, Arrival) else time.perf_counter()
