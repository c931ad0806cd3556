"""Writes clips with known frames and tones, and reads what a `Loop` plays of them."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np

from receiver.media.files.playing import PIECE, SOUND_RATE, Loop
from receiver.media.planes import planes
from receiver.sending.sources import MAX_RATE
from tests.conftest import plain_frame

VARIABLE = [Fraction(33 * i, 1000) for i in range(30)] + [Fraction(1 + i) for i in range(6)]
"""Frame times of a clip that runs at 30 frames a second, and then at 1."""
STEP = 5
"""Levels by which the frames of `write_timed` are brighter, one after the other."""


def tone(seconds: float) -> np.ndarray:
    """Mono samples, all of them loud."""
    return np.where(np.arange(round(seconds * SOUND_RATE)) // 24 % 2, 9000, -9000).astype(np.int16)


def write_timed(
    path: Path,
    times: Sequence[Any],
    sound: np.ndarray | None = None,
    sound_at: float = 0.0,
    *,
    video_codec: str = "ffv1",
    sound_codec: str = "pcm_s16le",
    scale: int = 1000,
    rate: Fraction = Fraction(30),
    chunk: int = 1024,
) -> Path:
    """Writes frames that grow brighter at these times, in 1/`scale` s, and mono sound."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(video_codec, rate=rate)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.codec_context.time_base = Fraction(1, scale)
        audio = None if sound is None else container.add_stream(sound_codec, rate=SOUND_RATE)
        packets: list[tuple[float, Any]] = []
        for number, time in enumerate(times):
            frame = plain_frame(64, 48, 40 + STEP * number % 190)
            frame.pts, frame.time_base = round(time * scale), Fraction(1, scale)
            packets += [(float(time), packet) for packet in video.encode(frame)]
        packets += [(float(times[-1]), packet) for packet in video.encode(None)]
        if sound is not None and audio is not None:
            audio.layout = "mono"
            kind = "fltp" if sound_codec == "aac" else "s16"
            for start in range(0, len(sound), chunk):
                samples = sound[None, start : start + chunk]
                if kind == "fltp":
                    samples = (samples / 32768).astype(np.float32)
                piece = av.AudioFrame.from_ndarray(samples, kind, "mono")
                piece.sample_rate, piece.time_base = SOUND_RATE, Fraction(1, SOUND_RATE)
                piece.pts = start + round(sound_at * SOUND_RATE)
                packets += [(piece.pts / SOUND_RATE, packet) for packet in audio.encode(piece)]
            packets += [(sound_at + len(sound) / SOUND_RATE, one) for one in audio.encode(None)]
        for _, packet in sorted(packets, key=lambda one: one[0]):
            container.mux(packet)
    return path


def number_of(frame: av.VideoFrame) -> int:
    """Which of `write_timed`'s frames it is."""
    return round((planes(frame)[0].mean() - 40) / STEP)


def played(loop: Loop, count: int) -> list[tuple[int, Fraction]]:
    """Numbers and times of the first frames."""
    frames = islice(loop.frames(MAX_RATE), count)
    return [(number_of(frame), Fraction(frame.pts) * frame.time_base) for frame in frames]


def heard(loop: Loop, seconds: float) -> np.ndarray:
    """The first samples, mono."""
    pieces = list(islice(loop.sound(), round(seconds * SOUND_RATE) // PIECE))
    assert {(p.samples, p.format.name, p.layout.name, p.sample_rate) for p in pieces} == {
        (PIECE, "s16", "stereo", SOUND_RATE)
    }
    assert [piece.pts for piece in pieces] == [PIECE * n for n in range(len(pieces))]
    assert {piece.time_base for piece in pieces} == {Fraction(1, SOUND_RATE)}
    return np.concatenate([piece.to_ndarray().reshape(-1, 2)[:, 0] for piece in pieces])


def onsets(samples: np.ndarray) -> list[int]:
    """Numbers of the samples at which sound begins after silence of 10 ms."""
    loud = np.flatnonzero(np.abs(samples) > 2000)
    return [int(n) for n in loud[np.diff(loud, prepend=-SOUND_RATE) > SOUND_RATE // 100]]
