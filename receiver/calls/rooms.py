"""A published call and everybody who watches it: one enhancement, one encoding, many viewers."""

import asyncio
import contextlib
import hmac
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, TypeAlias

import av
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.contrib.media import MediaRelay
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from receiver.calls.requester import Requester
from receiver.calls.track import EnhancedVideoTrack, NewestSlot, arrival_time
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.stage import EnhancedFrame
from receiver.media.encoding import Encoding
from receiver.media.outputs import side_by_side
from receiver.sending.tracks import KeyframeRequests, VideoPacket
from receiver.signalling.negotiation import ClosableConnection
from receiver.signalling.offers import OfferError, answer
from receiver.stats import Stats
from receiver.stills.protocol import guard_channels
from receiver.text import printable
from receiver.transport.aiortc_hooks import h264_codecs, receive_h264, refuse
from receiver.transport.receiving import SteadyReceiver

View: TypeAlias = Literal["restored", "both"]
"""What a viewer sees: the restored picture, or received and restored side by side."""

Side: TypeAlias = Literal["publisher", "viewer"]
"""What a session's peer does in a room."""

VIEWS: dict[View, Encoding] = {
    "restored": Encoding(kbps=2500, keyframe_every=300, preset="ultrafast"),
    "both": Encoding(kbps=4000, keyframe_every=300, preset="ultrafast"),
}
GONE = ("failed", "closed", "disconnected")
"""States of a connection from which aiortc never comes back."""

PENDING = 30
"""Packets that wait for a slow viewer; beyond that it goes on from the next key frame."""
SOUND_PENDING = 50
"""Pieces of 20 ms of sound that wait to be in step with the picture."""
CONNECT_SECONDS = 20.0
"""Seconds in which a session must connect (ICE and DTLS); later it is closed, and counted. RFC 8863
(section 4) waits 39.5 s for checks of the peer, a browser sends its first within one."""
SILENT_AFTER = 15.0
"""Seconds without a packet after which a publisher is taken to be gone, and its name is free again.
One that shows nothing still sends RTCP. ICE notices it too, but not before half a minute (RFC 7675:
aioice asks every 4 to 6 s, and six times)."""
LOOKS = 15
"""Steps in which `CONNECT_SECONDS` and `SILENT_AFTER` are waited for: a clock would take a computer
that stood still for a silent publisher."""

logger = logging.getLogger(__name__)


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


class DelayedAudioTrack(MediaStreamTrack):
    """Sound that waits as long as the picture does, so that both stay in step."""

    kind = "audio"

    def __init__(self, source: MediaStreamTrack, delay: Callable[[], float], stats: Stats) -> None:
        """`delay()` gives the seconds to wait, at any time. To be made inside an event loop."""
        super().__init__()
        self._source, self._delay, self._stats = source, delay, stats
        self._pieces: asyncio.Queue[tuple[float, Any]] = asyncio.Queue(SOUND_PENDING)
        self._drain = asyncio.ensure_future(self._drain_source())

    async def recv(self) -> Any:
        """The next piece of sound, at its time. Raises MediaStreamError at the end."""
        arrived, frame = await self._pieces.get()
        if frame is None:
            self.stop()
            raise MediaStreamError
        await asyncio.sleep(max(0.0, arrived + self._delay() - time.perf_counter()))
        late = time.perf_counter() - arrived
        self._stats.add("sound delay", late)
        self._stats.add("skew", abs(late - self._stats.picture_delay.last()))
        return frame

    def stop(self) -> None:
        """Ends the track and its source."""
        super().stop()
        self._drain.cancel()
        self._source.stop()

    async def _drain_source(self) -> None:
        try:
            while True:
                self._put(await self._source.recv())
        except MediaStreamError:
            self._put(None)

    def _put(self, frame: Any) -> None:
        if self._pieces.full():
            self._pieces.get_nowait()
        self._pieces.put_nowait((time.perf_counter(), frame))


