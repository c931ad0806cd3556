"""Every use of a private name of aiortc and aioice, with the reason for it.

aiortc has no public hooks for what a call over a bad network needs. This module gives the rest of
`receiver` public classes and functions instead, and no other module may touch a private name of
aiortc, aioice or PyAV: `tests/transport/test_aiortc_hooks.py` lists them all and checks that the
installed versions still have them. `docs/upstream.md` describes each finding for aiortc itself.
"""

import math
import queue
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

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
from aiortc import RTCPeerConnection, RTCRtpReceiver, RTCRtpSender, RTCSctpTransport
from aiortc.codecs.h264 import H264Decoder
from aiortc.jitterbuffer import JitterBuffer, JitterFrame
from aiortc.mediastreams import VIDEO_TIME_BASE
from aiortc.rtcdtlstransport import RTCCertificate, SRTPProtectionProfile
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtcrtpreceiver import RemoteStreamTrack, StreamStatistics, TimestampMapper
from aiortc.rtp import AnyRtcpPacket, RtpPacket

from receiver.media.encoding import open_decoder
from receiver.media.frame import Arrival
from receiver.transport.damage import DamageWatch

MAX_FRAME_PIXELS = 36864 * 256
"""Largest frame in pixels that is decoded: H.264's limit at level 5.1, for example 4096x2304
(table A-1)."""
LOOPBACK = "127.0.0.1"
"""Address of the only candidate on a machine without a network. With a network it must not be a
candidate (RFC 8445, section 5.1.1.1)."""
MAX_PAIRS = 100
"""Largest number of candidate pairs that are checked (RFC 8445, section 6.1.2.5)."""
CIPHERS = (
    b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305:"
    b"ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-CHACHA20-POLY1305:"
    b"ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA:ECDHE-RSA-AES128-SHA:ECDHE-RSA-AES256-SHA"
)
"""aiortc's DTLS ciphers, and the same ones for peers with an RSA certificate."""

T = TypeVar("T")


class PrivateAttribute(Generic[T]):
    """Makes a private attribute of an aiortc class a public one of a subclass."""

    def __init__(self, name: str) -> None:
        """Takes the attribute's name after Python's name mangling: `_Class__name`."""
        self.name = name

    def __get__(self, instance: object, owner: type[object]) -> T:
        return cast(T, getattr(instance, self.name))

    def __set__(self, instance: object, value: T) -> None:
        setattr(instance, self.name, value)


class HookedReceiver(RTCRtpReceiver):
    """aiortc's RTP receiver whose parts a subclass can read, replace and extend.

    Reason: aiortc builds the jitter buffer, the NACK generator and the bandwidth estimate itself,
    and has no public way to send a NACK or a PLI. Findings: the first six rows of
    `docs/upstream.md`.

    Attributes:
        codecs: negotiated codecs by payload type.
        decoder_queue: (codec, JitterFrame) pairs for the decoder's thread.
        decoder_thread: None before the call and after it.
        jitter_buffer: object whose `add(packet)` returns (send a PLI, JitterFrame or None).
        nack_generator: requests missing packets; None to request none.
        remote_bitrate_estimator: object whose `add` returns REMB's (bit/s, SSRCs) or None.
        remote_streams: statistics by SSRC.
        rtx_ssrc: SSRC of the video by the SSRC of its retransmissions (RFC 4588).
        stop_decoder: ends the decoder's thread and waits for it.
        timestamp_mapper: maps RTP timestamps to timestamps that start at 0 and never wrap.
    """

    codecs = PrivateAttribute[dict[int, RTCRtpCodecParameters]]("_RTCRtpReceiver__codecs")
    decoder_queue = PrivateAttribute[queue.Queue[Any]]("_RTCRtpReceiver__decoder_queue")
    decoder_thread = PrivateAttribute[threading.Thread | None]("_RTCRtpReceiver__decoder_thread")
    jitter_buffer = PrivateAttribute[Any]("_RTCRtpReceiver__jitter_buffer")
    nack_generator = PrivateAttribute[Any]("_RTCRtpReceiver__nack_generator")
    remote_bitrate_estimator = PrivateAttribute[Any]("_RTCRtpReceiver__remote_bitrate_estimator")
    remote_streams = PrivateAttribute[dict[int, StreamStatistics]](
        "_RTCRtpReceiver__remote_streams"
    )
    rtx_ssrc = PrivateAttribute[dict[int, int]]("_RTCRtpReceiver__rtx_ssrc")
    stop_decoder = PrivateAttribute[Callable[[], None]]("_RTCRtpReceiver__stop_decoder")
    timestamp_mapper = PrivateAttribute[TimestampMapper]("_RTCRtpReceiver__timestamp_mapper")

    async def send_nack(self, ssrc: int, lost: list[int]) -> None:
        """Requests packets by their sequence numbers (RFC 4585, section 6.2.1)."""
        await self._send_rtcp_nack(ssrc, lost)

    async def send_pli(self, ssrc: int) -> None:
        """Requests an I-frame (RFC 4585, section 6.3.1)."""
        await self._send_rtcp_pli(ssrc)

    async def handle_rtcp(self, packet: AnyRtcpPacket) -> None:
        """Handles one RTCP packet of the remote sender."""
        await super()._handle_rtcp_packet(packet)

    async def _handle_rtcp_packet(self, packet: AnyRtcpPacket) -> None:
        await self.handle_rtcp(packet)


