"""Checks session descriptions from servers before aiortc parses them.

aiortc accepts almost any description, and fails much later, in a task that nobody awaits. This
module refuses what aiortc cannot use, or removes it.
"""

import asyncio
import logging
import re
from itertools import chain
from typing import Any

from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.rtcrtpreceiver import RemoteStreamTrack
from aiortc.sdp import MediaDescription, SessionDescription

from receiver.signalling.client import MOST_SDP
from receiver.signalling.offers import (
    MAX_CANDIDATES,
    MAX_LINE,
    MAX_MEDIA,
    is_checked,
    late_fault,
    split_media,
)
from receiver.signalling.sdp import Kind, codec_fault, offerers_role, role_fault, spelled
from receiver.transport.aiortc_hooks import HookedConnection, end_remote_track
from receiver.waiting import stopped

MOST_LINES = 1000
"""Maximum number of lines in a description: aiortc's parser takes quadratic time for some."""
MID = re.compile(r"[\x21-\x7e]{1,64}")
"""Name of a media section (RFC 5888, section 4)."""
HASHES = ("sha-256", "sha-384", "sha-512")
"""Hashes of the certificate fingerprints that aiortc checks (RFC 8122, section 5)."""
ICE_TEXT = re.compile(r"[\x21-\x7e]{1,256}")
"""User fragment and password of ICE (RFC 8839, section 5.4), in any printable ASCII letters."""
ANSWERS_TO = {"recvonly": ("sendonly", "inactive"), "sendonly": ("recvonly", "inactive")}
"""Directions of an answer by the direction of the offer (RFC 3264, section 6.1)."""
CLOSE_SECONDS = 5.0
"""Longest wait for a connection to close."""

logger = logging.getLogger(__name__)


