"""A failure in a running call stops only the part that failed, and the call recovers."""

import asyncio
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from typing import Any

import av
import pytest
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

import receiver.calls.track
import receiver.stats
from keyframes import Person
from receiver.calls.rooms import Room
from receiver.calls.track import FAILURES, EnhancedVideoTrack
from receiver.calls.viewers import PENDING, VIEWS, SharedEncoder, ViewerTrack
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.generator import Generator
from receiver.enhance.faces.tracking import SEARCH_EVERY_EMPTY
from receiver.enhance.stage import EnhancedFrame
from receiver.inference.model_files import WEIGHTS
from receiver.inference.network import Network
from receiver.media.frame import DecodedFrame
from receiver.stats import Faults, Stats
from tests.calls.peer import HERE
from tests.conftest import plain_frame

pytestmark = pytest.mark.slow

PATIENT = 600.0
"""A deadline that no machine misses: late frames are tested elsewhere."""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Makes the waits before a recovery short enough for a test."""
    monkeypatch.setattr(receiver.stats, "HEALED_AFTER", 5)
    monkeypatch.setattr(receiver.calls.track, "RECOVER_AFTER", (0.01, 0.04))


class Given(MediaStreamTrack):
    """A source whose frames come from a queue."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        self.frames: asyncio.Queue[av.VideoFrame] = asyncio.Queue()

    async def recv(self) -> av.VideoFrame:
        return await self.frames.get()


class Call:
    """An enhanced track that gets its frames one by one, so that none is dropped."""

    def __init__(self, enhancer: Enhancer, **more: Any) -> None:
        self.source = Given()
        self.seen: list[EnhancedFrame] = []
        more = {"on_frame": self.seen.append, **more}
        self.track = EnhancedVideoTrack(self.source, enhancer, deadline=PATIENT, **more)
        self.stats = self.track.stats

    async def show(self, frame: DecodedFrame) -> bool:
        """Sends a frame; returns whether it was restored, or else passed as the same object."""
        frame.video.opaque = None
        self.source.frames.put_nowait(frame.video)
        output = await self.track.recv()
        assert output.pts == frame.video.pts
        return output is not frame.video

    async def identified(self, enhancer: Enhancer, frames: list[DecodedFrame]) -> Person:
        """Sends frames until the person on screen is identified; returns that person."""
        for frame in cycle(frames):
            assert await self.show(frame)
            person = enhancer.people[self.seen[-1].faces[0].track_id]
            if person.identity.mean is not None:
                return person
            await asyncio.sleep(0.01)
        raise AssertionError

    async def recovered(self) -> None:
        if self.track._recovery is not None:
            await self.track._recovery


def raising(work: Callable[..., Any], when: Callable[[], bool]) -> Callable[..., Any]:
    """Returns a function that does the work, or raises RuntimeError when `when` returns true."""

    def wrapped(*of: Any, **more: Any) -> Any:
        if when():
            raise RuntimeError("out of order")
        return work(*of, **more)

    return wrapped


def told(caplog, words: str) -> int:
    """Returns the number of log records that contain the words."""
    return sum(words in record.message for record in caplog.records)


# Restoring


async def test_a_generator_that_fails_at_random(generator, decoded, monkeypatch, caplog):
    chance, failures = random.Random(7), []

    def when() -> bool:
        failures.append(chance.random() < 0.4)
        return failures[-1]

    call = Call(Enhancer(generator))
    with monkeypatch.context() as patch:
        patch.setattr(generator, "restore", raising(generator.restore, when))
        restored = []
        for frame in decoded:
            await call.recovered()
            restored.append(await call.show(frame))
    assert restored == [not failed for failed in failures]
    counts = call.stats.frames
    assert counts.failed == call.stats.faults.counts["restoring"] == sum(failures)
    assert (counts.enhanced, counts.dropped) == (sum(restored), 0)
    assert told(caplog, "restoring failed") == 1
    await call.recovered()
    assert [await call.show(frame) for frame in decoded[:6]] == [True] * 6
    assert call.stats.snapshot()["healthy"]
    call.track.stop()


class Broken:
    """A session whose runs fail."""

    def run(self, *of: Any) -> Any:
        raise RuntimeError("CUDA failure 999")

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