class HookedSender(RTCRtpSender):
    """aiortc's RTP sender whose repair of lost packets a subclass can limit.

    Reason: aiortc has no limit. Finding: a NACK is answered for every packet that it names.

    Attributes:
        rtp_history: the newest packets by sequence number modulo `RTP_HISTORY_SIZE`.
    """

    rtp_history = PrivateAttribute[dict[int, RtpPacket]]("_RTCRtpSender__rtp_history")

    async def handle_rtcp(self, packet: AnyRtcpPacket) -> None:
        """Handles one RTCP packet of the remote receiver."""
        await super()._handle_rtcp_packet(packet)

    async def retransmit(self, sequence_number: int) -> None:
        """Sends one packet again if it is still in `rtp_history`."""
        await super()._retransmit(sequence_number)

    async def _handle_rtcp_packet(self, packet: AnyRtcpPacket) -> None:
        await self.handle_rtcp(packet)

    async def _retransmit(self, sequence_number: int) -> None:
        await self.retransmit(sequence_number)


class HookedConnection(RTCPeerConnection):
    """aiortc's peer connection, whose connection set-up a subclass can supervise.

    Reason: aiortc connects in a task that nobody awaits. Finding: `close()` while ICE completes
    leaves a task behind.
    """

    async def connect(self) -> None:
        """Connects ICE and DTLS and starts all transceivers; called once both sides have agreed."""
        await getattr(super(), "_RTCPeerConnection__connect")()  # noqa: B009

    async def _RTCPeerConnection__connect(self) -> None:  # noqa: N802
        await self.connect()


class BoundedConnection(Connection):
    """aioice's ICE agent, limited to `MAX_PAIRS` candidate pairs.

    Reason: a pair is added for each address from which a peer sends a check, without a limit, and
    aioice sends seven packets to each. On a machine that has no other address this agent has a
    candidate at `LOOPBACK`, which aioice leaves out.
    """

    async def get_component_candidates(
        self, component: int, addresses: list[str], timeout: int = 5
    ) -> list[Candidate]:
        """Gathers local candidates; aioice calls it with every address but `LOOPBACK`."""
        if not get_host_addresses(use_ipv4=True, use_ipv6=True):
            addresses = [LOOPBACK] if _reaches(LOOPBACK) else []
        return await super().get_component_candidates(component, addresses, timeout)

    def check_incoming(
        self, message: Message, addr: tuple[str, int], protocol: StunProtocol
    ) -> None:
        """Handles a peer's check, unless it would add a pair beyond the limit."""
        pairs = self._check_list
        if len(pairs) < MAX_PAIRS or any(
            pair.remote_addr == addr and pair.protocol is protocol for pair in pairs
        ):
            super().check_incoming(message, addr, protocol)


def _reaches(address: str) -> bool:
    """Returns whether packets could be sent to an IPv4 address; sends none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        return probe.connect_ex((address, 9)) == 0


class ObservingJitterBuffer(JitterBuffer):
    """aiortc's jitter buffer, which also marks the frames that follow a loss.

    Reason: a decoder conceals losses silently, and aiortc does not report them. It sets
    `lost_before` on a released frame: whether packets between the frame released before and this
    one are missing (lost, late or discarded). It is False for the first frame.
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
    """aiortc's H.264 decoder, which also exports QPs and motion vectors, and detects damage.

    A frame's `opaque` is the `Arrival` of its packet at the decoder.
    """

    def __init__(self) -> None:
        self.codec = open_decoder()
        self.codec.copy_opaque = True
        # A few bytes of SPS would make FFmpeg allocate 16384x16384 pixels several times over.
        self.codec.options = {**self.codec.options, "max_pixels": str(MAX_FRAME_PIXELS)}
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


