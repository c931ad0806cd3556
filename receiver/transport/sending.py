"""The sending side of a call: limited repair of lost packets, and requests for I-frames."""

import math
import time
from typing import TypeAlias

import av
from aiortc.mediastreams import MediaStreamTrack
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtp import RTCP_RTPFB_NACK, RTP_HISTORY_SIZE, AnyRtcpPacket, RtcpRtpfbPacket

from receiver.transport.aiortc_hooks import HookedSender

RESEND_EVERY = 0.02
"""Seconds from one repair of a packet to the next of the same one: a peer that asks again sooner
cannot have waited for the first."""
RESENDS = 200
"""Packets that are sent again in a second at most: half of those that a call has."""
RESENDS_AT_ONCE = 100
"""Packets that are sent again at once after a pause: those of an I-frame."""
KEYFRAMES_EVERY = 0.5
"""Seconds from one requested I-frame to the next. Each takes the bits of many other frames, so a
peer that requests them all the time would spoil the video for everybody who watches it."""

VideoPacket: TypeAlias = "av.Packet[av.VideoStream]"


class BoundedSender(HookedSender):
    """aiortc's sender, with a limit on the packets that it sends again.

    One RTCP datagram can name thousands of packets (RFC 4585, section 6.2.1), and aiortc resends
    each as often as it is named: an amplifier. Here a packet is resent once in `RESEND_EVERY`
    seconds, and all of them within a token bucket of `RESENDS` a second, `RESENDS_AT_ONCE` at once.
    """

    def __init__(self, trackOrKind: MediaStreamTrack | str, transport: RTCDtlsTransport) -> None:  # noqa: N803
        super().__init__(trackOrKind, transport)
        self._resent: dict[int, float] = {}  # times in seconds, by the packet's key in the history
        self._tokens = float(RESENDS_AT_ONCE)
        self._counted = time.monotonic()

    async def handle_rtcp(self, packet: AnyRtcpPacket) -> None:
        """Handles one RTCP packet of the receiver, in a NACK the newest packets that it names."""
        if isinstance(packet, RtcpRtpfbPacket) and packet.fmt == RTCP_RTPFB_NACK:
            packet.lost = list(dict.fromkeys(packet.lost))[-RTP_HISTORY_SIZE:]
        await super().handle_rtcp(packet)

    async def retransmit(self, sequence_number: int) -> None:
        """Sends one packet again, if the limits allow it."""
        if self._may_resend(sequence_number, time.monotonic()):
            await super().retransmit(sequence_number)

    def _may_resend(self, sequence_number: int, now: float) -> bool:
        """Returns whether to send a packet again at the time `now`, and counts it if so."""
        key = sequence_number % RTP_HISTORY_SIZE
        known = self.rtp_history.get(key)
        if known is None or known.sequence_number != sequence_number:
            return False  # a packet that is gone takes no token
        if now < self._resent.get(key, -math.inf) + RESEND_EVERY:
            return False
        earned = RESENDS * (now - self._counted)
        self._tokens, self._counted = min(RESENDS_AT_ONCE, self._tokens + earned), now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        self._resent[key] = now
        return True


class KeyframeRequests:
    """Requests for I-frames from one encoder, granted once in an interval at most.

    Requests are made in the event loop and taken in the encoder's thread.
    """

    def __init__(self, interval: float = KEYFRAMES_EVERY) -> None:
        """`interval` is in seconds."""
        self._interval = interval
        self._is_asked = False
        self._granted = -math.inf

    def ask(self) -> None:
        """Requests an I-frame: the next frame, or the first one after the interval."""
        self._is_asked = True

    def take(self) -> bool:
        """Returns whether to encode the next frame as an I-frame, and clears the request if so.

        To be called once for each frame.
        """
        now = time.monotonic()
        if not self._is_asked or now < self._granted + self._interval:
            return False
        self._is_asked, self._granted = False, now
        return True
