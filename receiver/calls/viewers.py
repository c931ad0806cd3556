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
from receiver.media.outputs import side_by_side
from receiver.sending.tracks import KeyframeRequests, VideoPacket
from receiver.stats import Stats

View: TypeAlias = Literal["restored", "both"]
"""What a viewer sees: the restored picture, or received and restored side by side."""


VIEWS: dict[View, Encoding] = {
    "restored": Encoding(kbps=2500, keyframe_every=300, preset="ultrafast"),
    "both": Encoding(kbps=4000, keyframe_every=300, preset="ultrafast"),
}


PENDING = 30
"""Packets that wait for a slow viewer; beyond that it goes on from the next key frame."""


class ViewerTrack(MediaStreamTrack):
    """Packets of a shared encoder for one viewer; a slow one loses pictures, never the others."""

    kind = "video"

    def __init__(self, encoder: "SharedEncoder") -> None:
        super().__init__()
        self._encoder = encoder
        self._packets: asyncio.Queue[VideoPacket | None] = asyncio.Queue(PENDING)
        self._waits_for_keyframe = True
        encoder.add(self)

    def put(self, packet: "VideoPacket") -> None:
        """Takes the next packet; never waits."""
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
        """The next packet. Raises MediaStreamError at the end."""
        if self._waits_for_keyframe:  # asked for here: one who never reads costs the others nothing
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
    """Pictures to be encoded, and when what they show arrived."""

    pictures: list[av.VideoFrame]
    arrived: float


class SharedEncoder:
    """Encodes pictures once for all who watch; works only while somebody does."""

    def __init__(self, encoding: Encoding, stats: Stats) -> None:
        """To be made inside a running event loop. Notes in `stats` how late its packets are."""
        self._encoding, self._stats = encoding, stats
        self._codec: av.VideoCodecContext | None = None
        self._viewers: set[ViewerTrack] = set()
        self._slot: NewestSlot[Newest] = NewestSlot()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self._keyframes = KeyframeRequests()
        self._task = asyncio.ensure_future(self._run())

    @property
    def watched(self) -> bool:
        """Whether there is anybody to encode for."""
        return bool(self._viewers)

    def put(self, pictures: list[av.VideoFrame], arrived: float) -> None:
        """Takes the newest pictures, to be shown side by side; older ones that wait are dropped."""
        self._slot.put(Newest(pictures, arrived))

    def add(self, viewer: ViewerTrack) -> None:
        """A new viewer begins with a key frame."""
        self._viewers.add(viewer)
        self.request_keyframe()

    def remove(self, viewer: ViewerTrack) -> None:
        """A viewer is gone."""
        self._viewers.discard(viewer)

    def request_keyframe(self) -> None:
        """Makes the next picture a key frame, or the first that `KeyframeRequests` grants."""
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
            pictures = newest.pictures
            with self._stats.faults.guard("encoding", self):
                for packet in await loop.run_in_executor(self._worker, self._encode, pictures):
                    for viewer in list(self._viewers):
                        viewer.put(packet)
            self._stats.add("picture delay", time.perf_counter() - newest.arrived)

    def _encode(self, pictures: list[av.VideoFrame]) -> "list[VideoPacket]":
        frame = side_by_side(pictures) if len(pictures) > 1 else pictures[0]
        size = frame.width // 2 * 2, frame.height // 2 * 2
        if self._codec is None or (self._codec.width, self._codec.height) != size:
            self._codec = self._encoding.open(*size, Fraction(30))
        picture = frame.reformat(*size, "yuv420p")
        kinds = av.video.frame.PictureType
        picture.pict_type = kinds.I if self._keyframes.take() else kinds.NONE
        codec, self._codec = self._codec, None  # one that raises is not used again
        packets = list(codec.encode(picture))
        self._codec = codec
        return packets
