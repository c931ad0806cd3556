"""A hanging enhancer costs its own work, but neither stops the stream nor keeps the process."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
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

pytestmark = pytest.mark.slow

DEADLINE = 0.05


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Makes time limits short enough for a test."""
    monkeypatch.setattr(receiver.stats, "HEALED_AFTER", 3)
    monkeypatch.setattr(receiver.calls.track, "RECOVER_AFTER", (0.01, 0.04))
    monkeypatch.setattr(receiver.calls.track, "WAITS_MOST", 0.2)
    monkeypatch.setattr(receiver.calls.track, "HANGS_AFTER", (0.4, 0.8))


class Hanging(Enhancer):
    """Returns a new frame at once, or, while `hangs` is set, after `goes_on` is set."""

    def __init__(self, generator: Any) -> None:
        super().__init__(generator)
        self.hangs, self.goes_on = threading.Event(), threading.Event()
        self.recover_hangs = threading.Event()
        self.recovered = 0

    def process(self, frame, *more):
        if self.hangs.is_set():
            self.goes_on.wait()
        return EnhancedFrame(plain_frame(64, 48), frame, "restored")

    def recover(self):
        if self.recover_hangs.is_set():
            self.goes_on.wait()
        self.recovered += 1


@pytest.fixture
def hanging(generator) -> Iterator[Hanging]:
    enhancer = Hanging(generator)
    yield enhancer
    enhancer.goes_on.set()


class Call:
    """Sends frames one by one."""

    def __init__(self, enhancer: Enhancer) -> None:
        self.source = Given()
        self.track = EnhancedVideoTrack(self.source, enhancer, deadline=DEADLINE)
        self.stats = self.track.stats

    async def show(self) -> bool:
        """Sends a frame; returns whether it was restored."""
        frame = plain_frame(64, 48)
        self.source.frames.put_nowait(frame)
        async with asyncio.timeout(20):  # a busy machine may be slow
            output = await self.track.recv()
        return output is not frame

    async def until(self, holds: Callable[[], bool]) -> None:
        """Sends frames until a condition holds."""
        async with asyncio.timeout(60):
            while not holds():
                await self.show()
                await asyncio.sleep(0.01)

    async def restored(self) -> None:
        """Sends frames until one is restored."""
        async with asyncio.timeout(60):
            while not await self.show():
                await asyncio.sleep(0.01)


def workers() -> int:
    return sum(thread.name in ("enhancer", "detector") for thread in threading.enumerate())


async def test_frames_pass_through_while_it_hangs_and_it_is_restarted(hanging, caplog):
    before, call = workers(), Call(hanging)
    await call.restored()
    hanging.hangs.set()
    await call.until(lambda: hanging.recovered == 1)
    hanging.hangs.clear()
    await call.until(lambda: call.stats.faults.healthy)
    assert await call.show()
    assert call.stats.faults.counts == {"restoring": 1}
    assert told(caplog, "restoring failed") == told(caplog, "restoring works again") == 1
    assert workers() <= before + 2  # the hanging one and its successor
    call.track.stop()
    hanging.goes_on.set()
    await gone(before)


async def test_only_the_first_frame_waits_for_a_hanging_enhancer(hanging):
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
    hanging.goes_on.set()
    await call.restored()
    assert call.stats.faults.counts == {}
    call.track.stop()


async def test_an_enhancer_that_hangs_repeatedly_is_given_up(hanging, caplog):
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
    hanging.goes_on.set()
    await gone(before)


async def test_a_restart_may_hang_as_well(hanging):
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
    hanging.goes_on.set()
    await gone(before)


async def test_a_detector_that_hangs_is_noticed(hanging):
    call = Call(hanging)
    await call.restored()
    call.track._detector.submit(hanging.goes_on.wait)
    await call.until(lambda: hanging.recovered == 1)
    await call.restored()
    assert call.stats.faults.counts == {"restoring": 1}
    call.track.stop()


async def gone(before: int) -> None:
    """Waits until there are no more of the project's threads than before."""
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


@pytest.mark.parametrize("how", ["abandoned", "still referenced"])
def test_a_hanging_worker_does_not_keep_the_process(how):
    command = [sys.executable, "-c", HANGS_AT_THE_END, how]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert (ended.stdout, ended.stderr) == ("end\n", "")


def test_a_worker_runs_its_work_in_order_and_ends_after_it():
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


def test_work_behind_hanging_work_is_cancelled():
    worker, goes_on = Worker("tested"), threading.Event()
    hangs = worker.submit(goes_on.wait)
    while not worker.busy_s:
        time.sleep(0.001)
    waits = worker.submit(divmod, 1, 1)
    worker.abandon()
    assert waits.cancelled()
    goes_on.set()
    assert hangs.result(60)
