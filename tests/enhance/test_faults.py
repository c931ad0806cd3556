"""What fails in a running call costs that much of it and no more, and heals."""

import asyncio
import contextlib
import random
import resource
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import cycle
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

import receiver.calls.track
import receiver.enhance.faces.generator
import receiver.inference.io_binding
import receiver.media.outputs
import receiver.stats
from keyframes import Person
from receiver.calls.requester import Requester
from receiver.calls.rooms import PENDING, VIEWS, Room, SharedEncoder, ViewerTrack
from receiver.calls.track import FAILURES, EnhancedVideoTrack
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.generator import WEIGHTS, Generator
from receiver.enhance.faces.tracking import SEARCH_EVERY_EMPTY
from receiver.enhance.stage import EnhancedFrame
from receiver.errors import DeviceError, InputError
from receiver.media.frame import DecodedFrame
from receiver.media.outputs import JUMP, FileOutput, Timeline
from receiver.stats import Faults, Stats
from receiver.stills.protocol import LABEL, StillSender, encode_still
from tests.calls.peer import HERE
from tests.conftest import plain_frame
from tests.stills.test_protocol import Channel, announcement

PATIENT = 600.0
"""A deadline that no machine misses: what is late is not this file's matter."""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Heals and tries again within a test's time."""
    monkeypatch.setattr(receiver.stats, "HEALED_AFTER", 5)
    monkeypatch.setattr(receiver.calls.track, "RECOVER_AFTER", (0.01, 0.04))


