"""Uses Janus' VideoRoom plugin over its HTTP API (Janus' documentation: "RESTful, WebSockets…")."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

from aiortc import RTCConfiguration, RTCPeerConnection
from aiortc.mediastreams import MediaStreamTrack
from yarl import URL

from receiver.errors import InputError
from receiver.signalling.client import LEAVE_SECONDS, MOST_JSON, Answer, Client, SessionError, shown
from receiver.signalling.negotiation import ClosableConnection, accept, checked_offer
from receiver.text import printable
from receiver.transport.connections import receive_h264
from receiver.waiting import finished, stopped

POLL_SECONDS = 60.0
"""Longest wait for a long poll's answer. Janus answers after 30 s, and ends a session that is not
polled for 60 s."""
POLL_PAUSE = 0.1
"""Seconds from one long poll to the next, so that a server that answers at once is not flooded."""
POLLS_FAIL = 5
"""Long polls in a row without an answer after which the session is lost."""
FAIL_PAUSE = 2.0
"""Seconds from a long poll without an answer to the next one."""
MOST_ID = 1 << 64
"""Janus' ids are smaller."""
MOST_NAME = 256
"""Characters of a feed's or a stream's name."""

OnTrack = Callable[[MediaStreamTrack, RTCPeerConnection], None]
Data = dict[str, Any]