async def test_a_broken_session_is_rebuilt(decoded, caplog):
    generator = Generator("lite", "cpu")
    enhancer = Enhancer(generator)
    call = Call(enhancer)
    person = await call.identified(enhancer, decoded)
    restorer = generator._networks.restorer
    broken = Network(restorer.model, restorer.signature, Broken())
    generator._networks = replace(generator._networks, restorer=broken)
    assert not any([await call.show(frame) for frame in decoded[1 : 1 + FAILURES]])
    assert not call.stats.snapshot()["healthy"]
    await call.recovered()
    assert all([await call.show(frame) for frame in decoded[4:12]])
    assert await call.identified(enhancer, decoded) is person  # with the references
    assert call.stats.frames.failed == FAILURES
    assert call.stats.snapshot()["faults"] == {"restoring": FAILURES}
    assert call.stats.snapshot()["healthy"]
    assert told(caplog, "restoring failed") == told(caplog, "restoring works again") == 1
    call.track.stop()


async def test_frames_pass_through_while_the_enhancer_restarts(generator, decoded, monkeypatch):
    """However long the restart takes: here until the test ends it."""
    going_on, enhancer = asyncio.Event(), Enhancer(generator)
    loop, recover = asyncio.get_running_loop(), enhancer.recover

    def slow() -> None:
        asyncio.run_coroutine_threadsafe(going_on.wait(), loop).result()
        recover()

    enhancer.recover = slow
    call = Call(enhancer)
    with monkeypatch.context() as patch:
        patch.setattr(generator, "restore", raising(generator.restore, lambda: True))
        assert not any([await call.show(frame) for frame in decoded])
    assert call.stats.frames.failed == FAILURES
    assert call.stats.frames.passed == len(decoded)
    going_on.set()
    await call.recovered()
    assert await call.show(decoded[0])
    call.track.stop()


async def test_restarts_become_rarer(generator, decoded, monkeypatch):
    call, waits = Call(Enhancer(generator)), []
    with monkeypatch.context() as patch:
        patch.setattr(generator, "restore", raising(generator.restore, lambda: True))
        for _ in range(5):
            waits.append(call.track._recover_after)
            tries = FAILURES if len(waits) == 1 else 1
            assert not any([await call.show(frame) for frame in decoded[:tries]])
            await call.recovered()
    assert waits == [0.0, 0.01, 0.02, 0.04, 0.04]
    assert call.stats.frames.failed == FAILURES + 4
    assert all([await call.show(frame) for frame in decoded[:6]])
    assert call.track._recover_after == 0.0
    call.track.stop()


async def test_the_model_may_be_deleted_during_the_call(tmp_path, decoded, monkeypatch, caplog):
    for file in (*WEIGHTS.glob("lite-int8*.onnx"), WEIGHTS / "lite.json"):
        shutil.copy(file, tmp_path)
    generator = Generator(str(tmp_path / "lite-int8.onnx"), "cpu")
    networks = generator._networks
    assert networks.aligner is not None
    call = Call(Enhancer(generator))
    for file in tmp_path.iterdir():
        file.unlink()
    assert await call.show(decoded[0])
    with monkeypatch.context() as patch:
        patch.setattr(generator, "restore", raising(generator.restore, lambda: True))
        for frame in decoded[:6]:
            assert not await call.show(frame)
            await call.recovered()
    assert generator._networks is networks
    assert all([await call.show(frame) for frame in decoded[:6]])
    assert call.stats.snapshot()["faults"] == {"restoring": 6, "recovery": 4}
    assert call.stats.snapshot()["healthy"]
    assert told(caplog, "recovery failed") == 1
    call.track.stop()


async def test_a_detector_that_raises(generator, decoded):
    enhancer, broken = Enhancer(generator), [True]
    call = Call(enhancer)
    enhancer._tracker._detect = raising(enhancer._tracker._detect, lambda: broken[0])
    assert not any([await call.show(frame) for frame in decoded[:10]])
    assert call.stats.faults.counts["restoring"] == call.stats.frames.failed > 0
    broken[0] = False
    restored = [await call.show(frame) for frame in decoded[10:20]]
    assert restored[SEARCH_EVERY_EMPTY:] == [True] * (10 - SEARCH_EVERY_EMPTY)
    call.track.stop()


