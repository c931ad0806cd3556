"""Session descriptions in the spelling that aiortc reads, and what it cannot use of them.

SDP leaves the case of many parts open, and defaults for some that are missing. aiortc compares
with case, and fails without them.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

from aiortc.codecs import CODECS
from aiortc.rtcpeerconnection import find_common_codecs
from aiortc.sdp import MediaDescription, SessionDescription

from receiver.text import printable

Kind: TypeAlias = Literal["offer", "answer"]

ROLES: dict[Kind, tuple[str, ...]] = {
    "offer": ("actpass", "active", "passive"),
    "answer": ("active", "passive"),
}
"""DTLS roles that a description may have; the first is the usual one (RFC 8842, section 5)."""
OFFERERS_ROLE = "active"
"""The DTLS role of an offer without one (RFC 4145, section 4). Whether the offerer plays that or
follows the answer, which is `passive` then, both sides agree. Answers need a role."""


def spelled(line: str) -> str:
    """Returns a line with everything that has no case in the case that aiortc compares with.

    That is transport protocols (`udp/tls/rtp/savpf`), DTLS roles, RTCP feedback, parameters of
    codecs (RFC 4855, section 3), candidates (RFC 8839, section 5.1) and BUNDLE. Spaces between
    parameters go. Names of codecs and of hashes aiortc reads in any case.
    """
    if line.startswith("m="):
        words = line.split(" ", 3)
        return " ".join([*words[:2], *(word.upper() for word in words[2:3]), *words[3:]])
    name, colon, value = line.partition(":")
    match name:
        case "a=setup" | "a=rtcp-fb":
            value = value.strip().lower()
        case "a=group":
            semantics, space, mids = value.partition(" ")
            value = f"{semantics.upper()}{space}{mids}"
        case "a=fmtp":
            payload_type, space, parameters = value.partition(" ")
            value = payload_type + space + ";".join(map(_parameter, parameters.split(";")))
        case "a=candidate":
            words = value.split(" ")
            value = " ".join(
                word.lower() if place in (2, 6, 7) else word for place, word in enumerate(words)
            )
    return name + colon + value


def _parameter(text: str) -> str:
    name, equals, value = text.partition("=")
    return name.strip().lower() + equals + value.strip()


def offerers_role(session: Sequence[str], sections: Sequence[Sequence[str]]) -> list[str]:
    """Returns the line that an offer's session needs if media have no DTLS role, else none."""
    missing = any(not any(map(_is_role, section)) for section in sections)
    return [f"a=setup:{OFFERERS_ROLE}"] if missing and not any(map(_is_role, session)) else []


def role_fault(lines: Sequence[str], kind: Kind) -> str | None:
    """Returns what is wrong with the DTLS roles, as the end of a sentence about the description."""
    for line in filter(_is_role, lines):
        role = line.partition(":")[2]
        if role not in ROLES[kind]:
            return f"has the DTLS role {printable(role, 20)!r}: use a=setup:{ROLES[kind][0]}"
    return None


def codec_fault(sdp: str) -> str | None:
    """Returns which media have no codec that is spoken here, if any, as `role_fault` does.

    Of video H.264 alone is spoken: in the profiles that `prepare_aiortc` adds, and with
    packetization-mode 1, which every browser offers (RFC 7742, section 6.2).
    """
    faults = map(_codec_fault, SessionDescription.parse(sdp).media)
    return next((fault for fault in faults if fault), None)


def _codec_fault(media: MediaDescription) -> str | None:
    if media.kind not in CODECS:
        return None
    wanted = media.rtp.codecs
    if media.kind == "video":
        wanted = [codec for codec in wanted if codec.name.upper() == "H264"]
        if not wanted:
            return "has no H.264"
    if find_common_codecs(CODECS[media.kind], wanted):
        return None
    if media.kind == "audio":
        return "has no sound in Opus, G.722 or G.711"
    if all(str(codec.parameters.get("packetization-mode", "0")) == "0" for codec in wanted):
        return "has H.264 in packetization-mode 0 alone: add packetization-mode=1"
    return "has H.264 of no profile that is spoken here: add profile-level-id=42e01f"


def _is_role(line: str) -> bool:
    return line.startswith("a=setup:")
