"""The sound that arrived before a frame, mono and bounded."""

import av
import numpy as np
import pytest

from receiver.media.sound import KEPT_S, RATE, SoundHistory


def piece(level: float, samples: int = 960, rate: int = 48_000, layout: str = "stereo"):
    channels = 2 if layout == "stereo" else 1
    values = np.full((1, samples * channels), round(level * 32768), np.int16)
    frame = av.AudioFrame.from_ndarray(values, "s16", layout)
    frame.sample_rate = rate
    return frame


def test_nothing_before_the_first_piece():
    history = SoundHistory()
    assert history.window(10.0) is None
    history.add(piece(0.5), 5.0)
    assert history.window(4.9) is None


def test_it_ends_with_what_had_arrived():
    history = SoundHistory()
    for number in range(10):
        history.add(piece(number / 16), number * 0.02)
    window = history.window(0.1)
    assert window.ends_at == pytest.approx(0.1)
    assert window.samples.dtype == np.float32
    assert abs(len(window.samples) - 6 * 320) <= 32  # the resampler holds some back
    assert window.samples[-1] == pytest.approx(5 / 16, abs=0.02)


def test_it_is_bounded():
    history = SoundHistory()
    for number in range(500):
        history.add(piece(0.25), number * 0.02)
    assert len(history._frames) <= 52  # also if nobody listens
    window = history.window(499 * 0.02)
    assert abs(len(window.samples) - KEPT_S * RATE) <= 2 * 320
    assert history.window(499 * 0.02 + 2 * KEPT_S) is None  # all of it is old by then


def test_another_format_restarts_the_resampler():
    history = SoundHistory()
    history.add(piece(0.5), 0.0)
    history.add(piece(0.5, layout="mono", rate=8000, samples=160), 0.02)
    history.add(piece(0.5, layout="mono", rate=8000, samples=160), 0.04)
    window = history.window(1.0)
    assert window.samples[-1] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("layout", ["mono", "stereo", "5.1", "7.1"])
@pytest.mark.parametrize("rate", [8000, 44_100, 192_000])
@pytest.mark.parametrize(("kind", "dtype", "half"), [("s16", np.int16, 16384), ("flt", "f4", 0.5)])
def test_any_format_becomes_mono_of_the_same_level(layout, rate, kind, dtype, half):
    history = SoundHistory()
    for number in range(10):
        channels = av.AudioLayout(layout).nb_channels
        values = np.full((1, rate // 50 * channels), half, dtype)
        frame = av.AudioFrame.from_ndarray(values, kind, layout)
        frame.sample_rate = rate
        history.add(frame, number * 0.02)
    samples = history.window(1.0).samples
    assert samples.ndim == 1
    assert abs(len(samples) - 0.2 * RATE) <= 64
    assert np.median(samples) == pytest.approx(0.5, abs=0.01)


def test_an_empty_frame_is_ignored():
    history = SoundHistory()
    empty = av.AudioFrame("s16", "stereo", 0)
    empty.sample_rate = 48_000
    for frame in (piece(0.5), empty, piece(0.5)):
        history.add(frame, 0.0)
    assert abs(len(history.window(1.0).samples) - 640) <= 32


def test_stereo_is_the_mean_of_both_sides():
    history = SoundHistory()
    values = np.tile(np.array([16384, 0], np.int16), 960)[None]
    frame = av.AudioFrame.from_ndarray(values, "s16", "stereo")
    frame.sample_rate = 48_000
    history.add(frame, 0.0)
    assert np.median(history.window(1.0).samples) == pytest.approx(0.25, abs=0.01)
