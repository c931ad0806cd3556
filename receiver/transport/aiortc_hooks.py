"""The receiving side of a call: H.264 in, decoded so that every frame tells how well it arrived."""

import copy
import math
import socket
import time
from typing import Any, cast

import aiortc.codecs
import aiortc.rtcicetransport
import aiortc.rtcpeerconnection
import aiortc.rtcrtpreceiver
import aiortc.rtp
import av
import numpy as np
from aioice import Candidate, Connection
from aioice.ice import StunProtocol, get_host_addresses
from aioice.stun import Message
from aiortc import (
    RTCPeerConnection,
    RTCRtpCodecCapability,
    RTCRtpReceiver,
    RTCRtpTransceiver,
)
from aiortc.codecs.h264 import H264Decoder
from aiortc.jitterbuffer import JitterBuffer, JitterFrame
from aiortc.mediastreams import VIDEO_TIME_BASE, MediaStreamTrack
from aiortc.rtcdtlstransport import RTCCertificate, SRTPProtectionProfile
from aiortc.rtcpeerconnection import and_direction
from aiortc.rtcrtpparameters import RTCRtpCodecParameters

from receiver.media.encoding import open_decoder
from receiver.media.frame import Arrival
from receiver.transport.damage import DamageWatch
from receiver.transport.receiving import SteadyReceiver
from receiver.transport.sending import BoundedSender

PROFILES = ("4d001f", "64001f", "640c1f")
"""profile-level-id of Main, High and Constrained High at level 3.1 (RFC 6184, section 8.1)."""
FIRST_PAYLOAD_TYPE = 114
"""Of the dynamic ones (96 to 127) those that aiortc leaves free."""
MAX_PIXELS = 36864 * 256
"""Most pixels of a picture: those of H.264's level 5.1, 4096x2304 for one (table A-1)."""
LOOPBACK = "127.0.0.1"
"""Where calls are possible without a network; with one it is no candidate (RFC 8445, section
5.1.1.1)."""
MAX_PAIRS = 100
"""Candidate pairs that are checked (RFC 8445, section 6.1.2.5)."""
CIPHERS = (
    b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305:"
    b"ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-CHACHA20-POLY1305:"
    b"ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA:ECDHE-RSA-AES128-SHA:ECDHE-RSA-AES256-SHA"
)
"""aiortc's DTLS ciphers, and the same for servers with an RSA certificate."""
_CREATE_SSL_CONTEXT = RTCCertificate._create_ssl_context


class BoundedConnection(Connection):
    """aioice's ICE agent, which checks `MAX_PAIRS` candidate pairs at most.

    Each further address from which a peer sends a check would be sent seven. On a machine that has
    no other address it has a candidate at `LOOPBACK`, which aioice leaves out.
    """

    async def get_component_candidates(
        self, component: int, addresses: list[str], timeout: int = 5
    ) -> list[Candidate]:
        if not get_host_addresses(use_ipv4=True, use_ipv6=True):
            addresses = [LOOPBACK] if _reaches(LOOPBACK) else []
        return await super().get_component_candidates(component, addresses, timeout)

    def check_incoming(
        self, message: Message, addr: tuple[str, int], protocol: StunProtocol
    ) -> None:
        pairs = self._check_list
        if len(pairs) < MAX_PAIRS or any(
            pair.remote_addr == addr and pair.protocol is protocol for pair in pairs
        ):
            super().check_incoming(message, addr, protocol)