class Janus:
    """One session with the VideoRoom plugin.

    Every method raises SessionError for an answer that is malformed or reports an error.
    """

    def __init__(self, url: str, pin: str | None, seconds: float) -> None:
        """Raises InputError for a URL without a room or a host.

        Args:
            url: janus+http(s)://HOST:PORT/janus?room=N.
            pin: PIN of the room, if it has one; sent to this server only: redirects are refused.
            seconds: longest wait for the server at any step.
        """
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise InputError(f"{shown(url)} is not a valid address: {printable(error)}") from error
        room = parse_qs(parts.query).get("room", [""])[0]
        if not room:
            raise InputError(f"{shown(url)} has no room: end it in ?room=1234")
        self._room: int | str = int(room) if room.isdecimal() and len(room) < 20 else room
        scheme = parts.scheme.removeprefix("janus+")
        self._client = Client(urlunsplit((scheme, parts.netloc, parts.path, "", "")), None, seconds)
        self._pin = {"pin": pin} if pin else {}
        self._seconds = seconds
        self._session = self._handle = self._client.home
        self._lost: SessionError | None = None

    @asynccontextmanager
    async def joined(self, on_track: OnTrack) -> AsyncIterator[RTCPeerConnection]:
        """Receives the room's first publisher; leaving the context ends the session.

        If the session is lost before, the connection is closed, and leaving raises SessionError.
        """
        async with self._client.opened():
            connection = ClosableConnection(RTCConfiguration(iceServers=[]))
            connection.on("track", lambda track: on_track(track, connection))
            receive_h264(connection)
            listening = None
            try:
                await self._subscribed(connection)
                listening = asyncio.ensure_future(self._listen(connection))
                yield connection
            finally:
                if listening is not None:
                    await stopped(listening)
                await connection.close()
                await self.close()
            if self._lost is not None:
                raise self._lost

    async def open(self) -> None:
        """Creates a session and a handle of the plugin."""
        await finished(self._create(), LEAVE_SECONDS)
        await self._attach()

    async def close(self) -> None:
        """Ends the session, if there is one, with all its handles."""
        if self._session != self._client.home:
            with contextlib.suppress(SessionError):
                await self._ask(self._session, {"janus": "destroy"}, LEAVE_SECONDS)

    async def _subscribed(self, connection: RTCPeerConnection) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                await self._negotiated(connection)
        except TimeoutError as error:
            raise SessionError(f"{self._client} does not answer in time") from error

    async def _negotiated(self, connection: RTCPeerConnection) -> None:
        await self.open()
        offer = await self.subscribe()
        try:
            await accept(connection, checked_offer(offer))
        except ValueError as error:
            why = printable(error)
            raise SessionError(f"the offer of {self._client} cannot be used: {why}") from error
        await self.start(connection.localDescription.sdp)

    async def _create(self) -> None:
        answer = await self._post(self._client.home, {"janus": "create"})
        try:
            created = answer.json()
        except ValueError as error:
            raise InputError(
                f"{self._client} is not a Janus server: check host, port and path"
            ) from error
        self._session = self._client.home / str(self._id(self._checked(created)))

    async def _attach(self) -> None:
        plugin = {"janus": "attach", "plugin": "janus.plugin.videoroom"}
        attached = await self._ask(self._session, plugin)
        self._handle = self._session / str(self._id(attached))

    async def subscribe(self) -> str:
        """Subscribes to the first publisher's first video and audio; returns Janus' offer."""
        listed = await self.message({"request": "listparticipants", "room": self._room})
        feed = self._first_publisher(listed)
        event = await self._join([{"feed": feed}])
        chosen = self._choose(event, feed)
        if chosen is not None:
            # A handle subscribes only once; a new one saves a second negotiation.
            await self._ask(self._handle, {"janus": "detach"})
            await self._attach()
            event = await self._join(chosen)
        return self._description(event)

    async def start(self, answer: str) -> None:
        """Answers Janus' offer."""
        message = {"janus": "message", "body": {"request": "start", "room": self._room}}
        await self._ask(self._handle, message | {"jsep": {"type": "answer", "sdp": answer}})

    async def message(self, body: Data, **more: Any) -> Data:
        """Sends a message to the plugin; returns its answer's data, empty if that follows later."""
        answer = await self._ask(self._handle, {"janus": "message", "body": body, **more})
        return self._data(answer)

    async def event(self) -> Data:
        """Returns the plugin's next event with a description, from a long poll."""
        while True:
            event = await self._poll(self._seconds)
            self._data(event)
            if "jsep" in event:
                return event
            await asyncio.sleep(POLL_PAUSE)

    async def _join(self, streams: list[Data]) -> Data:
        join = {"request": "join", "ptype": "subscriber", "room": self._room, "streams": streams}
        await self.message(join | self._pin)
        return await self.event()

    def _first_publisher(self, listed: Data) -> int | str:
        """Returns the id of the first publisher: a number or a name, depending on the room."""
        participants = listed.get("participants")
        if not isinstance(participants, list):
            raise self._malformed("no list of participants")
        for one in participants:
            if isinstance(one, dict) and one.get("publisher") is True:
                return self._feed(one.get("id"))
        raise SessionError(f"room {printable(self._room)} of {self._client} has no publisher")

    def _choose(self, event: Data, feed: int | str) -> list[Data] | None:
        """Returns the streams to subscribe to if the feed has more than one of a kind, else None.

        These are the first active H.264 video and the first active audio. Janus before 1.0 lists no
        streams: there a feed has one of each kind.
        """
        streams = self._data(event).get("streams", [])
        if not isinstance(streams, list) or not all(isinstance(one, dict) for one in streams):
            raise self._malformed("no list of streams")
        kinds = [one.get("type") for one in streams]
        if kinds.count("video") <= 1 and kinds.count("audio") <= 1 and "data" not in kinds:
            return None
        chosen: dict[str, Data] = {}
        for one in streams:
            kind, mid = one.get("type"), one.get("feed_mid")
            is_usable = kind == "audio" or str(one.get("codec", "h264")).lower() == "h264"
            if kind in ("audio", "video") and is_usable and one.get("active", True):
                if not isinstance(mid, str) or not 0 < len(mid) <= MOST_NAME:
                    raise self._malformed("a stream without a mid")
                chosen.setdefault(kind, {"feed": feed, "mid": mid})
        if "video" not in chosen:
            raise SessionError(f"the publisher at {self._client} sends no H.264")
        return list(chosen.values())

    def _description(self, event: Data) -> str:
        jsep = event.get("jsep")
        sdp = jsep.get("sdp") if isinstance(jsep, dict) else None
        if not isinstance(sdp, str):
            raise self._malformed("no offer")
        return sdp

    async def _listen(self, connection: RTCPeerConnection) -> None:
        """Polls, which keeps the session alive; closes the connection once the session is lost."""
        failed = 0
        try:
            while failed < POLLS_FAIL:
                failed = 0 if await self._is_alive() else failed + 1
                await asyncio.sleep(FAIL_PAUSE if failed else POLL_PAUSE)
            raise SessionError(f"{self._client} does not answer any more")
        except SessionError as error:
            self._lost = error
            await connection.close()

    async def _is_alive(self) -> bool:
        """Polls once; returns whether there was an answer. Raises SessionError if it is lost."""
        try:
            event = await self._poll(POLL_SECONDS)
        except SessionError as error:
            if not error.unreachable:
                raise
            return False
        if event.get("janus") == "timeout":
            raise SessionError(f"{self._client} ended the session: it had timed out")
        return True

    async def _poll(self, seconds: float) -> Data:
        answer = await self._client.ask("GET", self._session, most=MOST_JSON, seconds=seconds)
        return self._read(answer)

    async def _ask(self, url: URL, body: Data, seconds: float | None = None) -> Data:
        return self._read(await self._post(url, body, seconds))

    async def _post(self, url: URL, body: Data, seconds: float | None = None) -> Answer:
        message = {"transaction": secrets.token_hex(6), **body}
        return await self._client.ask("POST", url, most=MOST_JSON, message=message, seconds=seconds)

    def _read(self, answer: Answer) -> Data:
        try:
            return self._checked(answer.json())
        except ValueError as error:
            raise self._malformed(printable(error)) from error

    def _checked(self, answer: Data) -> Data:
        """Returns the answer. Raises SessionError if it reports an error."""
        if answer.get("janus") == "error":
            error = answer.get("error")
            reason = error.get("reason") if isinstance(error, dict) else None
            raise self._says(reason)
        return answer

    def _data(self, answer: Data) -> Data:
        """Returns the plugin's data in an answer or an event, empty without any."""
        plugin = answer.get("plugindata", {})
        data = plugin.get("data", {}) if isinstance(plugin, dict) else None
        if not isinstance(data, dict):
            raise self._malformed("no data of the plugin")
        if "error" in data:
            raise self._says(data["error"])
        return data

    def _id(self, answer: Data) -> int:
        data = answer.get("data")
        number = data.get("id") if isinstance(data, dict) else None
        if type(number) is not int or not 0 < number < MOST_ID:
            raise self._malformed("no id")
        return number

    def _feed(self, value: Any) -> int | str:
        if type(value) is int and 0 <= value < MOST_ID:
            return value
        if isinstance(value, str) and 0 < len(value) <= MOST_NAME:
            return value
        raise self._malformed("a publisher without an id")

    def _says(self, reason: Any) -> SessionError:
        text = printable(reason) if isinstance(reason, str) else "an error without a reason"
        return SessionError(f"{self._client} reports: {text}")

    def _malformed(self, what: str) -> SessionError:
        return SessionError(f"the answer of {self._client} is malformed: {what}")
