"""The plugin: wraps any aiortc video track and gives it back with its faces restored."""

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
from receiver.enhance.stage import EnhancedFrame
from receiver.media.frame import Arrival, DecodedFrame
from receiver.media.sound import PcmWindow, SoundHistory
from receiver.worker import Worker

DEADLINE = 0.033
"""Seconds after its arrival within which a frame has to leave: one frame at 30 fps."""

ATTEMPTS = 3
"""Enhancements by whose fastest the next is judged: the first after a pause is slow, and so is one
that another program got in the way of."""

RETRY_AFTER = (3, 30)
"""Frames skipped, after which enhancement is tried again: at first, and at most. They double with
every try that fails: a moment's trouble costs a moment, and a slow machine is left alone."""

FAILURES = 3
"""Failures in a row after which the enhancer is begun anew."""

RECOVER_AFTER = (1.0, 30.0)
"""Seconds before the enhancer is begun anew once more, where the first time, at once, did not help:
at first, and at most. They double until restoring works again."""

WAITS_MOST = 1.0
"""Seconds that a frame waits for its own enhancement at most (or `deadline`, if that is longer);
the next ones pass at once, as long as the enhancer is not through with it."""

HANGS_AFTER = (3.0, 30.0)
"""Seconds after which an enhancement, or a search for faces, is taken to hang (at least as long as
a frame waits): usually, and the first one and beginning anew, which load and compile."""

MOST_HANGING = 3
"""Threads that may hang at once; with one more, restoring is given up for good."""


Item = TypeVar("Item")
Result = TypeVar("Result")


class NewestSlot(Generic[Item]):
    """Holds one frame: a newer one replaces it. This is the only queue before the enhancer."""

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
        """No frame will come any more; the one that waits can still be taken."""
        self._closed = True
        self._changed.set()

    async def take(self) -> Item | None:
        """Waits for a frame; None once the slot is closed and empty."""
        while self._frame is None and not self._closed:
            self._changed.clear()
            await self._changed.wait()
        frame, self._frame = self._frame, None
        return frame


