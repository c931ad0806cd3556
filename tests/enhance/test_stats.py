"""Counts and timings."""

import json
import math
import time

import pytest

from receiver.stats import Stats


def test_a_snapshot_tells_everything_and_is_json():
    stats = Stats("cpu")
    for milliseconds in range(1, 101):
        stats.add("warp", milliseconds / 1e3)
    with stats.stage("paste"):
        time.sleep(0.002)
    stats.frames.skipped += 3
    snapshot = json.loads(json.dumps(stats.snapshot()))
    assert snapshot["device"] == "cpu"
    assert snapshot["frames"]["skipped"] == 3
    assert snapshot["stages_ms"]["warp"] == {"median": 50.5, "p95": 95.05}
    assert snapshot["stages_ms"]["paste"]["median"] >= 2.0
    assert snapshot["fps"] == 0.0


def test_a_stage_that_never_ran_has_no_time():
    assert math.isnan(Stats("cpu").milliseconds("warp", 50)[0])


def test_a_stage_that_raises_is_not_timed():
    stats = Stats("cpu")
    with pytest.raises(RuntimeError), stats.stage("warp"):
        raise RuntimeError
    assert math.isnan(stats.milliseconds("warp", 50)[0])


def test_frames_a_second_come_from_the_moments_of_leaving(monkeypatch):
    moments = iter([9.5, 10.0, 10.1, 10.2, 10.3])
    monkeypatch.setattr("receiver.stats.time.perf_counter", lambda: next(moments))
    stats = Stats("cpu")
    for _ in range(4):
        stats.left(restored=stats.fps > 0)
    assert stats.fps == pytest.approx(10.0)
    assert stats.first_restored_s == pytest.approx(0.7)


def test_only_the_newest_timings_are_kept(monkeypatch):
    monkeypatch.setattr("receiver.stats.TIMINGS_KEPT", 5)
    stats = Stats("cpu")
    for seconds in (9.0, 9.0, 1.0, 1.0, 1.0, 1.0, 1.0):
        stats.add("warp", seconds)
    assert stats.milliseconds("warp", 100) == [1000.0]
