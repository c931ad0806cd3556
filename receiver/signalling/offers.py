"""Reads SDP offers of strangers, bounds them before aiortc sees them, and answers them."""

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
"""UDP candidates of an offer; TCP ones are ignored, and a browser offers as many of them."""
BROADCAST = ipaddress.IPv4Address("255.255.255.255")
MAX_PAYLOAD_TYPE = 127
"""Payload types have seven bits (RFC 3550, section 5.1)."""
MAX_SSRCS = 3
"""SSRCs read of a media section: aiortc takes two to be a stream and its retransmission, more to be
something else (simulcast)."""

TRICKLE = "a=ice-options:trickle"
"""Tells that candidates may come after the offer (RFC 8840, section 4.1)."""
LEAST_MESSAGE = 16 << 10
"""Bytes of a data channel's message that the other side has to take, if it limits them."""

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
"""A line that aiortc is given, after its key: of lines with the same key only the first is kept."""


class OfferError(InputError):
    """SDP of a client that cannot be used; `status` is the HTTP status that says so."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def read_offer(body: bytes) -> RTCSessionDescription:
    """Checks an offer, and returns what aiortc needs of it: nothing twice, nothing without limit.

    aiortc parses in the event loop, in a time that grows with the square of an offer's length, and
    resolves mDNS names. So unknown attributes, codecs that are not spoken here, and candidates that
    no check may be sent to are left out before. So is the end of the candidates: checks that the
    peer sends are awaited even if none of its candidates can be reached (RFC 8863, section 3).

    Takes up to 15 ms for 64 KiB: large offers are to be read off the event loop.

    Raises:
        OfferError: 400 if it is not an SDP offer; 422 if it exceeds a limit, has no video in H.264,
            or more than one medium of a kind (RFC 9725, section 4.4).
    """
    refusal = OfferError(400, "the body is no SDP offer: send localDescription.sdp")
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise OfferError(400, "the body is no text: send the offer as UTF-8") from error
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
    except Exception as error:  # aiortc's parser raises whatever it stumbles over
        raise refusal from error
    _check_media(parsed)
    return RTCSessionDescription(sdp=sdp, type="offer")


async def answer(connection: RTCPeerConnection, offer: RTCSessionDescription) -> str:
    """Sets an offer and returns the answer's SDP, all candidates in it.

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

    It must be UDP's, of component 1 (RTP and RTCP share it), at a unicast address (no name, which
    would have to be resolved) and a port from 1 to 65535 (RFC 8839, section 5.1).
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
    """Returns what of a media section makes aiortc fail once the connection is there, if anything.

    As the end of a sentence about the description. Of RTP's header extensions (RFC 8285, section
    4.3) and data channels (RFC 8841, sections 5 and 6).
    """
    if not all(0 < one.id < 256 for one in media.rtp.headerExtensions):
        return "numbers RTP's extensions beyond 1 to 255"
    if media.kind != "application":
        return None
    if not 0 < _sctp_port(media) < 65536:
        return "has data channels without a port from 1 to 65535"
    most = media.sctpCapabilities.maxMessageSize if media.sctpCapabilities else 0
    if most < 0 or 0 < most < LEAST_MESSAGE:
        return f"has data channels that take no message of {LEAST_MESSAGE} bytes"
    return None


def _sctp_port(media: MediaDescription) -> int:
    """Returns the port of the data channels as aiortc reads it, 0 if there is none."""
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
            raise OfferError(422, f"the {what} has {count} {parts}: offer {most} at most")


def _is_candidate(line: str) -> bool:
    """Returns whether a line is a candidate that counts: all but those of TCP do."""
    return line.startswith("a=candidate:") and line.lower().split(maxsplit=3)[2:3] != ["tcp"]


def _check_media(parsed: SessionDescription) -> None:
    """Raises OfferError unless there is a call in the media that this side can take part in."""
    kinds = [media.kind for media in parsed.media]
    if "video" not in kinds:
        raise OfferError(422, "the offer has no video: add a video track or transceiver")
    for kind in kinds:
        if kind not in _KINDS:
            raise OfferError(422, f"the offer has media of the kind {kind[:20]!r}: leave them out")
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
    """Raises OfferError for ICE and DTLS parameters with which no connection can come about."""
    ice = media.ice or RTCIceParameters()
    ufrag, password = ice.usernameFragment or "", ice.password or ""
    if not _ICE_UFRAG.fullmatch(ufrag) or not _ICE_PWD.fullmatch(password):
        raise OfferError(422, "the offer has no ice-ufrag and ice-pwd as of RFC 8839")
    prints = media.dtls.fingerprints if media.dtls else []
    if not any(one.algorithm.lower() in X509_DIGEST_ALGORITHMS for one in prints):
        raise OfferError(422, "the offer has no DTLS fingerprint: add a=fingerprint:sha-256 …")
    if media.kind != "application" and not media.rtcp_mux:
        raise OfferError(422, "the offer has RTCP on a port of its own: add a=rtcp-mux")


def _first_of_each(lines: Iterable[Kept | None]) -> Iterator[str]:
    seen = set()
    for kept in lines:
        if kept is not None and kept[0] not in seen:
            seen.add(kept[0])
            yield kept[1]


def _session_line(line: str) -> Kept | None:
    """Returns what is kept of a line of the session."""
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
    """Yields what is kept of a media section: its m-line, its direction and its attributes."""
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
    """Returns the payload types, as written, of the codecs that are spoken here."""
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
    """Returns what is kept of an attribute of a media section.

    Args:
        line, name, value: the attribute.
        codecs: payload types that are kept.
        ssrcs: those read so far; the attribute's is added.
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