class Room:
    """One published stream, its enhancer and its viewers.

    Attributes:
        name: the one in the URL.
        stats: of its enhancement.
        publisher_id: names the publishing session in its URL.
        qp: mean luma QP of the last picture received, None where unknown.
        closed: set once the room has ended.
        outputs: are given every picture that leaves, in the event loop; must be quick. What one
            raises is noted in `stats.faults` and does not concern the others.
        requester: asks the publisher for references.
        receiver: of the publisher's video, None before it comes.
        refused_tracks: of the publisher, beyond the one video and the one audio that are received.
        never_connected: sessions that were closed because they did not connect, by role.
    """

    def __init__(
        self,
        name: str,
        enhancer: Enhancer,
        ice: RTCConfiguration,
        *,
        stock_transport: bool = False,
        connect_seconds: float = CONNECT_SECONDS,
    ) -> None:
        """With `stock_transport` the video comes by aiortc's own transport, to compare with.

        A publisher or viewer whose connection takes longer than `connect_seconds` is closed.
        """
        self.name = name
        self.stats = enhancer.stats
        self.publisher_id = secrets.token_urlsafe(12)
        self.qp: float | None = None
        self.closed = asyncio.Event()
        self.outputs: list[Callable[[av.VideoFrame], Any]] = []
        self.requester = Requester(enhancer)
        self.receiver: SteadyReceiver | None = None
        self.refused_tracks = 0
        self.never_connected: dict[Side, int] = {"publisher": 0, "viewer": 0}
        self._enhancer, self._ice, self._stock_transport = enhancer, ice, stock_transport
        self._connect_seconds = connect_seconds
        self._publisher: ClosableConnection | None = None
        self._source: RTCPeerConnection | None = None
        self._received: set[str] = set()  # kinds of its tracks
        self._viewers: dict[str, ClosableConnection] = {}
        self._answering = 0  # viewers whose offer is being answered
        self._relay = MediaRelay()
        self._sound: DelayedAudioTrack | None = None
        self._enhanced: EnhancedVideoTrack | None = None
        self._encoders: dict[View, SharedEncoder] = {}
        self._tasks: set[asyncio.Future[Any]] = set()

    @property
    def viewer_count(self) -> int:
        """How many watch, or are about to."""
        return len(self._viewers) + self._answering

    async def publish(self, offer: RTCSessionDescription) -> str:
        """Answers the publisher's offer. Raises OfferError; the room is of no use then."""
        connection = self._publisher = ClosableConnection(self._ice)

        def on_state() -> None:
            if connection.connectionState in GONE:
                self._later(self.close())
            elif connection.connectionState == "connected":
                self._later(self._listen(connection))

        receive_h264(connection)
        connection.on("track", lambda track: self.attach(track, connection))
        connection.on("connectionstatechange", on_state)
        sdp = await answer(connection, offer)
        self._expect(connection, "publisher", self.close)
        guard_channels(connection, self.requester.take_channel, lambda: self._later(self.close()))
        return sdp

    def attach(self, track: MediaStreamTrack, connection: RTCPeerConnection) -> None:
        """Takes the first video that `connection` receives as the one to enhance, the first audio
        as its sound, and refuses all others.

        To be called from the connection's event "track". The connection is closed when the video
        ends. Tracks of another connection replace those of the one before.
        """
        if connection is not self._source:
            self._stop_tracks()
            self._source, self._received = connection, set()
        if track.kind in self._received:
            self.refused_tracks += 1
            refuse(track, connection)
            return
        self._received.add(track.kind)
        if track.kind == "audio":
            self._sound = DelayedAudioTrack(track, self.delay, self.stats)
            return
        (receiver,) = (one for one in connection.getReceivers() if one.track is track)
        self.requester.listen_to(receiver)
        if isinstance(receiver, SteadyReceiver):
            self.receiver = receiver
            if self._stock_transport:
                receiver.use_stock_transport()
        self._enhanced = EnhancedVideoTrack(track, self._enhancer, on_frame=self._spread)
        self._later(self._play(self._enhanced, connection))

    def sound(self) -> MediaStreamTrack | None:
        """The sound, in step with the picture, for one more who listens."""
        return self._sound and self._relay.subscribe(self._sound, buffered=False)

    async def view(self, offer: RTCSessionDescription, view: View) -> tuple[str, str]:
        """Answers a viewer's offer; returns its session's id and the SDP. Raises OfferError."""
        self._check_open()  # nothing is awaited from here until `close` can see what is made
        connection = ClosableConnection(self._ice)
        if view not in self._encoders:
            self._encoders[view] = SharedEncoder(VIEWS[view], self.stats)
        encoder = self._encoders[view]
        track = ViewerTrack(encoder)
        session = secrets.token_urlsafe(12)

        def on_state() -> None:
            if connection.connectionState in GONE:
                track.stop()
                self._later(self.leave(session))

        connection.on("track", lambda received: refuse(received, connection))
        connection.on("connectionstatechange", on_state)
        self._answering += 1
        try:
            transceiver = connection.addTransceiver(track, direction="sendonly")
            transceiver.setCodecPreferences(h264_codecs())
            setattr(transceiver.sender, "_send_keyframe", encoder.request_keyframe)  # noqa: B010
            sound = self.sound() if "m=audio" in offer.sdp else None
            if sound is not None:
                connection.addTransceiver(sound, direction="sendonly")
            sdp = await answer(connection, offer)
            self._check_open()
        except BaseException:
            track.stop()
            await connection.close()
            raise
        finally:
            self._answering -= 1
        self._viewers[session] = connection
        self._expect(connection, "viewer", lambda: self.leave(session))
        guard_channels(connection, lambda _: False, lambda: self._later(self.leave(session)))
        return session, sdp

    def connection(self, role: Side, session: str) -> ClosableConnection | None:
        """Returns the connection of a session, None if there is no such session."""
        if role == "viewer":
            return self._viewers.get(session)
        is_publisher = hmac.compare_digest(self.publisher_id.encode(), session.encode())
        return self._publisher if is_publisher else None

    def _check_open(self) -> None:
        if self.closed.is_set():
            raise OfferError(404, f"{self.name} has ended: start the publisher first")

    async def leave(self, session: str) -> bool:
        """Ends a viewer's session; returns whether there was one."""
        connection = self._viewers.pop(session, None)
        if connection is None:
            return False
        await connection.close()
        return True

    async def close(self) -> None:
        """Ends the publisher, all viewers and everything that works for them.

        A step that fails is logged, and does not keep the others from being taken.
        """
        if self.closed.is_set():
            return
        self.closed.set()
        with self.stats.faults.guard("closing"):
            self.requester.close()
        await _ended([encoder.close() for encoder in self._encoders.values()])
        await _ended([self.leave(session) for session in self._viewers])
        if self._publisher is not None:
            await _ended([self._publisher.close()])
        with self.stats.faults.guard("closing"):
            self._stop_tracks()
        await _ended([task for task in self._tasks if task is not asyncio.current_task()])

    def delay(self) -> float:
        """Seconds for the sound to wait, so that it is never far from any picture."""
        watched = any(encoder.watched for encoder in self._encoders.values())
        delay = self.stats.picture_delay if watched else self.stats.added_latency
        return min(0.2, delay.middle())

    async def _listen(self, publisher: RTCPeerConnection) -> None:
        """Ends the room once its publisher has been silent for long."""
        heard, silent = -1, 0
        while silent < LOOKS:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.closed.wait(), SILENT_AFTER / LOOKS)
                return
            before, heard = heard, await packets_received(publisher)
            silent = silent + 1 if heard == before else 0
        sentence = "%s ends: nothing came from its publisher for %g s"
        logger.warning(sentence, printable(self.name), SILENT_AFTER)
        self._later(self.close())

    def _expect(
        self,
        connection: RTCPeerConnection,
        role: Side,
        end: Callable[[], Coroutine[Any, Any, Any]],
    ) -> None:
        """Calls `end` unless `connection` is connected, or gone, within `connect_seconds`."""

        async def give_up() -> None:
            for _ in range(LOOKS):
                await asyncio.sleep(self._connect_seconds / LOOKS)
            sentence = "%s: a %s did not connect in %g s"
            logger.warning(sentence, printable(self.name), role, self._connect_seconds)
            self.never_connected[role] += 1
            self._later(end())

        late = asyncio.ensure_future(give_up())

        def on_state() -> None:
            if connection.connectionState in ("connected", *GONE):
                late.cancel()

        connection.on("connectionstatechange", on_state)

    async def _play(self, video: EnhancedVideoTrack, connection: RTCPeerConnection) -> None:
        """Reads a video to its end, and closes the connection that it came from."""
        await read_to_the_end(video)
        if not self.closed.is_set():
            await connection.close()

    def _stop_tracks(self) -> None:
        """Ends the tracks; aiortc ends none of a peer that never connected."""
        for track in (self._sound, self._enhanced):
            if track is not None:
                track.stop()
        self._sound = self._enhanced = None

    def _spread(self, enhanced: EnhancedFrame) -> None:
        frame, output = enhanced.received, enhanced.video
        self.qp = frame.qp
        faults = self.stats.faults
        with faults.guard("requests"):
            self.requester.consider(enhanced)
        for take in self.outputs:
            with faults.guard("output", take):
                take(output)
        for view, encoder in self._encoders.items():
            if encoder.watched:
                both = view == "both"
                pictures = [frame.video, output] if both else [output]
                encoder.put(pictures, arrival_time(frame.video))

    def _later(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _ended(steps: Sequence[Awaitable[Any]]) -> None:
    """Waits for all steps of a call's end, and logs what they raise."""
    for result in await asyncio.gather(*steps, return_exceptions=True):
        if isinstance(result, Exception):
            logger.error("a part of a call did not end well", exc_info=result)


async def packets_received(connection: RTCPeerConnection) -> int:
    """Of any kind, STUN's apart."""
    report = await connection.getStats()
    transports = [row for row in report.values() if row.type == "transport"]
    return sum(int(row.packetsReceived) for row in transports)


async def read_to_the_end(track: MediaStreamTrack) -> None:
    """Keeps a track going whose frames are used where they leave it."""
    with contextlib.suppress(MediaStreamError):
        while True:
            await track.recv()
