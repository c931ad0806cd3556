"""The receiving side of a call over networks that lose and delay packets.

`docs/upstream.md` describes what was measured with aiortc's own receiver, and why each part exists.
"""

import asyncio
import contextlib
import queue
import time
from dataclasses import asdict, dataclass
from typing import Any

from aiortc.jitterbuffer import JitterFrame
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtp import AnyRtcpPacket, RtcpByePacket, RtpPacket

from receiver.transport.aiortc_hooks import HookedReceiver
from receiver.transport.assembly import AccessUnit, FrameAssembler
from receiver.transport.bandwidth import BandwidthEstimate
from receiver.waiting import BackgroundTasks

DECODER_BACKLOG = 90
"""Maximum number of frames that wait for the decoder: three seconds. Further ones are dropped."""
KEYFRAME_REQUEST_EVERY = 0.5
"""Seconds from one request for an I-frame to the next: each I-frame fills a narrow link."""
GOODBYE_SECONDS = 1.0
"""Seconds from an RTCP BYE to the end of its track, unless packets arrive before: a sender that
changes its SSRC sends a BYE for the old one (RFC 3550, section 8.2)."""
CHECK_EVERY = 0.01
"""Seconds from one check of the missing packets to the next, while packets are missing."""


@dataclass(frozen=True)
class TransportStats:
    """Counters of one video's packets.

    Attributes:
        asked_for: NACKs for single packets.
        recovered: packets that were missing and arrived later.
        late: packets that arrived too late, or twice.
        holes: holes that were skipped, each with a request for an I-frame.
        round_trip_ms: from a NACK to its answer, None before the first one.
        told_kbps: highest rate that REMB allows the sender.
        queue_ms: delay of the newest packets in a queue of the network.
    """

    asked_for: int
    recovered: int
    late: int
    holes: int
    round_trip_ms: float | None
    told_kbps: float
    queue_ms: float


class SteadyReceiver(HookedReceiver):
    """aiortc's receiver with another jitter buffer, NACKs and REMB for video (H.264 alone).

    - A frame is decoded when its last packet arrives, not when the next frame's first one does;
      all complete frames are decoded at once.
    - A missing packet is requested until it arrives; after `assembly.PACKET_WAIT` the hole is
      skipped and an I-frame requested.
    - REMB carries the rate of `BandwidthEstimate`.
    - An RTCP BYE ends the track (sound too), unless packets of the track still arrive.

    All packets are handled in the event loop, so nothing here may take long.
    """

    def __init__(self, kind: str, transport: RTCDtlsTransport) -> None:
        super().__init__(kind, transport)
        self._assembler = FrameAssembler()
        self._bandwidth = BandwidthEstimate()
        self._ssrc = 0
        self._keyframe_asked = -KEYFRAME_REQUEST_EVERY  # seconds
        self._has_dropped = False
        self._is_leaving = False
        self._timer: asyncio.TimerHandle | None = None
        self._tasks = BackgroundTasks()
        self._stock = self.jitter_buffer, self.nack_generator, self.remote_bitrate_estimator
        self._stop_decoder = self.stop_decoder
        self.stop_decoder = self._stop_decoder_soon
        if kind == "video":
            self.jitter_buffer = self
            self.nack_generator = None  # `add` sends the NACKs
            self.remote_bitrate_estimator = self._bandwidth

    def use_stock_transport(self) -> None:
        """Restores aiortc's own parts, for comparisons. To be called before the first packet."""
        self.jitter_buffer, self.nack_generator, self.remote_bitrate_estimator = self._stock

    @property
    def link_was_full(self) -> bool:
        """Whether packets have waited in a queue of the network in this call."""
        return self._bandwidth.link_was_full

    def transport_stats(self) -> dict[str, Any] | None:
        """Returns `TransportStats`, ready for JSON; None for sound and for aiortc's transport."""
        if self.jitter_buffer is not self:
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
        """Adds a packet, in the place of aiortc's jitter buffer, and decodes complete frames.

        Returns whether to request an I-frame, and None in the place of a frame.
        """
        self._ssrc = packet.ssrc
        self._assembler.add(packet, time.monotonic())
        self._check()
        return self._is_time_for_keyframe_request(), None

    async def stop(self) -> None:
        """Stops the receiver irreversibly."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._tasks.cancel()
        await super().stop()

    async def handle_rtcp(self, packet: AnyRtcpPacket) -> None:
        """Handles one RTCP packet of the sender; a BYE takes effect after `GOODBYE_SECONDS`."""
        if not isinstance(packet, RtcpByePacket):
            await super().handle_rtcp(packet)
        elif not self._is_leaving and not set(packet.sources) <= set(self.rtx_ssrc):
            self._is_leaving = True
            self._tasks.start(self._leave(packet))

    async def _leave(self, goodbye: RtcpByePacket) -> None:
        """Ends the track, unless packets of it still arrive."""
        before = self._packets_received()
        await asyncio.sleep(GOODBYE_SECONDS)
        self._is_leaving = False
        if self._packets_received() == before:
            await super().handle_rtcp(goodbye)

    def _packets_received(self) -> int:
        return sum(stream.packets_received for stream in self.remote_streams.values())

    def _stop_decoder_soon(self) -> None:
        """Ends the decoder's thread after its current frame, since the event loop waits for it."""
        with contextlib.suppress(queue.Empty):
            while True:
                self.decoder_queue.get_nowait()
        self._stop_decoder()

    def _check(self) -> None:
        """Decodes complete frames, requests missing packets, and repeats while any are missing."""
        now = time.monotonic()
        for unit in self._assembler.take(now):
            codec = self.codecs.get(unit.payload_type)
            if codec is not None and self.decoder_thread:
                self._decode(codec, unit)
        missing = self._assembler.to_ask_for(now)
        if missing:
            self._tasks.start(self.send_nack(self._ssrc, missing))
        if self._assembler.is_waiting and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(CHECK_EVERY, self._check_again)

    def _decode(self, codec: RTCRtpCodecParameters, unit: AccessUnit) -> None:
        """Queues a frame for the decoder; drops it if the decoder is far behind.

        The frame after a dropped one counts as damaged.
        """
        if self.decoder_queue.qsize() >= DECODER_BACKLOG:
            self._has_dropped = True
            return
        if self._has_dropped:
            self._has_dropped, unit.lost_before = False, True
            self._tasks.start(self.send_pli(self._ssrc))
        unit.timestamp = self.timestamp_mapper.map(unit.timestamp)
        self.decoder_queue.put((codec, unit))

    def _check_again(self) -> None:
        self._timer = None
        if not self.decoder_thread:
            return  # the call has ended
        self._check()
        if self._is_time_for_keyframe_request():
            self._tasks.start(self.send_pli(self._ssrc))

    def _is_time_for_keyframe_request(self) -> bool:
        """Returns whether an I-frame is needed and the last request, if any, may be lost."""
        now = time.monotonic()
        if (
            not self._assembler.needs_keyframe
            or now < self._keyframe_asked + KEYFRAME_REQUEST_EVERY
        ):
            return False
        self._keyframe_asked = now
        return True
