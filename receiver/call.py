"""The receiving side of a call: H.264 in, decoded so that every frame tells how well it arrived."""

import time

import aiortc.codecs
import av
from aiortc import (
    RTCPeerConnection,
    RTCRtpCodecCapability,
    RTCRtpReceiver,
    RTCRtpTransceiver,
)
from aiortc.codecs.h264 import H264Decoder
from aiortc.jitterbuffer import JitterFrame
from aiortc.mediastreams import VIDEO_TIME_BASE

from receiver.encoding import open_decoder


class ObservingDecoder(H264Decoder):
    """aiortc's H.264 decoder, which also exports QPs, motion vectors and arrival times.

    A frame's `opaque` is the moment its packet came to the decoder, by `time.perf_counter`.
    """

    def __init__(self) -> None:
        self.codec = open_decoder()
        self.codec.copy_opaque = True

    def decode(self, encoded_frame: JitterFrame) -> list[av.frame.Frame]:
        """Decodes one access unit."""
        packet = av.Packet(encoded_frame.data)
        packet.pts, packet.time_base = encoded_frame.timestamp, VIDEO_TIME_BASE
        packet.opaque = time.perf_counter()
        return list(self.codec.decode(packet))


def observe_decoding() -> None:
    """Makes aiortc decode H.264 with `ObservingDecoder` from now on, in this whole process.

    aiortc has no public hook: `aiortc.codecs.get_decoder` looks the class up under this name.
    """
    setattr(aiortc.codecs, "H264Decoder", ObservingDecoder)  # noqa: B010


def receive_h264(connection: RTCPeerConnection) -> RTCRtpTransceiver:
    """Prepares `connection` to receive one video track, in H.264 alone; returns its transceiver.

    To be called before an offer is made or a remote one is set: preferences that come later are
    ignored by aiortc, without a word, and VP8 is used.
    """
    transceiver = connection.addTransceiver("video", direction="recvonly")
    transceiver.setCodecPreferences(h264_codecs())
    return transceiver


def h264_codecs() -> list[RTCRtpCodecCapability]:
    """H.264 and its retransmission, for `setCodecPreferences` of either side."""
    capabilities = RTCRtpReceiver.getCapabilities("video")
    codecs = capabilities.codecs if capabilities else []
    return [codec for codec in codecs if codec.mimeType in ("video/H264", "video/rtx")]
