"""The sending side of a call: bounded repair, and requests for key frames."""

import math
import time
from typing import TypeAlias

import av
from aiortc.mediastreams import MediaStreamTrack
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcrtpsender import RTCRtpSender
from aiortc.rtp import (
    RTCP_RTPFB_NACK,
    RTP_HISTORY_SIZE,
    AnyRtcpPacket,
    RtcpRtpfbPacket,
)

RESEND_EVERY = 0.02
"""Seconds from one repair of a packet to the next of the same: a peer that asks again sooner cannot
have waited for the first."""
RESENDS = 200
"""Packets that are resent in a second at most: half of those that a call has."""
RESENDS_AT_ONCE = 100
"""Packets that are resent at once after a while without: a key frame's."""
HISTORY = "_RTCRtpSender__rtp_history"
"""aiortc's private name of a sender's newest packets, by their number modulo their count."""


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


KEYFRAMES_EVERY = 0.5
"""Seconds from one key frame on request to the next: each takes the bits of many others, so a peer
that asks all the time would spoil the picture, for all who watch it."""

VideoPacket: TypeAlias = "av.Packet[av.VideoStream]"


class KeyframeRequests:
    """Requests for key frames of one encoder, granted once in an interval at most.

    To be asked in the event loop, and taken in the encoder's thread.
    """

    def __init__(self, interval: float = KEYFRAMES_EVERY) -> None:
        """`interval` is in seconds."""
        self._interval = interval
        self._is_asked = False
        self._granted = -math.inf

    def ask(self) -> None:
        """Asks for a key frame: the next picture, or the first after the interval."""
        self._is_asked = True

    def take(self) -> bool:
        """Returns whether the next picture is to be a key frame; the requests are done with then.

        To be called once for each picture.
        """
        now = time.monotonic()
        if not self._is_asked or now < self._granted + self._interval:
            return False
        self._is_asked, self._granted = False, now
        return True
