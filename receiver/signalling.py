"""Where calls are joined and published: WHEP and WHIP endpoints, or Janus' VideoRoom plugin.

WHIP is RFC 9725; WHEP is the IETF draft draft-ietf-wish-whep. Janus is spoken to over its HTTP API.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal, TypeAlias
from urllib.parse import parse_qs, urljoin, urlsplit, urlunsplit

import aiohttp
from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamTrack

from receiver.call import receive_h264
from receiver.errors import InputError, ReceiverError

SETUP_SECONDS = 15.0
"""Longest wait for the other side at any step."""


class SessionError(ReceiverError):
    """A session that could not be had; worth another try after `retry_after` seconds.

    `unreachable` tells that nobody answered at all.
    """

    def __init__(
        self, sentence: str, retry_after: float = 0.0, *, unreachable: bool = False
    ) -> None:
        super().__init__(sentence)
        self.retry_after, self.unreachable = retry_after, unreachable


OnTrack: TypeAlias = Callable[[MediaStreamTrack, RTCPeerConnection], None]
Protocol: TypeAlias = Literal["WHIP", "WHEP"]


@asynccontextmanager
async def open_session(
    url: str, token: str | None, on_track: OnTrack
) -> AsyncIterator[RTCPeerConnection]:
    """Joins the call at `url`; leaving the context ends the session on the other side too.

    Args:
        url: http(s)://…, a WHEP endpoint; or janus+http(s)://HOST:PORT/janus?room=N.
        token: Bearer token for WHEP; Janus' room PIN.
        on_track: is given each remote track, and the connection that receives it.

    Raises:
        InputError: for an address of another kind, or an answer that another try cannot mend.
        SessionError: if the session cannot be had now.
    """
    scheme = urlsplit(url).scheme
    if scheme in ("http", "https"):
        session = _whep(url, token, on_track)
    elif scheme in ("janus+http", "janus+https"):
        session = _janus(url, token, on_track)
    else:
        raise InputError(f"{url} is no address to join: give http(s)://… or janus+http(s)://…")
    async with _http_client(url) as http, session(http) as connection:
        yield connection


@asynccontextmanager
async def open_publishing(
    url: str, token: str | None, prepare: Callable[[RTCPeerConnection], Any]
) -> AsyncIterator[RTCPeerConnection]:
    """Publishes at a WHIP endpoint; leaving the context ends the session on the other side too.

    Args:
        url: http(s)://…
        token: Bearer token.
        prepare: gives the connection its tracks and channels, before they are offered.

    Raises:
        InputError: for an address of another kind, or an answer that another try cannot mend.
        SessionError: if the session cannot be had now.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise InputError(f"{url} is no address to send to: give http(s)://… of a WHIP endpoint")
    headers = _bearer(token)
    async with _http_client(url) as http:
        connection = RTCPeerConnection(await _ice_servers(http, url, headers))
        prepare(connection)
        async with _answered(http, url, headers, connection, "WHIP"):
            yield connection


@asynccontextmanager
async def _http_client(url: str) -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=SETUP_SECONDS)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as http:
            yield http
    except (aiohttp.ClientError, TimeoutError) as error:
        sentence = f"{url} does not answer: {error or 'no reply in time'}"
        raise SessionError(sentence, unreachable=True) from error


def _whep(url: str, token: str | None, on_track: OnTrack) -> Any:
    @asynccontextmanager
    async def session(http: aiohttp.ClientSession) -> AsyncIterator[RTCPeerConnection]:
        headers = _bearer(token)
        connection = RTCPeerConnection(await _ice_servers(http, url, headers))
        connection.on("track", lambda track: on_track(track, connection))
        receive_h264(connection)
        connection.addTransceiver("audio", direction="recvonly")
        async with _answered(http, url, headers, connection, "WHEP"):
            yield connection

    return session


