"""Recordings: full and slow disks, clocks that jump."""

import contextlib
import resource
import shutil
import subprocess
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

import receiver.media.files.recording
from receiver.errors import InputError
from receiver.media.files.recording import LONGEST_PAUSE, FileOutput, Timeline


def picture(pts: int, side: int = 64) -> av.VideoFrame:
    """Returns a frame of noise, which cannot be compressed."""
    shape = side * 3 // 2, side
    noise = np.random.default_rng(abs(pts)).integers(0, 255, shape, np.uint8)
    frame = av.VideoFrame.from_ndarray(noise, "yuv420p")
    frame.pts, frame.time_base = pts, Fraction(1, 90000)
    return frame


def piece(pts: int) -> av.AudioFrame:
    """Returns 20 ms of silence."""
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 960), np.int16), "s16", "mono")
    frame.sample_rate, frame.pts, frame.time_base = 48000, pts, Fraction(1, 48000)
    return frame


def times(path: Path, **which: int) -> list[float]:
    """Returns the times of the frames that can be decoded, in seconds."""
    found = []
    with av.open(str(path)) as container, contextlib.suppress(av.FFmpegError):
        found.extend(frame.time for frame in container.decode(**which))
    return found


def fill(file: FileOutput, pictures: int) -> None:
    """Writes frames of noise, no faster than the disk, so that none is dropped."""
    for index in range(pictures):
        file.put(picture(3000 * index, 320))
        while file._queue.qsize() > 10:
            file._thread.join(0.01)


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Makes writes beyond this size fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", ["call.mkv", "call.mp4"])
def test_a_recording_keeps_the_part_before_the_disk_was_full(tmp_path, name):
    said = []
    with files_of_at_most(3_000_000):
        file = FileOutput(tmp_path / name, Fraction(30), has_sound=False, say=said.append)
        fill(file, 80)
        with pytest.raises(InputError, match="File too large; the part before that"):
            file.close()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    kept = times(tmp_path / name, video=0)
    assert len(kept) > 20
    assert kept == sorted(set(kept))
    assert [sentence.startswith("recording has ended: ") for sentence in said] == [True]


def test_a_full_disk(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(tmp_path)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs to be allowed to mount")
    try:
        file = FileOutput(tmp_path / "call.mkv", Fraction(30), has_sound=True)
        fill(file, 80)
        with pytest.raises(InputError, match="No space left on device; the part before"):
            file.close()
        assert [path.name for path in tmp_path.iterdir()] == ["call.mkv"]
        assert len(times(tmp_path / "call.mkv", video=0)) > 10
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_recording_that_cannot_begin_leaves_no_file(tmp_path):
    with files_of_at_most(100):
        file = FileOutput(tmp_path / "call.mp4", Fraction(30), has_sound=False)
        fill(file, 5)
        with pytest.raises(InputError, match="no part of it is kept"):
            file.close()
    assert list(tmp_path.iterdir()) == []


def test_a_slow_disk_does_not_delay_the_caller(tmp_path, monkeypatch):
    """`put` returns while the thread is stuck, and the queue is bounded."""
    goes_on, add = threading.Event(), FileOutput.picture

    def stuck(self, item):
        goes_on.wait()
        return add(self, item)

    monkeypatch.setattr(FileOutput, "picture", stuck)
    file = FileOutput(tmp_path / "call.mkv", Fraction(30), has_sound=False)
    for index in range(1000):
        file.put(picture(3000 * index))
    assert file._queue.qsize() <= receiver.media.files.recording.RECORDING_BACKLOG
    goes_on.set()
    file.close()
    assert 0 < file.written <= receiver.media.files.recording.RECORDING_BACKLOG + 1


@pytest.mark.parametrize("name", ["call.mkv", "call.mp4"])
def test_a_recording_survives_jumps_of_the_clock(tmp_path, name):
    """Back to zero, and ahead by 2**32, as which aiortc reports a clock that went back."""
    file = FileOutput(tmp_path / name, Fraction(30), has_sound=True)
    for begins in (0, 2**32, 0):
        for index in range(20):
            shared = picture(begins + 3000 * index)
            file.put(shared)
            for half in (0, 800):
                file.put(piece(begins + 1600 * index + half))
            while file._queue.qsize() > 10:
                file._thread.join(0.01)
            assert shared.pts == begins + 3000 * index  # other outputs use it too
    file.close()
    seen, heard = times(tmp_path / name, video=0), times(tmp_path / name, audio=0)
    assert len(seen) == file.written == 60
    assert seen == sorted(set(seen))
    assert heard == sorted(set(heard))
    assert max(seen[-1], heard[-1]) < 60 * LONGEST_PAUSE


class TestTimeline:
    """The tests give the arrival times, so that no result depends on the machine."""

    def place(self, *items: tuple[av.VideoFrame | av.AudioFrame, float]) -> list[float]:
        timeline = Timeline()
        for frame, arrived in items:
            timeline.place(frame, 100.0 + arrived)
        return [round(float(frame.pts * frame.time_base), 3) for frame, _ in items]

    def test_frames_keep_their_own_times(self):
        late = [(picture(3000 * i), 1 / 30 * i + 0.5 * (i % 2)) for i in range(4)]
        assert self.place(*late) == [0.0, 0.033, 0.067, 0.1]

    @pytest.mark.parametrize("jump", [-(2**40), -4500, 2**32, 90000 * 4])
    def test_after_a_jump_times_continue_from_the_clock(self, jump):
        items = [(picture(3000 * i + jump * (i > 2)), i / 30) for i in range(5)]
        assert self.place(*items) == [0.0, 0.033, 0.067, 0.1, 0.133]

    def test_a_pause_of_the_video_is_kept_while_sound_arrives(self):
        sound = [(piece(960 * i), 0.02 * i) for i in range(500)]
        *_, last = self.place((picture(0), 0.0), *sound, (picture(900_000), 10.0))
        assert last == 10.0

    def test_a_pause_of_video_and_sound_is_cut(self):
        assert self.place((picture(0), 0.0), (picture(90000 * 60), 60.0))[1] == LONGEST_PAUSE

    def test_sound_and_video_of_another_session_are_in_step(self):
        first = [(picture(0), 0.0), (piece(5), 0.1), (picture(90000), 1.0), (piece(48005), 1.1)]
        second = [(picture(7), 2.0), (piece(9), 2.1)]
        assert self.place(*first, *second) == [0.0, 0.1, 1.0, 1.1, 2.0, 2.1]

    def test_sound_that_was_late_at_first_is_not_delayed_for_good(self):
        items = [(picture(0), 1.0), (piece(0), 1.0), (piece(960), 1.001), (piece(48000), 1.02)]
        assert self.place(*items) == [0.0, 0.0, 0.02, 0.04]

    def test_audio_frames_never_overlap(self):
        assert self.place((piece(0), 0.0), (piece(900), 0.02), (piece(0), 0.03)) == [0, 0.02, 0.04]
