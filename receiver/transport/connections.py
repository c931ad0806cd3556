"""Prepares aiortc for real calls, and connections for H.264 video."""

import copy

from aiortc import RTCPeerConnection, RTCRtpCodecCapability, RTCRtpReceiver, RTCRtpTransceiver
from aiortc.codecs import CODECS
from aiortc.mediastreams import MediaStreamTrack
from aiortc.rtcpeerconnection import and_direction
from aiortc.rtcrtpparameters import RTCRtpCodecParameters

from receiver.transport.aiortc_hooks import replace_parts
from receiver.transport.receiving import SteadyReceiver
from receiver.transport.sending import BoundedSender

PROFILES = ("4d001f", "64001f", "640c1f")
"""profile-level-id of Main, High and Constrained High at level 3.1 (RFC 6184, section 8.1)."""
FIRST_PAYLOAD_TYPE = 114
"""First dynamic payload type (96 to 127) from which on aiortc uses none."""


def prepare_aiortc() -> None:
    """Replaces parts of aiortc in this process, for every connection made later.

    May be called any number of times.

    - H.264 is decoded with `ObservingDecoder` and received with `SteadyReceiver`. If that uses
      aiortc's own transport, `ObservingJitterBuffer` assembles the frames.
    - H.264's Main and High profiles (cameras, OBS, SFUs) are negotiated, not only Baseline.
    - Peers with an RSA certificate (GStreamer) can connect, not only those with ECDSA.
    - `BoundedSender` limits how many packets are sent again.
    - ICE checks a limited number of addresses, and works on a machine without a network.
    - numpy computes the level of sound that is sent: aiortc's loop over every sample takes a fifth
      of a core from the event loop.

    aiortc has no public hooks for these; see `receiver.transport.aiortc_hooks`.
    """
    replace_parts(SteadyReceiver, BoundedSender)
    _add_profiles(CODECS["video"])


def _add_profiles(codecs: list[RTCRtpCodecParameters]) -> None:
    """Adds `PROFILES`, each with its retransmission (RFC 4588), to aiortc's codecs."""
    known = {codec.parameters.get("profile-level-id") for codec in codecs}
    baseline = next(codec for codec in codecs if codec.mimeType == "video/H264")
    for number, profile in enumerate(PROFILES):
        if profile not in known:
            codec = copy.deepcopy(baseline)
            codec.payloadType = FIRST_PAYLOAD_TYPE + 2 * number
            codec.parameters["profile-level-id"] = profile
            retransmission = RTCRtpCodecParameters(
                mimeType="video/rtx",
                clockRate=codec.clockRate,
                payloadType=codec.payloadType + 1,
                parameters={"apt": codec.payloadType},
            )
            codecs += [codec, retransmission]


def receive_h264(connection: RTCPeerConnection) -> RTCRtpTransceiver:
    """Prepares `connection` to receive one video track in H.264 alone; returns its transceiver.

    Call it before an offer is made or a remote description set: aiortc silently ignores later
    preferences and uses VP8. Calls `prepare_aiortc`.
    """
    prepare_aiortc()
    transceiver = connection.addTransceiver("video", direction="recvonly")
    transceiver.setCodecPreferences(h264_codecs())
    return transceiver


def refuse(track: MediaStreamTrack, connection: RTCPeerConnection) -> None:
    """Refuses a remote track, so that aiortc starts no decoder for it.

    Call it while the remote offer is being set, from the connection's event "track". A transceiver
    that also sends continues to send.
    """
    for transceiver in connection.getTransceivers():
        if transceiver.receiver.track is track:
            transceiver.direction = and_direction(transceiver.direction, "sendonly")


def h264_codecs() -> list[RTCRtpCodecCapability]:
    """Returns H.264 and its retransmission, for `setCodecPreferences` of either side."""
    capabilities = RTCRtpReceiver.getCapabilities("video")
    codecs = capabilities.codecs if capabilities else []
    return [codec for codec in codecs if codec.mimeType in ("video/H264", "video/rtx")]