class ClosableConnection(HookedConnection):
    """aiortc's connection, which closes after any failure and can be closed at any time.

    aiortc connects in a task that nobody awaits: its errors are printed with a traceback, and what
    it starts while the connection closes (for example the decoder's thread) never ends. The tracks
    of a peer that never connects do not end either, so that their readers would wait forever.
    """

    def __init__(self, ice: RTCConfiguration) -> None:
        """Must be called inside a running event loop; `ice` has the ICE servers to use."""
        super().__init__(ice)
        self._connecting: set[asyncio.Task[Any]] = set()
        self._closing: asyncio.Future[None] | None = None

    async def close(self) -> None:
        """Closes the connection in any state; waits for `CLOSE_SECONDS` at most."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        for task in list(self._connecting):
            await stopped(task)
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await super().close()
        except Exception as error:  # aiortc's own, if only some parts of the connection exist
            logger.debug("a connection was not closed cleanly: %r", error)
        for receiver in self.getReceivers():
            if isinstance(receiver.track, RemoteStreamTrack):
                end_remote_track(receiver.track)

    async def connect(self) -> None:
        """Connects in a task that `close` can end."""
        task = asyncio.ensure_future(super().connect())
        self._connecting.add(task)
        try:
            await asyncio.wait((task,))
        finally:
            error = await stopped(task)
            self._connecting.discard(task)
        if error is not None:
            logger.debug("no connection was established: %r", error)
            await self.close()


def checked_answer(sdp: str, offer: str) -> RTCSessionDescription:
    """Returns a server's answer to `offer` without unusable candidates.

    Raises ValueError if it does not fit the offer or cannot be used; its message ends a sentence.
    """
    answer, parsed = _read(sdp, "answer")
    offered = SessionDescription.parse(offer).media
    if [(one.kind, one.rtp.muxId) for one in parsed.media] != [
        (one.kind, one.rtp.muxId) for one in offered
    ]:
        raise ValueError("its media are not those of the offer")
    for mine, theirs in zip(offered, parsed.media, strict=True):
        allowed = ANSWERS_TO.get(mine.direction or "")
        if allowed is not None and theirs.direction not in allowed:
            raise ValueError(f"its {mine.kind} is {theirs.direction}, not {' or '.join(allowed)}")
    return RTCSessionDescription(answer, "answer")


def checked_offer(sdp: str) -> RTCSessionDescription:
    """Returns a server's offer of one video and at most one sound, without unusable candidates.

    Raises ValueError if it offers anything else or cannot be used; its message ends a sentence.
    """
    offer, parsed = _read(sdp, "offer")
    kinds = sorted(media.kind for media in parsed.media)
    if kinds not in (["video"], ["audio", "video"]):
        raise ValueError("it does not offer one video, and one sound at most")
    return RTCSessionDescription(offer, "offer")


async def accept(connection: RTCPeerConnection, description: RTCSessionDescription) -> None:
    """Sets a checked description, and answers it if it is an offer.

    Raises ValueError if aiortc cannot use it; its message ends a sentence.
    """
    try:
        await connection.setRemoteDescription(description)
        if description.type == "offer":
            await connection.setLocalDescription(await connection.createAnswer())
    except Exception as error:  # aiortc raises errors of many types
        logger.debug("a description was not accepted: %r", error)
        raise ValueError(f"it {codec_fault(description.sdp) or 'has unknown parts'}") from error


def _read(sdp: str, kind: Kind) -> tuple[str, SessionDescription]:
    """Returns a description without unusable candidates, as text and parsed. Raises ValueError."""
    if not sdp.startswith("v=0"):
        raise ValueError("it is not SDP")
    if len(sdp) > MOST_SDP:
        raise ValueError(f"it has more than {MOST_SDP >> 10} KiB")
    lines = sdp.splitlines()
    if len(lines) > MOST_LINES or max(map(len, lines)) > MAX_LINE:
        raise ValueError(f"it has more than {MOST_LINES} lines, or one of more than {MAX_LINE}")
    if sum(line.startswith("m=") for line in lines) > MAX_MEDIA:
        raise ValueError(f"it has more than {MAX_MEDIA} media")
    lines = list(map(spelled, lines))
    if fault := role_fault(lines, kind):
        raise ValueError(f"it {fault}")
    session, sections = split_media(_with_usable_candidates(lines))
    if kind == "offer":
        session += offerers_role(session, sections)
    text = "".join(f"{line}\r\n" for line in [*session, *chain(*sections)])
    try:
        parsed = SessionDescription.parse(text)
    except Exception as error:  # aiortc's parser raises errors of many types
        raise ValueError("it is not SDP") from error
    mids = [media.rtp.muxId for media in parsed.media]
    if len(set(mids)) != len(mids) or not all(MID.fullmatch(mid) for mid in mids):
        raise ValueError("its media have no unique names")
    bundled = [mid for group in parsed.group if group.semantic == "BUNDLE" for mid in group.items]
    if not set(bundled) <= set(mids):
        raise ValueError("it bundles media that it does not have")
    for media in parsed.media:
        _check(media)
    return text, parsed


def _check(media: MediaDescription) -> None:
    """Raises ValueError for media that would make aiortc fail after it has connected."""
    ice = media.ice
    for text in (ice.usernameFragment, ice.password) if ice else ("",):
        if not ICE_TEXT.fullmatch(text or ""):
            raise ValueError("it lacks an ICE user or password")
    if media.dtls is None:
        raise ValueError("it has no DTLS role: add a=setup:active or a=setup:passive")
    if not any(one.algorithm.lower() in HASHES for one in media.dtls.fingerprints):
        raise ValueError("it lacks a certificate's fingerprint")
    if media.kind != "application" and not media.rtcp_mux:
        raise ValueError("it has RTCP on a separate port")
    if fault := late_fault(media):
        raise ValueError(f"it {fault}")


def _with_usable_candidates(lines: list[str]) -> list[str]:
    """Returns the lines without unusable candidates, and without those beyond `MAX_CANDIDATES`."""
    addresses: set[tuple[str, str]] = set()
    kept = []
    for line in lines:
        if line.startswith("a=candidate:"):
            address = _address(line)
            if address is None or (address not in addresses and len(addresses) == MAX_CANDIDATES):
                continue
            addresses.add(address)
        kept.append(line)
    return kept


def _address(line: str) -> tuple[str, str] | None:
    """Returns the address and port of a candidate (RFC 8839, section 5.1); None if it is unusable.

    Host names (mDNS too) are not resolved: a server has an address.
    """
    candidate = line.removeprefix("a=candidate:")
    if not is_checked(candidate):
        return None
    host, port = candidate.split()[4:6]
    return host, port
