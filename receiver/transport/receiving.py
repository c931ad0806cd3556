"""A call's video over networks that lose and delay: what aiortc's receiver and sender lack.

`docs/upstream.md` tells what was measured with the stock one, and why each part is here.
"""

import asyncio
import contextlib
import math
import queue
import time
from dataclasses import asdict, dataclass
from typing import Any

from aiortc.jitterbuffer import JitterFrame
from aiortc.mediastreams import MediaStreamTrack
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtcrtpreceiver import RTCRtpReceiver
from aiortc.rtcrtpsender import RTCRtpSender
from aiortc.rtp import (
    RTCP_RTPFB_NACK,
    RTP_HISTORY_SIZE,
    AnyRtcpPacket,
    RtcpByePacket,
    RtcpRtpfbPacket,
    RtpPacket,
)

from receiver.transport.assembly import AccessUnit, FrameAssembler
from receiver.transport.bandwidth import BandwidthEstimate
from receiver.waiting import BackgroundTasks

BACKLOG = 90
"""Frames that may wait for the decoder: three seconds. Of more, the newest are left out."""
KEYFRAME_EVERY = 0.5
"""Seconds from one request for a key frame to the next: each fills a narrow link anew."""
GOODBYE_SECONDS = 1.0
"""Seconds from an RTCP BYE to the end of its track, unless packets come meanwhile: a sender that
changes its SSRC says BYE for the old one (RFC 3550, section 8.2)."""
LOOK_EVERY = 0.01
"""Seconds from one look at the missing packets to the next, while there are any."""
RESEND_EVERY = 0.02
"""Seconds from one repair of a packet to the next of the same: a peer that asks again sooner cannot
have waited for the first."""
RESENDS = 200
"""Packets that are resent in a second at most: half of those that a call has."""
RESENDS_AT_ONCE = 100
"""Packets that are resent at once after a while without: a key frame's."""
HISTORY = "_RTCRtpSender__rtp_history"
"""aiortc's private name of a sender's newest packets, by their number modulo their count."""


@dataclass(frozen=True)
class TransportStats:
    """What became of one video's packets.

    Attributes:
        asked_for: NACKs for single packets.
        recovered: packets that were missing and came.
        late: packets that came too late, or twice.
        holes: skipped, each with a request for a key frame.
        round_trip_ms: from a NACK to its answer, None before any.
        told_kbps: what the sender was told to send at most.
        queue_ms: how long the latest packets waited in a queue of the network.
    """

    asked_for: int
    recovered: int
    late: int
    holes: int
    round_trip_ms: float | None
    told_kbps: float
    queue_ms: float


