"""Encodes a room's frames once and sends them to all its viewers."""

import asyncio
import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypeAlias

import av
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from receiver.calls.track import NewestSlot
from receiver.media.encoding import Encoding
from receiver.media.views import side_by_side
from receiver.stats import Stats
from receiver.transport.sending import KeyframeRequests, VideoPacket

View: TypeAlias = Literal["restored", "both"]
"""What a viewer sees: the restored frame, or the received and the restored frame side by side."""


VIEWS: dict[View, Encoding] = {
    "restored": Encoding(kbps=2500, keyframe_every=300, preset="ultrafast"),
    "both": Encoding(kbps=4000, keyframe_every=300, preset="ultrafast"),
}


PENDING = 30
"""Packets that wait for a slow viewer; with more it continues at the next I-frame."""


class ViewerTrack(MediaStreamTrack):
    """Sends the packets of a shared encoder to one viewer; a slow viewer only drops its own."""

    kind = "video"

    def __init__(self, encoder: "SharedEncoder") -> None:
        super().__init__()
        self._encoder = encoder
        self._packets: asyncio.Queue[VideoPacket | None] = asyncio.Queue(PENDING)
        self._waits_for_keyframe = True
        encoder.add(self)

    def put(self, packet: "VideoPacket") -> None:
        """Adds the next packet; never waits."""
        if self._waits_for_keyframe and not packet.is_keyframe:
            return
        self._waits_for_keyframe = False
        try:
            self._packets.put_nowait(packet)
        except asyncio.QueueFull:
            while not self._packets.empty():
                self._packets.get_nowait()
            self._waits_for_keyframe = True

    async def recv(self) -> "VideoPacket":
        """Returns the next packet. Raises MediaStreamError at the end."""
        if self._waits_for_keyframe:  # here: a viewer that never reads costs the others nothing
            self._encoder.request_keyframe()
        packet = await self._packets.get() if self.readyState == "live" else None
        if packet is None:
            self.stop()
            raise MediaStreamError
        return packet

    def stop(self) -> None:
        """Ends the track."""
        if self.readyState == "live":
            super().stop()
            self._encoder.remove(self)
            with contextlib.suppress(asyncio.QueueFull):
                self._packets.put_nowait(None)


@dataclass(frozen=True)
class Newest:
    """Frames to encode side by side, and the arrival time of what they show, in seconds."""

    frames: list[av.VideoFrame]
    arrived: float


class SharedEncoder:
    """Encodes frames once for all viewers; idle while there is none."""

    def __init__(self, encoding: Encoding, stats: Stats) -> None:
        """Create it inside a running event loop. `stats` receives the delay of its packets."""
        self._encoding, self._stats = encoding, stats
        self._codec: av.VideoCodecContext | None = None
        self._viewers: set[ViewerTrack] = set()
        self._slot: NewestSlot[Newest] = NewestSlot()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self._keyframes = KeyframeRequests()
        self._task = asyncio.ensure_future(self._run())

    @property
    def watched(self) -> bool:
        """Whether there is a viewer."""
        return bool(self._viewers)

    def put(self, frames: list[av.VideoFrame], arrived: float) -> None:
        """Takes the newest frames, to show side by side; older ones that still wait are dropped."""
        self._slot.put(Newest(frames, arrived))

    def add(self, viewer: ViewerTrack) -> None:
        """Adds a viewer, whose stream begins with an I-frame."""
        self._viewers.add(viewer)
        self.request_keyframe()

    def remove(self, viewer: ViewerTrack) -> None:
        """Removes a viewer."""
        self._viewers.discard(viewer)

    def request_keyframe(self) -> None:
        """Requests an I-frame: the next frame for which `KeyframeRequests` grants one."""
        self._keyframes.ask()

    async def close(self) -> None:
        """Ends all viewers' tracks and the thread."""
        for viewer in list(self._viewers):
            viewer.stop()
        self._slot.close()
        await self._task
        self._worker.shutdown(wait=False)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while (newest := await self._slot.take()) is not None:
            with self._stats.faults.guard("encoding", self):
                for packet in await loop.run_in_executor(self._worker, self._encode, newest.frames):
                    for viewer in list(self._viewers):
                        viewer.put(packet)
            self._stats.add("picture delay", time.perf_counter() - newest.arrived)

    def _encode(self, frames: list[av.VideoFrame]) -> "list[VideoPacket]":
        frame = side_by_side(frames) if len(frames) > 1 else frames[0]
        size = frame.width // 2 * 2, frame.height // 2 * 2
        if self._codec is None or (self._codec.width, self._codec.height) != size:
            self._codec = self._encoding.open(*size, Fraction(30))
        picture = frame.reformat(*size, "yuv420p")
        kinds = av.video.frame.PictureType
        picture.pict_type = kinds.I if self._keyframes.take() else kinds.NONE
        codec, self._codec = self._codec, None  # an encoder that raised an error is not used again
        packets = list(codec.encode(picture))
        self._codec = codec
        return packets