class Given(MediaStreamTrack):
    """Gives the frames that it was given, each when it is its turn."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        self.frames: asyncio.Queue[av.VideoFrame] = asyncio.Queue()

    async def recv(self) -> av.VideoFrame:
        return await self.frames.get()


class Call:
    """An enhanced track into which frames go one by one, so that none is dropped."""

    def __init__(self, enhancer: Enhancer, **more: Any) -> None:
        self.source = Given()
        self.seen: list[EnhancedFrame] = []
        more = {"on_frame": self.seen.append, **more}
        self.track = EnhancedVideoTrack(self.source, enhancer, deadline=PATIENT, **more)
        self.stats = self.track.stats

    async def show(self, frame: DecodedFrame) -> bool:
        """Whether the frame came out restored; untouched it is the very same object."""
        frame.video.opaque = None
        self.source.frames.put_nowait(frame.video)
        output = await self.track.recv()
        assert output.pts == frame.video.pts
        return output is not frame.video

    async def identified(self, enhancer: Enhancer, frames: list[DecodedFrame]) -> Person:
        """Shows frames until it is known who is on screen; returns who it is."""
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
    """The real thing, which raises now and then."""

    def wrapped(*of: Any, **more: Any) -> Any:
        if when():
            raise RuntimeError("out of order")
        return work(*of, **more)

    return wrapped


def told(caplog, words: str) -> int:
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
    """A session that does nothing any more."""

    def run(self, *of: Any) -> Any:
        raise RuntimeError("CUDA failure 999")

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


async def test_a_session_that_is_broken_is_rebuilt(decoded, caplog):
    generator = Generator("lite", "cpu")
    enhancer = Enhancer(generator)
    call = Call(enhancer)
    person = await call.identified(enhancer, decoded)
    generator._network = replace(generator._network, session=Broken())
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


async def test_frames_pass_while_the_enhancer_is_begun_anew(generator, decoded, monkeypatch):
    """Whatever it takes: here it does not end before the test says so."""
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


async def test_it_is_begun_anew_more_and_more_rarely(generator, decoded, monkeypatch):
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
    network = generator._network
    assert network.alignment is not None
    call = Call(Enhancer(generator))
    for file in tmp_path.iterdir():
        file.unlink()
    assert await call.show(decoded[0])
    with monkeypatch.context() as patch:
        patch.setattr(generator, "restore", raising(generator.restore, lambda: True))
        for frame in decoded[:6]:
            assert not await call.show(frame)
            await call.recovered()
    assert generator._network is network
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


async def test_a_tracker_in_disorder_is_begun_anew(generator, decoded):
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


async def test_a_frame_whose_side_data_cannot_be_read_goes_on(enhancer, monkeypatch):
    call = Call(enhancer)
    frame = DecodedFrame.from_video(plain_frame())
    with monkeypatch.context() as patch:
        read = raising(DecodedFrame.from_video, lambda: True)
        patch.setattr(DecodedFrame, "from_video", read)
        assert not await call.show(frame)
    assert not await call.show(frame)
    assert call.stats.faults.counts == {"reading": 1}
    call.track.stop()


# CUDA that goes


class OnCuda:
    """A session of the CPU's that says that it is a GPU's, until the GPU has gone."""

    def __init__(self, session: Any, provider: str, gone: asyncio.Event) -> None:
        self._session, self._provider, self._gone = session, provider, gone

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def get_providers(self) -> list[str]:
        return [self._provider]

    def run_with_iobinding(self, *of: Any) -> Any:
        if self._gone.is_set():
            raise RuntimeError("CUDA failure 999")
        return self._session.run_with_iobinding(*of)


@pytest.fixture
def cuda_gone(monkeypatch) -> asyncio.Event:
    """A GPU is there, until this is set: then none of its sessions runs or can be opened."""
    gone, new_session = asyncio.Event(), receiver.enhance.faces.generator._new_session

    def opening(model: Any, device: str, has_graphs: bool, threads: int | None) -> Any:
        if device != "cpu" and gone.is_set():
            raise DeviceError("CUDA failure 999")
        session = new_session(model, "cpu", False, threads)
        return session if device == "cpu" else OnCuda(session, PROVIDERS[device], gone)

    monkeypatch.setattr(receiver.enhance.faces.generator, "_new_session", opening)
    monkeypatch.setattr(receiver.enhance.faces.generator, "device_problem", lambda _: None)
    monkeypatch.setattr(receiver.enhance.faces.generator, "BATCH", 2)  # so many sizes are warmed up
    monkeypatch.setattr(receiver.inference.io_binding, "MEMORY", {})  # it is the CPU's after all
    return gone


PROVIDERS = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


async def test_auto_goes_on_on_the_cpu(cuda_gone, decoded):
    call = Call(Enhancer(Generator("lite", "auto")))
    assert await call.show(decoded[0])
    assert call.stats.snapshot()["device"] == "cuda"
    cuda_gone.set()
    assert not any([await call.show(frame) for frame in decoded[:FAILURES]])
    await call.recovered()
    assert await call.show(decoded[0])
    assert call.stats.snapshot()["device"] == "cpu"
    assert call.track._enhancer.generator.model.path.name == "lite-int8.onnx"
    call.track.stop()


@pytest.mark.parametrize("device", PROVIDERS)
async def test_a_gpu_stays_that_and_keeps_trying(cuda_gone, decoded, device):
    call = Call(Enhancer(Generator("lite", device)))
    assert await call.show(decoded[0])
    cuda_gone.set()
    for frame in decoded[:6]:
        assert not await call.show(frame)
        await call.recovered()
    assert call.stats.snapshot()["device"] == device
    assert call.stats.faults.counts["recovery"] == 4
    cuda_gone.clear()
    assert await call.show(decoded[0])
    call.track.stop()


def test_a_session_that_comes_up_elsewhere_is_not_cudas(cuda_gone, monkeypatch):
    monkeypatch.setattr(OnCuda, "get_providers", lambda _: ["CPUExecutionProvider"])
    with pytest.raises(DeviceError, match="CUDA was asked for and the session came up on the CPU"):
        Generator("lite", "cuda")
    assert Generator("lite", "auto").device == "cpu"


# What is told


def test_faults_are_told_when_they_begin_and_when_they_are_over(caplog):
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


async def test_an_output_that_raises_does_not_concern_the_others(enhancer, caplog):
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


async def test_an_encoder_that_raises_is_opened_anew(monkeypatch):
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


async def test_a_viewer_that_never_reads_costs_the_others_nothing():
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


# Recordings


def picture(pts: int, side: int = 64) -> av.VideoFrame:
    """Noise, which nothing can compress."""
    shape = side * 3 // 2, side
    noise = np.random.default_rng(abs(pts)).integers(0, 255, shape, np.uint8)
    frame = av.VideoFrame.from_ndarray(noise, "yuv420p")
    frame.pts, frame.time_base = pts, Fraction(1, 90000)
    return frame


def piece(pts: int) -> av.AudioFrame:
    """20 ms of silence."""
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 960), np.int16), "s16", "mono")
    frame.sample_rate, frame.pts, frame.time_base = 48000, pts, Fraction(1, 48000)
    return frame


def times(path: Path, **which: int) -> list[float]:
    """Of what can be decoded, in seconds."""
    found = []
    with av.open(str(path)) as container, contextlib.suppress(av.FFmpegError):
        found.extend(frame.time for frame in container.decode(**which))
    return found


def fill(file: FileOutput, pictures: int) -> None:
    """Waits for the disk, so that none is dropped."""
    for index in range(pictures):
        file.put(picture(3000 * index, 320))
        while file._queue.qsize() > 10:
            file._thread.join(0.01)


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Writes beyond it fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", ["call.mkv", "call.mp4"])
def test_a_recording_keeps_what_came_before_the_disk_was_full(tmp_path, name):
    said = []
    with files_of_at_most(3_000_000):
        file = FileOutput(tmp_path / name, Fraction(30), has_sound=False, say=said.append)
        fill(file, 80)
        with pytest.raises(InputError, match="cannot be written: File too large; what came before"):
            file.close()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    kept = times(tmp_path / name, video=0)
    assert len(kept) > 20
    assert kept == sorted(set(kept))
    assert [sentence.startswith("recording has ended: ") for sentence in said] == [True]


def test_a_disk_that_is_really_full(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(tmp_path)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs to be allowed to mount")
    try:
        file = FileOutput(tmp_path / "call.mkv", Fraction(30), has_sound=True)
        fill(file, 80)
        with pytest.raises(InputError, match="No space left on device; what came before is in it"):
            file.close()
        assert [path.name for path in tmp_path.iterdir()] == ["call.mkv"]
        assert len(times(tmp_path / "call.mkv", video=0)) > 10
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_recording_that_cannot_even_begin_leaves_nothing(tmp_path):
    with files_of_at_most(100):
        file = FileOutput(tmp_path / "call.mp4", Fraction(30), has_sound=False)
        fill(file, 5)
        with pytest.raises(InputError, match="nothing of it is left"):
            file.close()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_waits_delays_nobody(tmp_path, monkeypatch):
    """`put` returns while the thread is stuck, and what waits is bounded."""
    goes_on, add = threading.Event(), FileOutput.picture

    def stuck(self, item):
        goes_on.wait()
        return add(self, item)

    monkeypatch.setattr(FileOutput, "picture", stuck)
    file = FileOutput(tmp_path / "call.mkv", Fraction(30), has_sound=False)
    for index in range(1000):
        file.put(picture(3000 * index))
    assert file._queue.qsize() <= receiver.media.outputs.BACKLOG
    goes_on.set()
    file.close()
    assert 0 < file.written <= receiver.media.outputs.BACKLOG + 1


@pytest.mark.parametrize("name", ["call.mkv", "call.mp4"])
def test_a_recording_outlives_clocks_that_jump(tmp_path, name):
    """Back to nought, and ahead by what aiortc makes of a clock that went back."""
    file = FileOutput(tmp_path / name, Fraction(30), has_sound=True)
    for begins in (0, 2**32, 0):
        for index in range(20):
            shared = picture(begins + 3000 * index)
            file.put(shared)
            for half in (0, 800):
                file.put(piece(begins + 1600 * index + half))
            while file._queue.qsize() > 10:
                file._thread.join(0.01)
            assert shared.pts == begins + 3000 * index  # others use it too
    file.close()
    seen, heard = times(tmp_path / name, video=0), times(tmp_path / name, audio=0)
    assert len(seen) == file.written == 60
    assert seen == sorted(set(seen))
    assert heard == sorted(set(heard))
    assert max(seen[-1], heard[-1]) < 60 * JUMP


class TestTimeline:
    """Arrivals are given, so nothing here hangs on the machine."""

    def place(self, *items: tuple[av.VideoFrame | av.AudioFrame, float]) -> list[float]:
        timeline = Timeline()
        for frame, arrived in items:
            timeline.place(frame, 100.0 + arrived)
        return [round(float(frame.pts * frame.time_base), 3) for frame, _ in items]

    def test_times_are_the_frames_own(self):
        late = [(picture(3000 * i), 1 / 30 * i + 0.5 * (i % 2)) for i in range(4)]
        assert self.place(*late) == [0.0, 0.033, 0.067, 0.1]

    @pytest.mark.parametrize("jump", [-(2**40), -4500, 2**32, 90000 * 4])
    def test_a_jump_goes_on_from_the_clock(self, jump):
        items = [(picture(3000 * i + jump * (i > 2)), i / 30) for i in range(5)]
        assert self.place(*items) == [0.0, 0.033, 0.067, 0.1, 0.133]

    def test_a_pause_of_the_picture_stays_one_while_sound_comes(self):
        sound = [(piece(960 * i), 0.02 * i) for i in range(500)]
        *_, last = self.place((picture(0), 0.0), *sound, (picture(900_000), 10.0))
        assert last == 10.0

    def test_a_pause_of_all_is_cut(self):
        assert self.place((picture(0), 0.0), (picture(90000 * 60), 60.0))[1] == JUMP

    def test_sound_and_picture_of_another_session_are_in_step(self):
        first = [(picture(0), 0.0), (piece(5), 0.1), (picture(90000), 1.0), (piece(48005), 1.1)]
        second = [(picture(7), 2.0), (piece(9), 2.1)]
        assert self.place(*first, *second) == [0.0, 0.1, 1.0, 1.1, 2.0, 2.1]

    def test_sound_whose_first_pieces_were_late_is_not_put_off_for_good(self):
        items = [(picture(0), 1.0), (piece(0), 1.0), (piece(960), 1.001), (piece(48000), 1.02)]
        assert self.place(*items) == [0.0, 0.0, 0.02, 0.04]

    def test_pieces_of_sound_never_overlap(self):
        assert self.place((piece(0), 0.0), (piece(900), 0.02), (piece(0), 0.03)) == [0, 0.02, 0.04]


# Stills


async def ended(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_still_that_cannot_be_used_does_not_stop_the_next(enhancer, portrait, caplog):
    failing = [True, False]
    enhancer.add_still = raising(enhancer.add_still, lambda: failing.pop(0))
    channel, requester = Channel(), Requester(enhancer)
    channel.label = LABEL
    assert requester.take_channel(channel)
    data = encode_still(portrait[0], 40_000)[0]
    for number in (1, 2):
        assert requester.stills.request(40_000, 1000)
        channel.say(**announcement(data, id=number))
        for start in range(0, len(data), 16384):
            channel.emit("message", data[start : start + 16384])
        await ended(lambda: not requester.stills.waiting)
    assert (requester.stills.counts.rejected, requester.stills.counts.received) == (1, 1)
    assert len(enhancer.face_stage._stills) == 1
    assert told(caplog, "a still could not be used") == 1
    requester.close()


async def test_a_sender_whose_still_cannot_be_made_says_so_and_goes_on(portrait):
    failing = [True, False]
    channel = Channel()
    sender = StillSender(channel, raising(lambda: portrait[0], lambda: failing.pop(0)))
    for number in (1, 2):
        channel.say(type="request", id=number, max_bytes=40_000, kbps=10_000)
        await ended(lambda done=number: sender.sent + sender.refused == done)
    assert (sender.refused, sender.sent) == (1, 1)
    assert "it could not be made" in channel.sent[0]
    sender.close()