async def test_a_broken_tracker_is_restarted(generator, decoded):
    enhancer = Enhancer(generator)
    call = Call(enhancer)
    person = await call.identified(enhancer, decoded)
    enhancer._tracker.track = raising(enhancer._tracker.track, lambda: True)
    assert not any([await call.show(frame) for frame in decoded[1 : 1 + FAILURES]])
    await call.recovered()
    assert all([await call.show(frame) for frame in decoded[4:8]])
    assert await call.identified(enhancer, decoded) is person
    assert len(person.keyframes) > 0
    call.track.stop()


async def test_a_frame_with_unreadable_side_data_passes_through(enhancer, monkeypatch):
    call = Call(enhancer)
    frame = DecodedFrame.from_video(plain_frame())
    with monkeypatch.context() as patch:
        read = raising(DecodedFrame.from_video, lambda: True)
        patch.setattr(DecodedFrame, "from_video", read)
        assert not await call.show(frame)
    assert not await call.show(frame)
    assert call.stats.faults.counts == {"reading": 1}
    call.track.stop()


# Log messages


def test_faults_are_logged_when_they_begin_and_when_they_end(caplog):
    faults = Faults()
    for _ in range(3):
        faults.failed("output", RuntimeError("one"))
        faults.failed("output", ValueError("another"))
    assert told(caplog, "output failed") == 2
    assert (faults.counts, faults.healthy) == ({"output": 6}, False)
    for _ in range(4):
        assert not faults.worked("output")
    faults.failed("output", ValueError("another"))
    assert [faults.worked("output") for _ in range(5)] == [False] * 4 + [True]
    assert faults.healthy
    assert told(caplog, "output works again; it had failed 7 times") == 1
    faults.failed("output", ValueError("another"))
    assert told(caplog, "output failed") == 3


# Outputs


async def test_an_output_that_raises_does_not_affect_the_others(enhancer, caplog):
    room, before, after = Room("live", enhancer, HERE), [], []

    def broken(frame: av.VideoFrame) -> None:
        raise OSError("no such window")

    room.outputs.extend((before.append, broken, after.append))
    call = Call(enhancer, on_frame=room._spread)
    for _ in range(8):
        await call.show(DecodedFrame.from_video(plain_frame()))
    assert len(before) == len(after) == 8
    assert call.stats.faults.counts == {"output": 8}
    assert told(caplog, "output failed") == 1
    room.outputs.remove(broken)
    call.track.stop()
    await room.close()


async def test_a_callback_that_raises_does_not_end_the_stream(enhancer):
    call = Call(enhancer, on_frame=lambda _: 1 / 0)
    for _ in range(4):
        await call.show(DecodedFrame.from_video(plain_frame()))
    assert call.stats.faults.counts == {"output": 4}
    call.track.stop()


async def shown(encoder: SharedEncoder, viewer: ViewerTrack) -> Any:
    encoder.put([plain_frame()], 0.0)
    return await viewer.recv()


async def test_an_encoder_that_raises_is_opened_again(monkeypatch):
    encoder = SharedEncoder(VIEWS["restored"], Stats("cpu"))
    viewer = ViewerTrack(encoder)
    assert (await shown(encoder, viewer)).is_keyframe
    assert not (await shown(encoder, viewer)).is_keyframe
    first, failing = encoder._codec, [True, False]
    with monkeypatch.context() as patch:
        encode = raising(encoder._encode, lambda: failing.pop(0))
        patch.setattr(encoder, "_encode", encode)
        encoder.put([plain_frame()], 0.0)
        while len(failing) == 2:
            await asyncio.sleep(0.01)
        await shown(encoder, viewer)
    assert encoder._stats.faults.counts == {"encoding": 1}
    encoder._codec = None
    assert (await shown(encoder, viewer)).is_keyframe
    assert encoder._codec is not first
    await encoder.close()


async def test_a_viewer_that_never_reads_does_not_affect_the_others():
    encoder = SharedEncoder(VIEWS["restored"], Stats("cpu"))
    viewer, stalled = ViewerTrack(encoder), ViewerTrack(encoder)
    packets = [await shown(encoder, viewer) for _ in range(3 * PENDING)]
    assert [packet.is_keyframe for packet in packets].count(True) == 1
    assert stalled._packets.qsize() <= PENDING
    reading = asyncio.ensure_future(stalled.recv())  # it reads again
    while not reading.done():  # key frames on request have an interval between them
        encoder.put([plain_frame()], 0.0)
        await asyncio.sleep(0.02)
    assert (await reading).is_keyframe
    await encoder.close()
    with pytest.raises(MediaStreamError):
        await stalled.recv()