class EnhancedVideoTrack(MediaStreamTrack):
    """A video track whose frames went through an `Enhancer`.

        pc.addTrack(EnhancedVideoTrack(track, Enhancer(Generator())))

    The source is drained all the time into a slot of one, so nothing piles up in front of it, and
    enhancement runs in a thread of its own, so the event loop stays free. A frame that would come
    out later than `DEADLINE` after its arrival goes out untouched, and so does one whose
    enhancement failed: the stream never breaks, and waits for `WAITS_MOST` at most. An enhancer
    that goes on failing is begun anew beside the frames, which pass meanwhile; one that hangs, in a
    new thread. pts and time base are the source's.
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
        """To be made inside a running event loop.

        Args:
            source: any aiortc video track.
            enhancer: used by this track alone from now on.
            deadline: seconds after a frame's arrival within which it has to leave.
            on_frame: is called in the event loop with every frame that leaves; must be quick. An
                exception is counted in `stats.faults`.
            sound: the call's sound, for stages that listen.
        """
        super().__init__()
        self.stats = enhancer.stats
        self._source, self._enhancer = source, enhancer
        self._deadline, self._on_frame = deadline, on_frame
        self._sound = sound
        self._slot: NewestSlot[av.VideoFrame] = NewestSlot()
        self._missed: deque[av.VideoFrame] = deque(maxlen=MISSED_AT_MOST + 1)
        self._waits_most = max(WAITS_MOST, deadline)
        self._abandoned: list[Worker] = []  # whose work hung when last seen
        self._given_up = False  # for good
        self._has_run = False  # since it was begun
        self._under_way: asyncio.Future[EnhancedFrame] | None = None
        self._begin_workers()
        self._drain = asyncio.ensure_future(self._drain_source())
        self._took: deque[float] = deque(maxlen=ATTEMPTS)
        self._skipped = 0  # since enhancement was tried again
        self._retry_after = RETRY_AFTER[0]
        self._failures = 0  # in a row
        self._recovery: asyncio.Future[None] | None = None
        self._recover_after = 0.0  # seconds

    async def recv(self) -> av.VideoFrame:
        """The next frame. Raises MediaStreamError once the source has ended."""
        video = await self._slot.take() if self.readyState == "live" else None
        if video is None or self.readyState != "live":
            self.stop()
            raise MediaStreamError
        arrived = arrival_time(video)
        enhanced = await self._enhance_in_time(self._read(video), arrived)
        asyncio.get_running_loop().call_soon(self._between_frames)  # when this one has left
        if not enhanced.was_processed:
            self._missed.append(video)
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
        """Ends the track and the source with it; the worker's thread ends on its own."""
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

    async def _enhance_in_time(self, frame: DecodedFrame, arrived: float) -> EnhancedFrame:
        if not self._is_ready():
            is_hanging = self._under_way is not None
            return EnhancedFrame.passed(frame, "passed: late" if is_hanging else "passed: failed")
        began = time.perf_counter()
        if began + self._expected() > arrived + self._deadline:
            self._skip()
            return EnhancedFrame.passed(frame, "passed: late")
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
        """Whether the enhancer can take a frame; one that hangs is left to itself here."""
        if self._given_up or (self._recovery is not None and not self._recovery.done()):
            return False
        if max(self._worker.busy_s, self._detector.busy_s) > self._hangs_after():
            self._leave_hanging()
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
        sound = self._sound.window(arrived) if self._sound is not None else None
        work = self._under_way = self._in_worker(
            partial(self._enhance, self._worker, frame, missed, sound)
        )
        await asyncio.wait((work,), timeout=self._waits_most)
        if not work.done():
            self.stats.frames.skipped += 1
            self._took.append(self._waits_most)
            return EnhancedFrame.passed(frame, "passed: late")
        self._under_way, self._has_run = None, True
        return work.result()

    def _expected(self) -> float:
        """Seconds that enhancement takes when all goes well, as far as is known."""
        return min(self._took) if len(self._took) == ATTEMPTS else 0.0

    def _skip(self) -> None:
        self.stats.frames.skipped += 1
        self._skipped += 1
        if self._skipped >= self._retry_after:
            self._skipped = 0
            self._retry_after = min(2 * self._retry_after, RETRY_AFTER[1])
            self._took.clear()  # what was measured then is old news

    def _between_frames(self) -> None:
        """Not while the enhancer is at work: then this is done before its next frame."""
        recovering = self._recovery is not None and not self._recovery.done()
        if self._under_way is None and not recovering and self.readyState == "live":
            self._enhancer.between_frames()

    def _in_worker(self, work: Callable[[], Result]) -> asyncio.Future[Result]:
        return asyncio.get_running_loop().run_in_executor(self._worker, work)

    def _enhance(
        self,
        worker: Worker,
        frame: DecodedFrame,
        missed: list[av.VideoFrame],
        sound: PcmWindow | None,
    ) -> EnhancedFrame:
        """Runs in `worker`, which may have been abandoned by the time that this ends."""
        try:
            enhanced = self._enhancer.process(frame, list(map(self._read, missed)), sound)
        except Exception as error:
            if worker is self._worker:
                self._failed(error)
            return EnhancedFrame.passed(frame, "passed: failed")
        if worker is self._worker:
            self._failures = 0
            if self.stats.faults.worked("restoring"):
                self._recover_after = 0.0
        return enhanced

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        self.stats.frames.failed += 1
        self.stats.faults.failed("restoring", error)

    async def _recover(self) -> None:
        """Begins the enhancer anew, the later the less it has helped."""
        await asyncio.sleep(self._recover_after)
        self._recover_after = min(max(2 * self._recover_after, RECOVER_AFTER[0]), RECOVER_AFTER[1])
        self._has_run = False
        try:
            await asyncio.wait_for(self._in_worker(self._enhancer.recover), self._hangs_after())
        except TimeoutError:
            self._leave_hanging()
        except Exception as error:
            self.stats.faults.count("recovery", error)
        self._failures = FAILURES - 1  # one more, and it did not help

    def _begin_workers(self) -> None:
        self._worker, self._detector = Worker("enhancer"), Worker("detector")
        self._enhancer.set_executor(self._detector)

    def _leave_hanging(self) -> None:
        """Leaves threads that hang to themselves; the enhancer is begun anew in others.

        One that goes on after all may still disturb what its successor does with a frame or two:
        no more than any other failure, and what it makes itself nobody takes.
        """
        hanging = [*self._abandoned, self._worker, self._detector]
        self._abandoned = [one for one in hanging if one.busy_s]
        for worker in (self._worker, self._detector):
            worker.abandon()
        if self._under_way is not None:
            self._under_way.cancel()  # its thread may end when the event loop is gone
            self._under_way = None
        self._failed(TimeoutError(f"no answer within {self._hangs_after():g} s"))
        if len(self._abandoned) > MOST_HANGING:
            self._given_up = True
            self.stats.faults.failed("hanging", TimeoutError("given up for good"))
            return
        self._begin_workers()
        self._recovery = asyncio.ensure_future(self._recover())


def arrival_time(video: av.VideoFrame) -> float:
    """When a frame arrived, in seconds of `time.perf_counter`, as noted in its `opaque`.

    Now, if somebody else uses `opaque` for something else.
    """
    arrival = video.opaque
    return arrival.seconds if isinstance(arrival, Arrival) else time.perf_counter()
