"""Joins and publishes calls: at WHEP and WHIP endpoints, or with Janus' VideoRoom plugin.

WHIP is RFC 9725; WHEP is the IETF draft draft-ietf-wish-whep. The servers are not trusted: see
`receiver.signalling.client`, `receiver.signalling.links` and `receiver.signalling.negotiation`.
"""

import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal, TypeAlias

from aiortc import RTCConfiguration, RTCPeerConnection
from yarl import URL

from receiver.errors import InputError
from receiver.signalling.client import (
    LEAVE_SECONDS,
    MOST_SDP,
    SETUP_SECONDS,
    Answer,
    Client,
    SessionError,
    shown,
)
from receiver.signalling.janus import Janus, OnTrack
from receiver.signalling.links import ice_servers
from receiver.signalling.negotiation import ClosableConnection, accept, checked_answer
from receiver.text import printable
from receiver.transport.connections import receive_h264
from receiver.waiting import finished

Protocol: TypeAlias = Literal["WHIP", "WHEP"]

CREATED = (200, 201)
"""Statuses of an answer with a session: 201 (RFC 9725, section 4.2), and 200 of some servers."""

logger = logging.getLogger(__name__)


@asynccontextmanager
async def open_session(
    url: str, token: str | None, on_track: OnTrack, *, seconds: float = SETUP_SECONDS
) -> AsyncIterator[RTCPeerConnection]:
    """Joins the call at `url`; leaving the context ends the session at the server too.

    If the server ends or breaks the session before, the connection is closed, and leaving the
    context raises SessionError.

    Args:
        url: http(s)://…, a WHEP endpoint; or janus+http(s)://HOST:PORT/janus?room=N.
        token: Bearer token for WHEP; Janus' room PIN.
        on_track: called with each remote track and the connection that receives it.
        seconds: longest wait for the server at any step.

    Raises:
        InputError: for an address of another kind, or an answer that another attempt cannot change.
        SessionError: if the session cannot be opened now.
    """
    scheme = url.partition(":")[0].lower()
    if scheme in ("janus+http", "janus+https"):
        async with Janus(url, token, seconds).joined(on_track) as connection:
            yield connection
        return
    if scheme not in ("http", "https"):
        raise InputError(
            f"{shown(url)} is not an address to join: give http(s)://… or janus+http(s)://…"
        )

    def prepare(connection: RTCPeerConnection) -> None:
        connection.on("track", lambda track: on_track(track, connection))
        receive_h264(connection)
        connection.addTransceiver("audio", direction="recvonly")

    async with _answered(Client(url, token, seconds), prepare, "WHEP") as connection:
        yield connection


@asynccontextmanager
async def open_publishing(
    url: str,
    token: str | None,
    prepare: Callable[[RTCPeerConnection], Any],
    *,
    seconds: float = SETUP_SECONDS,
) -> AsyncIterator[RTCPeerConnection]:
    """Publishes at a WHIP endpoint; leaving the context ends the session at the server too.

    Args:
        url: http(s)://…
        token: Bearer token.
        prepare: adds the tracks and channels to the connection, before the offer is made.
        seconds: longest wait for the server at any step.

    Raises:
        InputError: for an address of another kind, or an answer that another attempt cannot change.
        SessionError: if the session cannot be opened now.
    """
    if url.partition(":")[0].lower() not in ("http", "https"):
        raise InputError(
            f"{shown(url)} is not an address to send to: give http(s)://… of a WHIP endpoint"
        )
    async with _answered(Client(url, token, seconds), prepare, "WHIP") as connection:
        yield connection


@asynccontextmanager
async def _answered(
    client: Client, prepare: Callable[[RTCPeerConnection], Any], protocol: Protocol
) -> AsyncIterator[RTCPeerConnection]:
    """Offers a connection to an endpoint and sets its answer; finally ends both sides."""
    sessions: list[URL] = []

    async def exchange(sdp: str) -> Answer:
        answer = await client.offer(sdp)
        if answer.status in CREATED and (session := _session(client, answer)):
            sessions.append(session)
        return answer

    async with client.opened():
        servers = await ice_servers(client, await _links(client))
        connection = ClosableConnection(RTCConfiguration(iceServers=servers))
        try:
            prepare(connection)
            await connection.setLocalDescription(await connection.createOffer())
            offer = connection.localDescription.sdp
            answer = await finished(exchange(offer), LEAVE_SECONDS)
            _refuse(client, answer, protocol)
            await _set_answer(client, connection, answer, offer)
            yield connection
        finally:
            await connection.close()
            for session in sessions:
                with contextlib.suppress(SessionError):
                    await client.ask("DELETE", session, most=0, seconds=LEAVE_SECONDS)


async def _links(client: Client) -> list[str]:
    """Returns the endpoint's Link headers; [] if it does not answer OPTIONS."""
    try:
        return (await client.ask("OPTIONS", client.home, most=0)).links
    except SessionError:
        return []


def _session(client: Client, answer: Answer) -> URL | None:
    """Returns the URL to DELETE (RFC 9725, section 4.2); None if it is not at the user's origin."""
    if not answer.headers.get("Location"):
        return None
    session = client.location(answer)
    if session is None or not client.is_home(session):
        where = shown(answer.headers["Location"])
        logger.warning("%s has its session at %s: it is not deleted there", client, where)
        return None
    return session


def _refuse(client: Client, answer: Answer, protocol: Protocol) -> None:
    """Raises InputError or SessionError unless an answer is complete and one of `CREATED`."""
    status, said = answer.status, answer.said
    if status in (401, 403) and not client.is_home(answer.url):
        elsewhere = shown(str(answer.url.origin()))
        raise InputError(
            f"{client} redirects to {elsewhere}, which asks for a token ({status}) but does not "
            "receive this one: use that address itself if you trust it"
        )
    if status in (401, 403):
        raise InputError(
            f"{client} does not accept the token ({status}: {said}): give another with --token-file"
        )
    if status in (301, 302, 303):
        where = shown(answer.headers.get("Location", "")) or "nowhere"
        raise InputError(f"{client} redirects with {status} to {where}: use that address")
    if status in (400, 405, 406, 415, 422):
        raise InputError(f"{client} is not a {protocol} endpoint for H.264 ({status}: {said})")
    if status not in CREATED:
        raise SessionError(f"{client} answers {status}: {said}", answer.retry_after())
    if not answer.whole:
        raise SessionError(f"{client} answers with more than {MOST_SDP >> 10} KiB")


async def _set_answer(
    client: Client, connection: RTCPeerConnection, answer: Answer, offer: str
) -> None:
    try:
        await accept(connection, checked_answer(answer.text, offer))
    except ValueError as error:
        why = printable(error)
        raise InputError(f"the answer of {client} cannot be used: {why}") from error