def _reaches(address: str) -> bool:
    """Returns whether packets could be sent to an IPv4 address; none is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        return probe.connect_ex((address, 9)) == 0


class ObservingJitterBuffer(JitterBuffer):
    """aiortc's jitter buffer, which also marks the frames that follow a loss.

    A released frame's `lost_before` tells whether packets between the last released frame and this
    one are missing: they never came, came too late, or were thrown away. The first frame has none.
    """

    def __init__(self, capacity: int, prefetch: int = 0, is_video: bool = False) -> None:
        super().__init__(capacity, prefetch=prefetch, is_video=is_video)
        self._end: int | None = None  # sequence number that follows the last released frame

    def _remove_frame(self, sequence_number: int) -> JitterFrame | None:
        start = self._origin
        frame = super()._remove_frame(sequence_number)
        if frame is not None:
            lost_before = self._end is not None and start != self._end
            setattr(frame, "lost_before", lost_before)  # noqa: B010
            self._end = self._origin
        return frame


class ObservingDecoder(H264Decoder):
    """aiortc's H.264 decoder, which also exports QPs and motion vectors, and watches for damage.

    A frame's `opaque` is the `Arrival` of its packet at the decoder.
    """

    def __init__(self) -> None:
        self.codec = open_decoder()
        self.codec.copy_opaque = True
        # A few bytes of SPS would make FFmpeg allocate 16384x16384 pixels several times over.
        self.codec.options = {**self.codec.options, "max_pixels": str(MAX_PIXELS)}
        self._watch = DamageWatch()

    def decode(self, encoded_frame: JitterFrame) -> list[av.frame.Frame]:
        """Decodes one access unit. Raises av.FFmpegError if it cannot be decoded."""
        lost_before = getattr(encoded_frame, "lost_before", False)
        damaged = self._watch.see(encoded_frame.data, lost_before)
        if not encoded_frame.data:
            return []  # padding alone; to the decoder an empty packet is the end of the stream
        packet = av.Packet(encoded_frame.data)
        packet.pts, packet.time_base = encoded_frame.timestamp, VIDEO_TIME_BASE
        packet.opaque = Arrival(time.perf_counter(), damaged, len(encoded_frame.data))
        try:
            return list(self.codec.decode(packet))
        except av.FFmpegError:
            self._watch.refused()
            raise


def prepare_aiortc() -> None:
    """Fits aiortc for real calls, from now on, in this whole process; once or many times alike.

    - H.264 is decoded with `ObservingDecoder`, and received by `SteadyReceiver`; where that uses
      aiortc's own transport, from frames of `ObservingJitterBuffer`.
    - H.264's Main and High profiles are spoken too (cameras, OBS, SFUs), not only Baseline.
    - Peers with an RSA certificate (GStreamer) can connect, not only those with ECDSA.
    - `BoundedSender` sends: what a peer has resent is bounded.
    - ICE checks a bounded number of addresses, and works on a machine without a network.
    - The level of sound that is sent is computed by numpy: aiortc's loop over every sample takes a
      fifth of a core from the event loop.

    aiortc has no public hooks for these: `tests/calls/test_loopback.py` watches their names.
    """
    setattr(aiortc.codecs, "H264Decoder", ObservingDecoder)  # noqa: B010
    setattr(aiortc.rtcrtpreceiver, "JitterBuffer", ObservingJitterBuffer)  # noqa: B010
    setattr(aiortc.rtcpeerconnection, "RTCRtpReceiver", SteadyReceiver)  # noqa: B010
    setattr(aiortc.rtcpeerconnection, "RTCRtpSender", BoundedSender)  # noqa: B010
    setattr(aiortc.rtcicetransport, "Connection", BoundedConnection)  # noqa: B010
    setattr(aiortc.rtp, "compute_audio_level_dbov", audio_level)  # noqa: B010
    _speak_profiles(aiortc.codecs.CODECS["video"])
    if RTCCertificate._create_ssl_context is not _ssl_context_for_rsa:
        setattr(RTCCertificate, "_create_ssl_context", _ssl_context_for_rsa)  # noqa: B010


def audio_level(frame: av.AudioFrame) -> int:
    """Level of a 16-bit frame in dBov, -127 to 0 (RFC 6465, appendix A)."""
    samples = np.frombuffer(cast(Any, frame.planes[0]), np.int16).astype(np.float64) / 32767.0
    power = float(np.square(samples).sum()) / frame.samples  # not by BLAS: its threads would spin
    return round(min(0.0, max(-127.0, 10.0 * math.log10(power)))) if power > 0 else -127


def _speak_profiles(codecs: list[RTCRtpCodecParameters]) -> None:
    known = {codec.parameters.get("profile-level-id") for codec in codecs}
    baseline = next(codec for codec in codecs if codec.mimeType == "video/H264")
    for number, profile in enumerate(PROFILES):
        if profile not in known:
            codec = copy.deepcopy(baseline)
            codec.payloadType = FIRST_PAYLOAD_TYPE + 2 * number
            codec.parameters["profile-level-id"] = profile
            again = RTCRtpCodecParameters(
                mimeType="video/rtx",
                clockRate=codec.clockRate,
                payloadType=codec.payloadType + 1,
                parameters={"apt": codec.payloadType},
            )
            codecs += [codec, again]


def _ssl_context_for_rsa(
    certificate: RTCCertificate, srtp_profiles: list[SRTPProtectionProfile]
) -> Any:
    context = _CREATE_SSL_CONTEXT(certificate, srtp_profiles=srtp_profiles)
    context.set_cipher_list(CIPHERS)
    return context


def receive_h264(connection: RTCPeerConnection) -> RTCRtpTransceiver:
    """Prepares `connection` to receive one video track, in H.264 alone; returns its transceiver.

    To be called before an offer is made or a remote one is set: preferences that come later are
    ignored by aiortc, without a word, and VP8 is used. Includes `prepare_aiortc`.
    """
    prepare_aiortc()
    transceiver = connection.addTransceiver("video", direction="recvonly")
    transceiver.setCodecPreferences(h264_codecs())
    return transceiver


def refuse(track: MediaStreamTrack, connection: RTCPeerConnection) -> None:
    """Answers that a remote track is not received: aiortc starts no decoder for it then.

    To be called while the remote offer is set, from the connection's event "track". A transceiver
    that also sends goes on to do so.
    """
    for transceiver in connection.getTransceivers():
        if transceiver.receiver.track is track:
            transceiver.direction = and_direction(transceiver.direction, "sendonly")


async def request_keyframe(receiver: RTCRtpReceiver) -> None:
    """Sends a Picture Loss Indication (RFC 4585, section 6.3.1) to the sender of a video.

    To the stream with the most packets: retransmissions have an SSRC of their own.
    """
    report = await receiver.getStats()
    streams = [stream for stream in report.values() if stream.type == "inbound-rtp"]
    if streams:
        busiest = max(streams, key=lambda stream: int(stream.packetsReceived))
        await receiver._send_rtcp_pli(busiest.ssrc)


def h264_codecs() -> list[RTCRtpCodecCapability]:
    """H.264 and its retransmission, for `setCodecPreferences` of either side."""
    capabilities = RTCRtpReceiver.getCapabilities("video")
    codecs = capabilities.codecs if capabilities else []
    return [codec for codec in codecs if codec.mimeType in ("video/H264", "video/rtx")]