class SteadyReceiver(RTCRtpReceiver):
    """aiortc's receiver with another jitter buffer, NACKs and REMB for video (H.264 alone).

    - A frame goes to the decoder with its last packet, not with the first of the next one, and all
      frames that are whole go at once.
    - A missing packet is asked for until it comes; after `assembly.PATIENCE` the hole is skipped
      and a key frame asked for.
    - The sender is told `BandwidthEstimate`'s rate.
    - An RTCP BYE ends the track, of sound too, but not while packets of it still come.

    Whatever comes from the network is handled in the event loop, so nothing here takes long.
    """

    def __init__(self, kind: str, transport: RTCDtlsTransport) -> None:
        super().__init__(kind, transport)
        self._assembler = FrameAssembler()
        self._bandwidth = BandwidthEstimate()
        self._ssrc = 0
        self._keyframe_asked = -KEYFRAME_EVERY  # seconds
        self._left_out = False
        self._is_leaving = False
        self._timer: asyncio.TimerHandle | None = None
        self._tasks = BackgroundTasks()
        self._stock = {name: self._part(name) for name in _PARTS}
        self._stop_decoder = self._part("stop_decoder")
        self._replace("stop_decoder", self._stop_decoder_soon)
        if kind == "video":
            self._replace("jitter_buffer", self)
            self._replace("nack_generator", None)  # `add` asks
            self._replace("remote_bitrate_estimator", self._bandwidth)

    def use_stock_transport(self) -> None:
        """Puts aiortc's own parts back, to compare with; before anything has come."""
        for name, part in self._stock.items():
            self._replace(name, part)

    @property
    def link_was_full(self) -> bool:
        """Whether packets have waited in a queue of the network in this call."""
        return self._bandwidth.link_was_full

    def transport_stats(self) -> dict[str, Any] | None:
        """`TransportStats`, ready for JSON; None with the stock transport and for sound."""
        if self._part("jitter_buffer") is not self:
            return None
        assembler, estimate = self._assembler, self._bandwidth
        round_trip = assembler.round_trip
        return asdict(
            TransportStats(
                asked_for=assembler.asked_for,
                recovered=assembler.recovered,
                late=assembler.late,
                holes=assembler.holes,
                round_trip_ms=None if round_trip is None else round(1e3 * round_trip, 1),
                told_kbps=round(estimate.kbps, 1),
                queue_ms=round(estimate.queue_ms, 1),
            )
        )

    def add(self, packet: RtpPacket) -> tuple[bool, JitterFrame | None]:
        """Takes a packet as aiortc's jitter buffer does; what is whole goes to the decoder.

        Returns whether a key frame is to be asked for, and never a frame.
        """
        self._ssrc = packet.ssrc
        self._assembler.add(packet, time.monotonic())
        self._look()
        return self._is_time_to_ask_for_a_keyframe(), None

    async def stop(self) -> None:
        """Irreversibly stops the receiver."""
        self._rest()
        await super().stop()

    async def _handle_rtcp_packet(self, packet: AnyRtcpPacket) -> None:
        if not isinstance(packet, RtcpByePacket):
            await super()._handle_rtcp_packet(packet)
        elif not self._is_leaving and not set(packet.sources) <= set(self._part("rtx_ssrc")):
            self._is_leaving = True
            self._tasks.start(self._leave(packet))

    async def _leave(self, goodbye: RtcpByePacket) -> None:
        """Ends the track, unless packets of it still come."""
        before = self._packets_received()
        await asyncio.sleep(GOODBYE_SECONDS)
        self._is_leaving = False
        if self._packets_received() == before:
            await super()._handle_rtcp_packet(goodbye)

    def _packets_received(self) -> int:
        return sum(stream.packets_received for stream in self._part("remote_streams").values())

    def _stop_decoder_soon(self) -> None:
        """Ends the decoder's thread after its current frame: the event loop waits for it."""
        waiting = self._part("decoder_queue")
        with contextlib.suppress(queue.Empty):
            while True:
                waiting.get_nowait()
        self._stop_decoder()

    def _look(self) -> None:
        """Sends on what is whole, asks for what is missing, and looks again while anything is."""
        now = time.monotonic()
        for unit in self._assembler.take(now):
            codec = self._part("codecs").get(unit.payload_type)
            if codec is not None and self._part("decoder_thread"):
                self._decode(codec, unit)
        missing = self._assembler.to_ask_for(now)
        if missing:
            self._tasks.start(self._send_rtcp_nack(self._ssrc, missing))
        if self._assembler.is_waiting and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY, self._look_again)

    def _decode(self, codec: RTCRtpCodecParameters, unit: AccessUnit) -> None:
        """Hands a frame to the decoder, unless that is far behind; what follows then is damaged."""
        waiting = self._part("decoder_queue")
        if waiting.qsize() >= BACKLOG:
            self._left_out = True
            return
        if self._left_out:
            self._left_out, unit.lost_before = False, True
            self._tasks.start(self._send_rtcp_pli(self._ssrc))
        unit.timestamp = self._part("timestamp_mapper").map(unit.timestamp)
        waiting.put((codec, unit))

    def _look_again(self) -> None:
        self._timer = None
        if not self._part("decoder_thread"):
            return  # the call has ended
        self._look()
        if self._is_time_to_ask_for_a_keyframe():
            self._tasks.start(self._send_rtcp_pli(self._ssrc))

    def _is_time_to_ask_for_a_keyframe(self) -> bool:
        """Whether a hole was skipped and the last request, if any, may have been lost."""
        now = time.monotonic()
        if not self._assembler.needs_keyframe or now < self._keyframe_asked + KEYFRAME_EVERY:
            return False
        self._keyframe_asked = now
        return True

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._tasks.cancel()

    def _part(self, name: str) -> Any:
        return getattr(self, f"_RTCRtpReceiver__{name}")

    def _replace(self, name: str, part: Any) -> None:
        setattr(self, f"_RTCRtpReceiver__{name}", part)


class BoundedSender(RTCRtpSender):
    """aiortc's sender, which repairs what was lost, but is no amplifier.

    One RTCP datagram can name thousands of packets (RFC 4585, section 6.2.1), aiortc resends each
    as often as it is named. Here one packet is resent once in `RESEND_EVERY` seconds, and all
    together within a token bucket of `RESENDS` a second, `RESENDS_AT_ONCE` at once.
    """

    def __init__(self, trackOrKind: MediaStreamTrack | str, transport: RTCDtlsTransport) -> None:  # noqa: N803
        super().__init__(trackOrKind, transport)
        self._resent: dict[int, float] = {}  # when, by the packet's place in the history
        self._tokens = float(RESENDS_AT_ONCE)
        self._counted = time.monotonic()

    async def _handle_rtcp_packet(self, packet: AnyRtcpPacket) -> None:
        if isinstance(packet, RtcpRtpfbPacket) and packet.fmt == RTCP_RTPFB_NACK:
            packet.lost = list(dict.fromkeys(packet.lost))[-RTP_HISTORY_SIZE:]
        await super()._handle_rtcp_packet(packet)

    async def _retransmit(self, sequence_number: int) -> None:
        if self._may_resend(sequence_number, time.monotonic()):
            await super()._retransmit(sequence_number)

    def _may_resend(self, sequence_number: int, now: float) -> bool:
        """Returns whether a packet is to be resent at the time `now`, and counts it if so."""
        place = sequence_number % RTP_HISTORY_SIZE
        known = getattr(self, HISTORY).get(place)
        if known is None or known.sequence_number != sequence_number:
            return False  # what is gone takes no token from what is not
        if now < self._resent.get(place, -math.inf) + RESEND_EVERY:
            return False
        earned = RESENDS * (now - self._counted)
        self._tokens, self._counted = min(RESENDS_AT_ONCE, self._tokens + earned), now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        self._resent[place] = now
        return True


_PARTS = ("jitter_buffer", "nack_generator", "remote_bitrate_estimator")
