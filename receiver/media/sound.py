"""The last second of a call's sound, for stages that listen."""

from collections import deque
from dataclasses import dataclass
from threading import Lock

import av
import numpy as np
from numpy.typing import NDArray

RATE = 16_000
"""Samples a second: what speech features are computed from."""
KEPT_S = 1.0
"""Seconds of sound that are kept."""


@dataclass(frozen=True)
class PcmWindow:
    """A piece of sound.

    Attributes:
        samples: N float32 in [-1, 1], mono, `RATE` a second.
        ends_at: the arrival of the last sample, in seconds of `time.perf_counter`.
    """

    samples: NDArray[np.float32]
    ends_at: float


class SoundHistory:
    """Keeps the sound that arrived last. May be filled in one thread and read in another.

    Filling costs next to nothing: frames are resampled when a window is asked for.
    """

    def __init__(self) -> None:
        self._frames: deque[tuple[float, av.AudioFrame]] = deque()  # (arrival, not resampled yet)
        self._pieces: deque[tuple[float, NDArray[np.float32]]] = deque()  # (arrival, samples)
        self._resampler = av.AudioResampler("flt", rate=RATE)
        self._lock = Lock()

    def add(self, frame: av.AudioFrame, arrived: float) -> None:
        """Takes a decoded frame, in any format, and its arrival in seconds of `perf_counter`."""
        if not frame.samples:  # the resampler would raise MemoryError
            return
        with self._lock:
            self._frames.append((arrived, frame))
            while self._frames[0][0] < arrived - KEPT_S:
                self._frames.popleft()

    def window(self, until: float) -> PcmWindow | None:
        """Returns the kept sound that had arrived by `until`; None if there is none.

        Windows have to be asked for in the order of time. Sound and video are matched by their
        arrival: their RTP clocks have no common origin before the first sender report (RFC 3550,
        section 6.4.1).
        """
        with self._lock:
            while self._frames and self._frames[0][0] <= until:
                arrived, frame = self._frames.popleft()
                self._pieces.extend((arrived, piece) for piece in self._resampled(frame))
            while self._pieces and self._pieces[0][0] < until - KEPT_S:
                self._pieces.popleft()
            if not self._pieces:
                return None
            samples = np.concatenate([samples for _, samples in self._pieces])
            return PcmWindow(samples, self._pieces[-1][0])

    def _resampled(self, frame: av.AudioFrame) -> list[NDArray[np.float32]]:
        """Returns mono pieces at `RATE`. A frame of another format restarts the resampler."""
        try:
            pieces = self._resampler.resample(frame)
        except ValueError:  # "Frame does not match AudioResampler setup."
            self._resampler = av.AudioResampler("flt", rate=RATE)
            pieces = self._resampler.resample(frame)
        # Packed: PyAV cannot read eight planes. Not mono: the resampler's own downmix of two equal
        # channels would exceed 1.
        channels = frame.layout.nb_channels
        return [piece.to_ndarray().reshape(-1, channels).mean(axis=1) for piece in pieces]
