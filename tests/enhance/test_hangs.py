"""An enhancer that never answers costs its own work; never the stream, nor the process its end."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import receiver.calls.track
import receiver.stats
from receiver.calls.track import MOST_HANGING, EnhancedVideoTrack
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.stage import EnhancedFrame
from receiver.worker import Worker
from tests.conftest import plain_frame
from tests.enhance.test_faults import Given, told

DEADLINE = 0.05


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Hangs are told apart within a test's time."""
    monkeypatch.setattr(receiver.stats, "HEALED_AFTER", 3)
    monkeypatch.setattr(receiver.calls.track, "RECOVER_AFTER", (0.01, 0.04))
    monkeypatch.setattr(receiver.calls.track, "WAITS_MOST", 0.2)
    monkeypatch.setattr(receiver.calls.track, "HANGS_AFTER", (0.4, 0.8))


class Hanging(Enhancer):
    """Answers at once, or, while `hangs` is set, not before `lets_go` is set.

    An answer is a new frame; here nobody looks at what is in it.
    """

    def __init__(self, generator: Any) -> None:
        super().__init__(generator)
        self.hangs, self.lets_go = threading.Event(), threading.Event()
        self.recover_hangs = threading.Event()
        self.recovered = 0

    def process(self, frame, *more):
        if self.hangs.is_set():
            self.lets_go.wait()
        return EnhancedFrame(plain_frame(64, 48), frame, "restored")

    def recover(self):
        if self.recover_hangs.is_set():
            self.lets_go.wait()
        self.recovered += 1


@pytest.fixture
def hanging(generator) -> Iterator[Hanging]:
    enhancer = Hanging(generator)
    yield enhancer
    enhancer.lets_go.set()


class Call:
    """Frames go in one by one; tells whether each came out restored, and how long it took."""

    def __init__(self, enhancer: Enhancer) -> None:
        self.source = Given()
        self.track = EnhancedVideoTrack(self.source, enhancer, deadline=DEADLINE)
        self.stats = self.track.stats
        self.longest = 0.0

    async def show(self) -> bool:
        frame = plain_frame(64, 48)
        began = time.perf_counter()
        self.source.frames.put_nowait(frame)
        output = await self.track.recv()
        self.longest = max(self.longest, time.perf_counter() - began)
        return output is not frame

    async def until(self, holds: Any) -> None:
        async with asyncio.timeout(60):
            while not holds():
                await self.show()
                await asyncio.sleep(0.01)

    async def restored(self) -> None:
        async with asyncio.timeout(60):
            while not await self.show():
                await asyncio.sleep(0.01)


def workers() -> int:
    return sum(thread.name in ("enhancer", "detector") for thread in threading.enumerate())


async def test_frames_pass_while_it_hangs_and_it_is_begun_anew(hanging, caplog):
    before, call = workers(), Call(hanging)
    await call.restored()
    hanging.hangs.set()
    await call.until(lambda: hanging.recovered == 1)
    hanging.hangs.clear()
    await call.until(lambda: call.stats.faults.healthy)
    assert await call.show()
    assert call.longest < 20.0  # never for ever; a busy machine may take its time
    assert call.stats.faults.counts == {"restoring": 1}
    assert told(caplog, "restoring failed") == told(caplog, "restoring works again") == 1
    assert workers() <= before + 2  # the one that hangs, and its successor
    call.track.stop()
    hanging.lets_go.set()
    await gone(before)


async def test_only_the_first_frame_waits_for_it(hanging):
    call = Call(hanging)
    await call.restored()
    hanging.hangs.set()
    assert not await call.show()
    skipped = call.stats.frames.skipped
    assert skipped == 1
    assert not any([await call.show() for _ in range(20)])
    assert (call.stats.frames.skipped, call.stats.frames.passed) == (1, 21)
    call.track.stop()


async def test_the_first_run_may_take_longer(hanging):
    call = Call(hanging)
    hanging.hangs.set()
    began = time.perf_counter()
    while time.perf_counter() < began + 0.6:
        assert not await call.show()
        await asyncio.sleep(0.01)
    assert hanging.recovered == 0
    hanging.hangs.clear()
    hanging.lets_go.set()
    await call.restored()
    assert call.stats.faults.counts == {}
    call.track.stop()


async def test_whatever_hangs_again_and_again_is_given_up(hanging, caplog):
    before, call = workers(), Call(hanging)
    hanging.hangs.set()
    await call.until(lambda: "hanging" in call.stats.faults.counts)
    assert workers() <= before + MOST_HANGING + 1
    assert told(caplog, "hanging failed") == 1
    hanging.hangs.clear()
    assert not any([await call.show() for _ in range(20)])
    assert not call.stats.snapshot()["healthy"]
    assert workers() <= before + MOST_HANGING + 1
    call.track.stop()
    hanging.lets_go.set()
    await gone(before)


async def test_beginning_anew_may_hang_as_well(hanging):
    before, call = workers(), Call(hanging)
    await call.restored()
    hanging.recover_hangs.set()
    hanging.hangs.set()
    await call.until(lambda: call.stats.faults.counts.get("restoring", 0) == 2)
    hanging.hangs.clear()
    hanging.recover_hangs.clear()
    await call.restored()
    assert hanging.recovered == 1
    call.track.stop()
    hanging.lets_go.set()
    await gone(before)


async def test_a_detector_that_hangs_is_noticed(hanging):
    call = Call(hanging)
    await call.restored()
    call.track._detector.submit(hanging.lets_go.wait)
    await call.until(lambda: hanging.recovered == 1)
    await call.restored()
    assert call.stats.faults.counts == {"restoring": 1}
    call.track.stop()


async def gone(before: int) -> None:
    """Until no more of our threads are there than before."""
    async with asyncio.timeout(60):
        while workers() > before:
            await asyncio.sleep(0.01)


HANGS_AT_THE_END = """
import sys, threading, time
from receiver.worker import Worker
worker = Worker("hangs")
worker.submit(threading.Event().wait)
if sys.argv[1] == "abandoned":
    worker.abandon()
print("end", flush=True)
"""


@pytest.mark.parametrize("how", ["abandoned", "forgotten"])
def test_the_process_ends_all_the_same(how):
    command = [sys.executable, "-c", HANGS_AT_THE_END, how]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert (ended.stdout, ended.stderr) == ("end\n", "")


def test_a_worker_does_its_work_in_turn_and_ends_with_it():
    worker, done = Worker("tested"), []
    assert worker.busy_s == 0.0
    worker.submit(done.append, 1)
    worker.submit(done.append, 2)
    with pytest.raises(ZeroDivisionError):
        worker.submit(divmod, 1, 0).result()
    worker.shutdown()
    assert done == [1, 2]
    assert "tested" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(RuntimeError):
        worker.submit(done.append, 3)


def test_what_waits_behind_something_that_hangs_is_cancelled():
    worker, lets_go = Worker("tested"), threading.Event()
    hangs = worker.submit(lets_go.wait)
    while not worker.busy_s:
        time.sleep(0.001)
    waits = worker.submit(divmod, 1, 1)
    worker.abandon()
    assert waits.cancelled()
    lets_go.set()
    assert hangs.result(60)
