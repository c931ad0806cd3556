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
    """Keeps the sound that arrived last. May be filled in one thread and read in another."""

    def __init__(self) -> None:
        self._resampler = av.AudioResampler("fltp", rate=RATE)
        self._pieces: deque[tuple[float, NDArray[np.float32]]] = deque()  # (arrival, samples)
        self._kept = 0  # samples
        self._lock = Lock()

    def add(self, frame: av.AudioFrame, arrived: float) -> None:
        """Takes a decoded frame that arrived at `arrived`, in seconds of `time.perf_counter`.

        Frames of any format; one whose format differs from the last one's restarts the resampler.
        """
        try:
            pieces = self._resampler.resample(frame)
        except ValueError:  # "Frame does not match AudioResampler setup."
            self._resampler = av.AudioResampler("fltp", rate=RATE)
            pieces = self._resampler.resample(frame)
        with self._lock:
            for piece in pieces:
                samples = piece.to_ndarray().mean(axis=0)  # its own downmix would exceed 1
                self._pieces.append((arrived, samples))
                self._kept += len(samples)
            while self._pieces and self._kept - len(self._pieces[0][1]) >= KEPT_S * RATE:
                self._kept -= len(self._pieces.popleft()[1])

    def window(self, until: float) -> PcmWindow | None:
        """Returns the kept sound that had arrived by `until`; None if there is none.

        Sound and video are matched by their arrival: their RTP clocks have no common origin before
        the first sender report (RFC 3550, section 6.4.1).
        """
        with self._lock:
            arrived = [piece for piece in self._pieces if piece[0] <= until]
        if not arrived:
            return None
        return PcmWindow(np.concatenate([samples for _, samples in arrived]), arrived[-1][0])
