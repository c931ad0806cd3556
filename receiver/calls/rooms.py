"""A published call and everybody who watches it: one enhancement, one encoding, many viewers."""

import asyncio
import contextlib
import hmac
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Literal, TypeAlias

import av
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.contrib.media import MediaRelay
from aiortc.mediastreams import MediaStreamTrack

from receiver.calls.requester import Requester
from receiver.calls.sound import DelayedAudioTrack
from receiver.calls.track import EnhancedVideoTrack, arrival_time
from receiver.calls.viewers import VIEWS, SharedEncoder, View, ViewerTrack
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.stage import EnhancedFrame
from receiver.signalling.connections import GONE, packets_received, read_to_the_end, receiver_of
from receiver.signalling.negotiation import ClosableConnection
from receiver.signalling.offers import OfferError, answer
from receiver.stills.protocol import guard_channels
from receiver.text import printable
from receiver.transport.aiortc_hooks import h264_codecs, receive_h264, refuse
from receiver.transport.receiving import SteadyReceiver
from receiver.waiting import BackgroundTasks

Side: TypeAlias = Literal["publisher", "viewer"]
"""What a session's peer does in a room."""


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
        self._tasks = BackgroundTasks()

    @property
    def viewer_count(self) -> int:
        """How many watch, or are about to."""
        return len(self._viewers) + self._answering

    async def publish(self, offer: RTCSessionDescription) -> str:
        """Answers the publisher's offer. Raises OfferError; the room is of no use then."""
        connection = self._publisher = ClosableConnection(self._ice)

        def on_state() -> None:
            if connection.connectionState in GONE:
                self._tasks.start(self.close())
            elif connection.connectionState == "connected":
                self._tasks.start(self._listen(connection))

        receive_h264(connection)
        connection.on("track", lambda track: self.attach(track, connection))
        connection.on("connectionstatechange", on_state)
        sdp = await answer(connection, offer)
        self._expect(connection, "publisher", self.close)
        take = self.requester.take_channel
        guard_channels(connection, take, lambda: self._tasks.start(self.close()))
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
        receiver = receiver_of(track, connection)
        self.requester.listen_to(receiver)
        if isinstance(receiver, SteadyReceiver):
            self.receiver = receiver
            if self._stock_transport:
                receiver.use_stock_transport()
        self._enhanced = EnhancedVideoTrack(track, self._enhancer, on_frame=self._spread)
        self._tasks.start(self._play(self._enhanced, connection))

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
                self._tasks.start(self.leave(session))

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
        guard_channels(connection, lambda _: False, lambda: self._tasks.start(self.leave(session)))
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
        self._tasks.start(self.close())

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
            self._tasks.start(end())

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


async def _ended(steps: Sequence[Awaitable[Any]]) -> None:
    """Waits for all steps of a call's end, and logs what they raise."""
    for result in await asyncio.gather(*steps, return_exceptions=True):
        if isinstance(result, Exception):
            logger.error("a part of a call did not end well", exc_info=result)
