"""Reads SDP offers of untrusted peers, limits them before aiortc parses them, and answers them."""

import ipaddress
import logging
import re
from collections.abc import Hashable, Iterable, Iterator
from typing import TypeAlias

from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.codecs import CODECS, HEADER_EXTENSIONS
from aiortc.exceptions import InvalidStateError, OperationError
from aiortc.rtcdtlstransport import X509_DIGEST_ALGORITHMS
from aiortc.rtcicetransport import RTCIceParameters
from aiortc.sdp import DIRECTIONS, MediaDescription, SessionDescription

from receiver.errors import InputError
from receiver.signalling.sdp import codec_fault, offerers_role, role_fault, spelled

MAX_LINES = 2000
"""Lines of an offer; a browser's has about 300."""
MAX_LINE = 4096
"""Characters of a line of an offer; a browser's longest has about 200."""
MAX_MEDIA = 16
"""Media sections (m-lines) of an offer."""
MAX_CANDIDATES = 32
"""UDP candidates of an offer. TCP candidates are ignored; a browser offers as many of them."""
BROADCAST = ipaddress.IPv4Address("255.255.255.255")
MAX_PAYLOAD_TYPE = 127
"""Payload types have seven bits (RFC 3550, section 5.1)."""
MAX_SSRCS = 3
"""SSRCs read from a media section: aiortc takes two for a stream and its retransmission, more for
something else (simulcast)."""

TRICKLE = "a=ice-options:trickle"
"""Declares that candidates may follow after the offer (RFC 8840, section 4.1)."""
LEAST_MESSAGE = 16 << 10
"""Smallest limit of a peer, in bytes, for the messages of its data channels."""

logger = logging.getLogger(__name__)

_KINDS = ("audio", "video", "application")
_CODECS = {
    "audio": {f"{codec.name}/{codec.clockRate}".lower() for codec in CODECS["audio"]},
    "video": {"h264/90000", "rtx/90000"},
}
_EXTENSIONS = {one.uri for known in HEADER_EXTENSIONS.values() for one in known}
_PARAMETER = re.compile(r"(apt|packetization-mode|profile-level-id)=(\w{1,6})", re.ASCII)
_FEEDBACK = ("nack", "nack pli", "goog-remb")
_ONCE = ("mid", "setup", "ice-ufrag", "ice-pwd", "ice-lite", "rtcp-mux", "sctp-port")
_ICE_UFRAG = re.compile(r"[a-zA-Z0-9+/]{4,256}")
_ICE_PWD = re.compile(r"[a-zA-Z0-9+/]{22,256}")

Kept: TypeAlias = tuple[Hashable, str]
"""A key and a line for aiortc; of lines with the same key only the first is kept."""


