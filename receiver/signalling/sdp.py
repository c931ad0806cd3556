"""Converts session descriptions to the spelling that aiortc reads, and finds unsupported parts.

Many parts of SDP are case-insensitive, and some have defaults. aiortc compares with case, and fails
without the parts that have defaults.
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
"""DTLS roles allowed in a description; the first is the usual one (RFC 8842, section 5)."""
OFFERERS_ROLE = "active"
"""DTLS role of an offer without one (RFC 4145, section 4). The answer is `passive` then, so both
sides agree, whether the offerer assumes this role or follows the answer. Answers need a role."""


def spelled(line: str) -> str:
    """Returns a line with its case-insensitive parts in the case that aiortc expects.

    These are transport protocols (`udp/tls/rtp/savpf`), DTLS roles, RTCP feedback, parameters of
    codecs (RFC 4855, section 3), candidates (RFC 8839, section 5.1) and BUNDLE. Removes spaces
    between parameters. aiortc reads names of codecs and of hashes in any case.
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
    """Returns the line that an offer's session needs if media lack a DTLS role, otherwise []."""
    missing = any(not any(map(_is_role, section)) for section in sections)
    return [f"a=setup:{OFFERERS_ROLE}"] if missing and not any(map(_is_role, session)) else []


def role_fault(lines: Sequence[str], kind: Kind) -> str | None:
    """Returns the fault of the DTLS roles as the end of a sentence about the description."""
    for line in filter(_is_role, lines):
        role = line.partition(":")[2]
        if role not in ROLES[kind]:
            return f"has the DTLS role {printable(role, 20)!r}: use a=setup:{ROLES[kind][0]}"
    return None


def codec_fault(sdp: str) -> str | None:
    """Returns the fault of the codecs, if media have no supported one, in the form of `role_fault`.

    The only supported video codec is H.264, in the profiles that `prepare_aiortc` adds, with
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
        return "has H.264 only in packetization-mode 0: add packetization-mode=1"
    return "has H.264 only in unsupported profiles: add profile-level-id=42e01f"


def _is_role(line: str) -> bool:
    return line.startswith("a=setup:")