def audio_level(frame: av.AudioFrame) -> int:
    """Returns the level of a 16-bit frame in dBov, -127 to 0 (RFC 6465, appendix A).

    Reason: aiortc's loop over every sample takes a fifth of a core from the event loop.
    """
    samples = np.frombuffer(cast(Any, frame.planes[0]), np.int16).astype(np.float64) / 32767.0
    # Not with BLAS: its threads would spin.
    power = float(np.square(samples).sum()) / frame.samples
    return round(min(0.0, max(-127.0, 10.0 * math.log10(power)))) if power > 0 else -127


_CREATE_SSL_CONTEXT = RTCCertificate._create_ssl_context


def _ssl_context_for_rsa(
    certificate: RTCCertificate, srtp_profiles: list[SRTPProtectionProfile]
) -> Any:
    """Makes aiortc's DTLS context, with ciphers for RSA certificates (GStreamer's) as well."""
    context = _CREATE_SSL_CONTEXT(certificate, srtp_profiles=srtp_profiles)
    context.set_cipher_list(CIPHERS)
    return context


def replace_parts(receiver: type[RTCRtpReceiver], sender: type[RTCRtpSender]) -> None:
    """Replaces parts of aiortc in the whole process: its classes by those of this project.

    Reason: aiortc's classes refer to each other by name, so that there is no other way to use
    another one.
    May be called any number of times.

    Args:
        receiver: class of the RTP receivers of new connections.
        sender: class of their RTP senders.
    """
    setattr(aiortc.codecs, "H264Decoder", ObservingDecoder)  # noqa: B010
    setattr(aiortc.rtcrtpreceiver, "JitterBuffer", ObservingJitterBuffer)  # noqa: B010
    setattr(aiortc.rtcpeerconnection, "RTCRtpReceiver", receiver)  # noqa: B010
    setattr(aiortc.rtcpeerconnection, "RTCRtpSender", sender)  # noqa: B010
    setattr(aiortc.rtcicetransport, "Connection", BoundedConnection)  # noqa: B010
    setattr(aiortc.rtp, "compute_audio_level_dbov", audio_level)  # noqa: B010
    setattr(RTCCertificate, "_create_ssl_context", _ssl_context_for_rsa)  # noqa: B010


def depayloaded(packet: RtpPacket) -> bytes:
    """Returns the payload of an H.264 packet in Annex B form, as aiortc left it in the packet.

    Reason: aiortc's receiver hands it to the jitter buffer in a private attribute.
    """
    return cast(bytes, packet._data)  # type: ignore[attr-defined]


async def request_keyframe(receiver: RTCRtpReceiver) -> None:
    """Sends a Picture Loss Indication (RFC 4585, section 6.3.1) to the sender of a video.

    It names the stream with the most packets, since retransmissions have a separate SSRC.
    Reason: aiortc has no public way to send a PLI.
    """
    report = await receiver.getStats()
    streams = [stream for stream in report.values() if stream.type == "inbound-rtp"]
    if streams:
        busiest = max(streams, key=lambda stream: int(stream.packetsReceived))
        await receiver._send_rtcp_pli(busiest.ssrc)


def on_keyframe_request(sender: RTCRtpSender, request: Callable[[], None]) -> None:
    """Calls `request` in the event loop for each PLI or FIR of the peer that watches `sender`.

    Reason: aiortc has no public way to be notified of a PLI; it would go to aiortc's own encoder,
    which an already encoded track does not use.
    """
    setattr(sender, "_send_keyframe", request)  # noqa: B010


def end_remote_track(track: RemoteStreamTrack) -> None:
    """Ends a remote track, as aiortc's decoder does at the end of its stream.

    Reason: aiortc never ends the track of a peer that did not connect, and its reader would wait
    forever.
    """
    track._queue.put_nowait(None)


@dataclass(frozen=True, slots=True)
class IncomingData:
    """State of an SCTP association when a data chunk arrives (RFC 9260).

    Attributes:
        window: bytes that the peer may still send; negative if it has sent more than it may.
        streams: streams that hold data.
        fragments: chunks of unfinished messages in the new chunk's stream.
    """

    window: int
    streams: int
    fragments: int


def filter_incoming_data(sctp: RTCSctpTransport, accept: Callable[[IncomingData], bool]) -> None:
    """Calls `accept` for each arriving data chunk, and discards the chunk if it returns False.

    Reason: aiortc counts the window that it grants (section 6.2) but accepts data beyond it.
    """
    receive = sctp._receive_data_chunk

    async def filtered(chunk: Any) -> None:
        streams = sctp._inbound_streams
        fragments = streams[chunk.stream_id].reassembly if chunk.stream_id in streams else ()
        if accept(IncomingData(sctp._advertised_rwnd, len(streams), len(fragments))):
            await receive(chunk)

    setattr(sctp, "_receive_data_chunk", filtered)  # noqa: B010