def _bearer(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


@asynccontextmanager
async def _answered(
    http: aiohttp.ClientSession,
    url: str,
    headers: dict[str, str],
    connection: RTCPeerConnection,
    protocol: Protocol,
) -> AsyncIterator[None]:
    """Offers `connection` to an endpoint and takes its answer; closes both sides in the end."""
    location = None
    try:
        await connection.setLocalDescription(await connection.createOffer())
        offer = connection.localDescription.sdp
        kind = {"Content-Type": "application/sdp"}
        async with http.post(url, data=offer, headers=headers | kind) as response:
            text = await response.text()
            _refuse(url, response, text, protocol)
            if "Location" in response.headers:
                location = urljoin(str(response.url), response.headers["Location"])
        await _set_answer(connection, url, text)
        yield
    finally:
        await connection.close()
        if location is not None:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                await http.delete(location, headers=headers, timeout=aiohttp.ClientTimeout(1))


async def _ice_servers(
    http: aiohttp.ClientSession, url: str, headers: dict[str, str]
) -> RTCConfiguration:
    """The ICE servers that the endpoint names in Link headers (RFC 9725, section 4.6)."""
    links: list[Any] = []
    with contextlib.suppress(aiohttp.ClientError):
        async with http.options(url, headers=headers) as response:
            links = response.links.getall("ice-server", [])
    return RTCConfiguration(
        iceServers=[
            RTCIceServer(
                urls=str(link["url"]).replace("://", ":"),
                username=link.get("username"),
                credential=link.get("credential"),
            )
            for link in links
        ]
    )


def _refuse(url: str, response: aiohttp.ClientResponse, text: str, protocol: Protocol) -> None:
    """Raises for every answer but 201."""
    if response.status == 201:
        return
    said = text.strip().splitlines()[0] if text.strip() else response.reason
    if response.status in (401, 403):
        raise InputError(f"{url} asks for another token ({response.status}): give it with --token")
    if response.status in (400, 405, 406, 415, 422):
        raise InputError(f"{url} is no {protocol} endpoint for H.264 ({response.status}: {said})")
    after = response.headers.get("Retry-After", "")
    raise SessionError(
        f"{url} says {response.status}: {said}", float(after) if after.isdecimal() else 0.0
    )


async def _set_answer(connection: RTCPeerConnection, url: str, sdp: str) -> None:
    try:
        await connection.setRemoteDescription(RTCSessionDescription(sdp, "answer"))
    except Exception as error:  # aiortc raises whatever it stumbles over
        raise InputError(f"{url} gives an answer that cannot be used: {error}") from error


def _janus(url: str, pin: str | None, on_track: OnTrack) -> Any:
    @asynccontextmanager
    async def session(http: aiohttp.ClientSession) -> AsyncIterator[RTCPeerConnection]:
        janus = _Janus(http, url)
        connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        connection.on("track", lambda track: on_track(track, connection))
        receive_h264(connection)
        try:
            await janus.open()
            offer = await janus.subscribe(pin)
            await connection.setRemoteDescription(RTCSessionDescription(offer, "offer"))
            await connection.setLocalDescription(await connection.createAnswer())
            await janus.start(connection.localDescription.sdp)
            listening = asyncio.ensure_future(janus.listen())
            try:
                yield connection
            finally:
                listening.cancel()
        finally:
            await connection.close()
            await janus.close()

    return session


class _Janus:
    """One session with the VideoRoom plugin (Janus' documentation, "RESTful, WebSockets… API")."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        parts = urlsplit(url)
        room = parse_qs(parts.query).get("room", [""])[0]
        if not room:
            raise InputError(f"{url} names no room: end it in ?room=1234")
        self._room: int | str = int(room) if room.isdecimal() else room
        scheme = parts.scheme.removeprefix("janus+")
        self._url = self._server = urlunsplit((scheme, parts.netloc, parts.path, "", ""))
        self._http = http
        self._handle = ""

    async def open(self) -> None:
        created = await self._ask(self._server, {"janus": "create"})
        self._url = f"{self._server}/{created['data']['id']}"
        attached = await self._ask(
            self._url, {"janus": "attach", "plugin": "janus.plugin.videoroom"}
        )
        self._handle = f"{self._url}/{attached['data']['id']}"

    async def subscribe(self, pin: str | None) -> str:
        """Subscribes to the first publisher with a picture; returns Janus' offer."""
        listed = await self._message({"request": "listparticipants", "room": self._room})
        publishers = [one for one in listed["participants"] if one.get("publisher")]
        if not publishers:
            raise SessionError(f"nobody publishes in room {self._room} of {self._server}")
        join = {
            "request": "join",
            "ptype": "subscriber",
            "room": self._room,
            "streams": [{"feed": publishers[0]["id"]}],
        }
        event = await self._event(await self._message(join | ({"pin": pin} if pin else {})))
        sdp: str = event["jsep"]["sdp"]
        return sdp

    async def start(self, answer: str) -> None:
        message = {"janus": "message", "body": {"request": "start", "room": self._room}}
        await self._ask(self._handle, message | {"jsep": {"type": "answer", "sdp": answer}})

    async def listen(self) -> None:
        """Long polls, which keep the session alive (it ends after 60 s without)."""
        while True:
            async with self._http.get(self._url, timeout=aiohttp.ClientTimeout(60)) as response:
                await response.read()

    async def close(self) -> None:
        with contextlib.suppress(aiohttp.ClientError, ReceiverError, TimeoutError):
            async with asyncio.timeout(1):
                await self._ask(self._url, {"janus": "destroy"})

    async def _message(self, body: dict[str, Any]) -> dict[str, Any]:
        answer = await self._ask(self._handle, {"janus": "message", "body": body})
        data: dict[str, Any] = answer.get("plugindata", {}).get("data", {})
        if "error" in data:
            raise SessionError(f"{self._server} says: {data['error']}")
        return data

    async def _event(self, data: dict[str, Any]) -> dict[str, Any]:
        """The plugin's asynchronous answer, which comes over a long poll."""
        while True:
            async with self._http.get(self._url) as response:
                event: dict[str, Any] = await response.json()
            data = event.get("plugindata", {}).get("data", {})
            if "error" in data:
                raise SessionError(f"{self._server} says: {data['error']}")
            if "jsep" in event:
                return event

    async def _ask(self, url: str, body: dict[str, Any]) -> dict[str, Any]:
        message = {"transaction": secrets.token_hex(6), **body}
        async with self._http.post(url, json=message) as response:
            try:
                answer: dict[str, Any] = await response.json(content_type=None)
            except ValueError as error:
                raise InputError(f"{url} is no Janus server: check host, port and path") from error
        if answer.get("janus") == "error":
            raise SessionError(f"{self._server} says: {answer['error']['reason']}")
        return answer
