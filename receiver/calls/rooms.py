"""A published call and its viewers: enhanced once, encoded once, sent to many."""

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
from receiver.text import printable
from receiver.transport.aiortc_hooks import on_keyframe_request
from receiver.transport.connections import h264_codecs, receive_h264, refuse
from receiver.transport.data_channels import guard_channels
from receiver.transport.receiving import SteadyReceiver
from receiver.waiting import BackgroundTasks

Side: TypeAlias = Literal["publisher", "viewer"]
"""The role of a session's peer in a room."""


CONNECT_SECONDS = 20.0
"""Seconds within which a session must connect (ICE and DTLS), or it is closed and counted. RFC 8863
(section 4) waits 39.5 s for checks of the peer; a browser sends its first within one second."""
SILENT_AFTER = 15.0
"""Seconds without a packet after which a publisher counts as gone and its room ends. One that sends
no video still sends RTCP. ICE notices it too, but only after half a minute (RFC 7675: aioice sends
six consent checks, one every 4 to 6 s)."""
LOOKS = 15
"""Steps into which the waits of `CONNECT_SECONDS` and `SILENT_AFTER` are divided: one long wait
would end as soon as a suspended computer resumes, and every publisher would count as silent."""

logger = logging.getLogger(__name__)


class Room:
    """One published stream, its enhancer and its viewers.

    Attributes:
        name: name of the room in its URL.
        stats: counts and timings of its enhancement.
        publisher_id: id of the publishing session in its URL.
        qp: mean luma QP of the last received frame; None if unknown.
        closed: set once the room has ended.
        outputs: called with every enhanced frame, in the event loop; must return quickly. An error
            of one is counted in `stats.faults` and does not affect the others.
        requester: requests references from the publisher.
        receiver: RTP receiver of the publisher's video; None before its track arrives.
        refused_tracks: tracks of the publisher that were refused: all but one video and one audio.
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
        """Create it inside a running event loop.

        Args:
            name: name of the room.
            enhancer: used by this room alone from now on.
            ice: STUN and TURN servers.
            stock_transport: whether to receive with aiortc's own transport, for comparison.
            connect_seconds: time after which a publisher or viewer that did not connect is closed.
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
        """Number of viewers, including those whose offer is being answered."""
        return len(self._viewers) + self._answering

    async def publish(self, offer: RTCSessionDescription) -> str:
        """Answers the publisher's offer; returns the SDP.

        Raises OfferError: then close the room.
        """
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
        """Enhances the first video track of `connection`, plays its first audio track, and refuses
        all others.

        Call it from the connection's event "track". The connection is closed when the video ends.
        Tracks of another connection replace those of the previous one.
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
        """Returns a new track of the sound, in step with the video; None if there is no sound."""
        return self._sound and self._relay.subscribe(self._sound, buffered=False)

    async def view(self, offer: RTCSessionDescription, view: View) -> tuple[str, str]:
        """Answers a viewer's offer; returns its session's id and the SDP. Raises OfferError."""
        self._check_open()  # no await from here until `close` can see what is created
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
            on_keyframe_request(transceiver.sender, encoder.request_keyframe)
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
        """Ends the publisher, all viewers and all their tasks.

        A step that fails is logged; the others are still taken.
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
        """Returns the delay of the sound in seconds, near to the delay of the frames."""
        watched = any(encoder.watched for encoder in self._encoders.values())
        delay = self.stats.picture_delay if watched else self.stats.added_latency
        return min(0.2, delay.middle())

    async def _listen(self, publisher: RTCPeerConnection) -> None:
        """Ends the room once its publisher has been silent for `SILENT_AFTER`."""
        heard, silent = -1, 0
        while silent < LOOKS:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.closed.wait(), SILENT_AFTER / LOOKS)
                return
            before, heard = heard, await packets_received(publisher)
            silent = silent + 1 if heard == before else 0
        sentence = "%s ends: its publisher sent nothing for %g s"
        logger.warning(sentence, printable(self.name), SILENT_AFTER)
        self._tasks.start(self.close())

    def _expect(
        self,
        connection: RTCPeerConnection,
        role: Side,
        end: Callable[[], Coroutine[Any, Any, Any]],
    ) -> None:
        """Calls `end` unless `connection` is established or gone within `connect_seconds`."""

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
        """Reads a video to its end, then closes the connection that it came from."""
        await read_to_the_end(video)
        if not self.closed.is_set():
            await connection.close()

    def _stop_tracks(self) -> None:
        """Ends the tracks; aiortc itself does not end those of a peer that never connected."""
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
    """Waits for all steps of a call's end, and logs their errors."""
    for result in await asyncio.gather(*steps, return_exceptions=True):
        if isinstance(result, Exception):
            logger.error("a part of a call failed to end", exc_info=result)
