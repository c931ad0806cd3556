"""Trickle ICE: candidates that a peer sends after its offer (RFC 9725, section 4.3; RFC 8840).

They count towards the limits of offers. ICE restarts are refused: aiortc does not support them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from aiortc import RTCIceCandidate, RTCPeerConnection
from aiortc.sdp import SessionDescription, candidate_from_sdp

from receiver.signalling.offers import (
    MAX_CANDIDATES,
    OfferError,
    check_limits,
    is_checked,
    split_media,
)
from receiver.signalling.sdp import spelled
from receiver.text import printable

SDPFRAG = "application/trickle-ice-sdpfrag"
"""Media type of a fragment (RFC 8840, section 9)."""


@dataclass(frozen=True)
class Fragment:
    """The ICE parameters and candidates in a fragment.

    Attributes:
        ufrags, passwords: all in the fragment; several if its media differ.
        candidates: candidates to which checks may be sent, each with its `sdpMid`.
    """

    ufrags: frozenset[str]
    passwords: frozenset[str]
    candidates: tuple[RTCIceCandidate, ...]


def read_fragment(body: bytes) -> Fragment:
    """Reads an SDP fragment (RFC 8840, section 9).

    Omits candidates to which no check may be sent, and the end of candidates, as in offers.

    Raises:
        OfferError: 400 if it is malformed, 422 if it exceeds a limit of offers.
    """
    try:
        lines = [spelled(line) for line in body.decode().splitlines() if line]
    except UnicodeDecodeError as error:
        raise OfferError(400, "the body is not text: send the fragment as UTF-8") from error
    if not lines or not all(line[:2] in ("a=", "m=") for line in lines):
        raise OfferError(
            400, f"the body is not an SDP fragment: send {SDPFRAG} with m-lines and a=mid"
        )
    check_limits(lines, "fragment")
    session, sections = split_media(lines)
    if any(line.startswith("a=candidate:") for line in session):
        raise OfferError(400, "the fragment has a candidate without media: begin with an m-line")
    return Fragment(
        frozenset(_values(lines, "ice-ufrag")),
        frozenset(_values(lines, "ice-pwd")),
        tuple(one for section in sections for one in _candidates(section)),
    )


async def add_candidates(connection: RTCPeerConnection, fragment: Fragment) -> None:
    """Adds a peer's further candidates to a connection; known ones change nothing.

    Raises:
        OfferError: 422 if they belong to another ICE session or to media that were not offered, or
            if there would be more than `MAX_CANDIDATES` in all.
    """
    media = {
        one.rtp.muxId: one
        for one in SessionDescription.parse(connection.remoteDescription.sdp).media
    }
    ice = [one.ice for one in media.values() if one.ice]
    if not (
        fragment.ufrags <= {one.usernameFragment for one in ice}
        and fragment.passwords <= {one.password for one in ice}
    ):
        raise OfferError(422, "ICE restarts are not supported: end this session and begin another")
    for mid in {str(one.sdpMid) for one in fragment.candidates} - media.keys():
        sentence = f"the fragment has media {printable(mid, 20)!r}, which the offer lacks"
        raise OfferError(422, sentence)
    known = {(mid, one.ip, one.port) for mid in media for one in media[mid].ice_candidates}
    new = {(one.sdpMid, one.ip, one.port): one for one in fragment.candidates}
    count = len(known | new.keys())
    if count > MAX_CANDIDATES:
        raise OfferError(422, f"the session has {count} candidates: send at most {MAX_CANDIDATES}")
    for place, candidate in new.items():
        if place not in known:
            await connection.addIceCandidate(candidate)


def _candidates(section: list[str]) -> Iterator[RTCIceCandidate]:
    """Yields the candidates of a media section. Raises OfferError unless it has one mid."""
    mids = _values(section, "mid")
    if len(mids) != 1:
        raise OfferError(400, "the fragment has media without a mid: add one a=mid to each")
    for value in _values(section, "candidate"):
        if is_checked(value):
            # Without its extensions, which aiortc would parse but does not need.
            candidate = candidate_from_sdp(" ".join(value.split()[:8]))
            candidate.sdpMid = mids[0]
            yield candidate


def _values(lines: list[str], name: str) -> list[str]:
    return [line.partition(":")[2] for line in lines if line.startswith(f"a={name}:")]
