"""Keeps a room's sound in step with its delayed video."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from receiver.media.sound import SoundHistory
from receiver.stats import Stats

SOUND_PENDING = 50
"""Audio frames of 20 ms that wait to be in step with the video."""


class DelayedAudioTrack(MediaStreamTrack):
    """Delays audio by the video's delay, so that both stay in step."""

    kind = "audio"

    def __init__(
        self,
        source: MediaStreamTrack,
        delay: Callable[[], float],
        stats: Stats,
        history: SoundHistory | None = None,
    ) -> None:
        """Create it inside a running event loop.

        Args:
            source: the audio as it arrives.
            delay: returns the current delay in seconds.
            stats: of the room.
            history: receives every audio frame when it arrives.
        """
        super().__init__()
        self._history = history or SoundHistory()
        self._source, self._delay, self._stats = source, delay, stats
        self._delayed: asyncio.Queue[tuple[float, Any]] = asyncio.Queue(SOUND_PENDING)
        self._drain = asyncio.ensure_future(self._drain_source())

    async def recv(self) -> Any:
        """Returns the next audio frame when it is due. Raises MediaStreamError at the end."""
        if self.readyState != "live":  # a relay may ask again, for another viewer
            raise MediaStreamError
        arrived, frame = await self._delayed.get()
        if frame is None:
            self.stop()
            raise MediaStreamError
        await asyncio.sleep(max(0.0, arrived + self._delay() - time.perf_counter()))
        late = time.perf_counter() - arrived
        self._stats.add("sound delay", late)
        self._stats.add("skew", abs(late - self._stats.picture_delay.last()))
        return frame

    def stop(self) -> None:
        """Ends the track and its source; a `recv` that waits raises MediaStreamError."""
        if self.readyState != "live":
            return
        super().stop()
        self._drain.cancel()
        self._source.stop()
        self._put(None)

    async def _drain_source(self) -> None:
        try:
            while True:
                self._put(await self._source.recv())
        except MediaStreamError:
            self._put(None)

    def _put(self, frame: Any) -> None:
        arrived = time.perf_counter()
        if frame is not None:
            self._history.add(frame, arrived)
        if self._delayed.full():
            self._delayed.get_nowait()
        self._delayed.put_nowait((arrived, frame))