class OfferError(InputError):
    """SDP of a client that cannot be used; `status` is the HTTP status of the answer."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def read_offer(body: bytes) -> RTCSessionDescription:
    """Checks an offer, and returns the parts that aiortc needs: no duplicates, nothing unlimited.

    aiortc parses in the event loop, in a time that grows with the square of an offer's length, and
    resolves mDNS names. So unknown attributes, unsupported codecs, and candidates to which no check
    may be sent are removed. So is the end of the candidates: checks of the peer are awaited even if
    none of its candidates can be reached (RFC 8863, section 3).

    Takes up to 15 ms for 64 KiB: read large offers outside the event loop.

    Raises:
        OfferError: 400 if it is not an SDP offer; 422 if it exceeds a limit, has no H.264 video, or
            more than one media section of a kind (RFC 9725, section 4.4).
    """
    refusal = OfferError(400, "the body is not an SDP offer: send localDescription.sdp")
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise OfferError(400, "the body is not text: send the offer as UTF-8") from error
    if not text.startswith("v=0"):
        raise refusal
    lines = text.splitlines()
    check_limits(lines)
    lines = list(map(spelled, lines))
    if fault := role_fault(lines, "offer"):
        raise OfferError(422, f"the offer {fault}")
    session, sections = split_media(lines)
    try:
        reduced = [*_first_of_each(_session_line(line) for line in session)]
        reduced += offerers_role(session, sections)
        for section in sections:
            reduced += _reduced(section)
        sdp = "\r\n".join(reduced) + "\r\n"
        parsed = SessionDescription.parse(sdp)
    except Exception as error:  # aiortc's parser raises errors of any type
        raise refusal from error
    _check_media(parsed)
    return RTCSessionDescription(sdp=sdp, type="offer")


async def answer(connection: RTCPeerConnection, offer: RTCSessionDescription) -> str:
    """Sets an offer and returns the answer's SDP, with all candidates.

    Raises OfferError if aiortc cannot answer it.
    """
    try:
        await connection.setRemoteDescription(offer)
        await connection.setLocalDescription(await connection.createAnswer())
    except (ValueError, OperationError, InvalidStateError, AttributeError, KeyError) as error:
        logger.debug("an offer was not answered: %r", error)
        fault = codec_fault(offer.sdp) or "cannot be answered: offer what a browser does"
        raise OfferError(422, f"the offer {fault}") from error
    sdp: str = connection.localDescription.sdp
    return sdp.replace("\r\nm=", f"\r\n{TRICKLE}\r\nm=", 1)


def is_checked(candidate: str) -> bool:
    """Returns whether connectivity checks may be sent to a candidate, the value of its attribute.

    It must be a UDP candidate of component 1 (shared by RTP and RTCP), with a unicast address (not
    a name, which would need a look-up) and a port from 1 to 65535 (RFC 8839, section 5.1).
    """
    words = candidate.split()
    if len(words) < 8 or (words[1], words[2].lower(), words[6]) != ("1", "udp", "typ"):
        return False
    priority, port = words[3], words[5]
    if not all(re.fullmatch(r"[0-9]{1,10}", number) for number in (priority, port)):
        return False
    if not 1 <= int(port) <= 65535:
        return False
    try:
        address = ipaddress.ip_address(words[4])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and (address.scope_id or address.ipv4_mapped):
        return False
    return not (address.is_multicast or address.is_unspecified or address == BROADCAST)


def late_fault(media: MediaDescription) -> str | None:
    """Returns the fault of a media section that would make aiortc fail after connecting, if any.

    The text is the end of a sentence about the description. Checks RTP header extensions (RFC 8285,
    section 4.3) and data channels (RFC 8841, sections 5 and 6).
    """
    if not all(0 < one.id < 256 for one in media.rtp.headerExtensions):
        return "has RTP extensions with ids outside 1 to 255"
    if media.kind != "application":
        return None
    if not 0 < _sctp_port(media) < 65536:
        return "has data channels without a port from 1 to 65535"
    most = media.sctpCapabilities.maxMessageSize if media.sctpCapabilities else 0
    if most < 0 or 0 < most < LEAST_MESSAGE:
        return f"has data channels that refuse messages of {LEAST_MESSAGE} bytes"
    return None


def _sctp_port(media: MediaDescription) -> int:
    """Returns the port of the data channels as aiortc reads it; 0 if there is none."""
    if media.profile != "DTLS/SCTP":
        return media.sctp_port or 0
    port = str(media.fmt[0]) if media.fmt else ""
    return int(port) if re.fullmatch(r"[0-9]{1,5}", port) else 0


def split_media(lines: list[str]) -> tuple[list[str], list[list[str]]]:
    """Splits a description into the lines of the session and those of each media section."""
    session: list[str] = []
    sections: list[list[str]] = []
    for line in lines:
        if line.startswith("m="):
            sections.append([line])
        else:
            (sections[-1] if sections else session).append(line)
    return session, sections


def check_limits(lines: list[str], what: str = "offer") -> None:
    """Raises OfferError if a description, called `what`, exceeds a limit."""
    for count, most, parts in (
        (len(lines), MAX_LINES, "lines"),
        (max(map(len, lines)), MAX_LINE, "characters in one line"),
        (sum(line.startswith("m=") for line in lines), MAX_MEDIA, "media sections"),
        (sum(map(_is_candidate, lines)), MAX_CANDIDATES, "candidates"),
    ):
        if count > most:
            raise OfferError(422, f"the {what} has {count} {parts}: offer at most {most}")


def _is_candidate(line: str) -> bool:
    """Returns whether a line is a candidate that counts: all except TCP candidates."""
    return line.startswith("a=candidate:") and line.lower().split(maxsplit=3)[2:3] != ["tcp"]


def _check_media(parsed: SessionDescription) -> None:
    """Raises OfferError unless the media make a call that can be answered."""
    kinds = [media.kind for media in parsed.media]
    if "video" not in kinds:
        raise OfferError(422, "the offer has no video: add a video track or transceiver")
    for kind in kinds:
        if kind not in _KINDS:
            raise OfferError(422, f"the offer has media of the kind {kind[:20]!r}: remove them")
        if kinds.count(kind) > 1:
            raise OfferError(422, f"the offer has more than one {kind}: offer one")
    mids = [media.rtp.muxId for media in parsed.media]
    bundles = [group.items for group in parsed.group if group.semantic == "BUNDLE"]
    names: list[list[int | str]] = [[*mids], *bundles]
    if any(len(set(one)) < len(one) or not set(one) <= set(mids) for one in names):
        raise OfferError(400, "the offer's mids are not unique, or its BUNDLE group has others")
    for media in parsed.media:
        _check_transport(media)
        if fault := late_fault(media):
            raise OfferError(422, f"the offer {fault}")
    video = parsed.media[kinds.index("video")]
    if all(codec.name.upper() != "H264" for codec in video.rtp.codecs):
        raise OfferError(422, "the offer has no H.264: allow it in the sender's codecs")


def _check_transport(media: MediaDescription) -> None:
    """Raises OfferError for ICE and DTLS parameters that allow no connection."""
    ice = media.ice or RTCIceParameters()
    ufrag, password = ice.usernameFragment or "", ice.password or ""
    if not _ICE_UFRAG.fullmatch(ufrag) or not _ICE_PWD.fullmatch(password):
        raise OfferError(422, "the offer has no valid ice-ufrag and ice-pwd (RFC 8839)")
    prints = media.dtls.fingerprints if media.dtls else []
    if not any(one.algorithm.lower() in X509_DIGEST_ALGORITHMS for one in prints):
        raise OfferError(422, "the offer has no DTLS fingerprint: add a=fingerprint:sha-256 …")
    if media.kind != "application" and not media.rtcp_mux:
        raise OfferError(422, "the offer has RTCP on a separate port: add a=rtcp-mux")


def _first_of_each(lines: Iterable[Kept | None]) -> Iterator[str]:
    seen = set()
    for kept in lines:
        if kept is not None and kept[0] not in seen:
            seen.add(kept[0])
            yield kept[1]


def _session_line(line: str) -> Kept | None:
    """Returns a line of the session if it is kept, with its key."""
    if line[:2] in ("v=", "o=", "s=", "t="):
        return line[:2], line
    name, _, value = line[2:].partition(":")
    if line.startswith("a=group:"):
        return (name, value.split(maxsplit=1)[:1] == ["BUNDLE"]), line
    return _transport_line(line, name, value) if line.startswith("a=") else None


def _transport_line(line: str, name: str, value: str) -> Kept | None:
    if name in _ONCE:
        return name, line
    if name == "fingerprint":
        return (name, value.split(maxsplit=1)[0].lower()), line
    return None


def _reduced(section: list[str]) -> Iterator[str]:
    """Yields the lines kept of a media section: its m-line, its direction and attributes."""
    kind = section[0][2:].split(" ", 1)[0]
    attributes = [(line, *line[2:].partition(":")[::2]) for line in section if line[:2] == "a="]
    codecs = _payload_types(kind, (value for _, name, value in attributes if name == "rtpmap"))
    ssrcs: set[str] = set()
    yield section[0]
    directions = [line for line, name, _ in attributes if name in DIRECTIONS]
    yield directions[-1] if directions else "a=sendrecv"  # RFC 8866, section 6.7
    yield from _first_of_each(
        _media_line(line, name, value, codecs, ssrcs) for line, name, value in attributes
    )


def _payload_types(kind: str, rtpmaps: Iterable[str]) -> set[str]:
    """Returns the payload types, as written, of the supported codecs."""
    known = _CODECS.get(kind, set())
    return {
        payload_type
        for payload_type, _, codec in (rtpmap.partition(" ") for rtpmap in rtpmaps)
        if _is_payload_type(payload_type)
        and codec.lower().removesuffix("/1").removesuffix("/2") in known
    }


def _is_payload_type(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 4 and int(text) <= MAX_PAYLOAD_TYPE


def _media_line(line: str, name: str, value: str, codecs: set[str], ssrcs: set[str]) -> Kept | None:
    """Returns an attribute of a media section if it is kept, with its key.

    Args:
        line, name, value: the attribute.
        codecs: payload types that are kept.
        ssrcs: SSRCs read so far; adds that of the attribute.
    """
    first, _, rest = value.partition(" ")
    match name:
        case "candidate":
            return (value, line) if is_checked(value) else None
        case "extmap":
            return (value.split()[1], line) if value.split()[1] in _EXTENSIONS else None
        case "max-message-size":
            return name, line
        case "rtpmap":
            return ((name, first), line) if first in codecs else None
        case "fmtp":
            parameters = _known_parameters(rest)
            return ((name, first), f"a=fmtp:{first} {parameters}") if first in codecs else None
        case "rtcp-fb":
            known = (first == "*" or first in codecs) and rest in _FEEDBACK
            return ((name, value), line) if known else None
        case "ssrc":
            if first.isascii() and first.isdecimal() and len(ssrcs) < MAX_SSRCS:
                ssrcs.add(first)
                return (name, first), f"a=ssrc:{first} cname:-"
            return None
    return _transport_line(line, name, value)


def _known_parameters(parameters: str) -> str:
    matches = (_PARAMETER.fullmatch(one.strip()) for one in parameters.split(";"))
    return ";".join({match[1]: match[0] for match in matches if match}.values())
