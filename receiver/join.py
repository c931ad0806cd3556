"""Joins a call as its enhanced receiver, and stays in it when the connection breaks off."""

import asyncio
import contextlib
import signal
from collections.abc import Callable
from typing import Any

import av
from aiortc import RTCConfiguration, RTCPeerConnection
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from receiver.enhancer import Enhancer
from receiver.errors import InputError
from receiver.outputs import FileOutput
from receiver.rooms import GONE, Room
from receiver.signalling import SessionError, open_session

BACKOFF = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
"""Seconds before the next try, after one failure in a row, two, and so on."""

Show = Callable[[av.VideoFrame], Any]


class Joined:
    """A call that is joined again and again until it is ended.

    Attributes:
        room: holds what is received now; a `Server` can republish it.
        sessions: how often a connection came about.
        first_restored_s: seconds from `run` to the first restored frame, None before it.
    """

    def __init__(
        self,
        url: str,
        token: str | None,
        enhancer: Enhancer,
        *,
        say: Callable[[str], None],
        shows: list[Show],
        file: FileOutput | None = None,
        stock_transport: bool = False,
    ) -> None:
        """To be made inside a running event loop.

        Args:
            say: is told in a sentence when the call comes and goes.
            shows: are given every picture; must be quick.
            file: is given every picture and the sound.
            stock_transport: receive by aiortc's own transport, to compare with.
        """
        here = RTCConfiguration(iceServers=[])
        self.room = Room("live", enhancer, here, stock_transport=stock_transport)
        self.sessions = 0
        self._url, self._token, self._say = url, token, say
        self._file = file
        self._stop = asyncio.Event()
        self._listening: set[asyncio.Future[None]] = set()
        self.first_restored_s: float | None = None
        self.room.outputs.extend(shows)
        if file is not None:
            self.room.outputs.append(file.put)

    def stop(self) -> None:
        """Ends the call; `run` returns soon after."""
        self._stop.set()

    async def run(self) -> None:
        """Stays in the call until `stop`. Raises InputError for what another try cannot mend."""
        failures = 0
        self.room.stats.restart_clock()
        try:
            while not self._stop.is_set():
                wait = 0.0
                try:
                    await self._session()
                    failures = 0
                    self._say("the call broke off")
                except SessionError as error:
                    if error.unreachable and not self.sessions:
                        raise InputError(f"{error}: check the address") from error
                    wait = error.retry_after
                    self._say(str(error))
                wait = max(wait, BACKOFF[min(failures, len(BACKOFF) - 1)])
                failures += 1
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), wait)
        finally:
            self.first_restored_s = self.room.stats.first_restored_s
            await self.room.close()
            await asyncio.gather(*self._listening)

    async def _session(self) -> None:
        """One connection, until it breaks off or the call is to end."""
        gone = asyncio.Event()
        async with open_session(self._url, self._token, self._on_track) as connection:
            connection.on("connectionstatechange", lambda: self._check(connection, gone))
            self._check(connection, gone)
            self.sessions += 1
            waits = [asyncio.ensure_future(event.wait()) for event in (gone, self._stop)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()

    def _check(self, connection: RTCPeerConnection, gone: asyncio.Event) -> None:
        if connection.connectionState == "connected":
            self._say(f"in the call at {self._url}")
        elif connection.connectionState in GONE:
            gone.set()

    def _on_track(self, track: MediaStreamTrack, connection: RTCPeerConnection) -> None:
        self.room.attach(track, connection)
        sound = self.room.sound() if track.kind == "audio" else None
        if sound is not None and self._file is not None:
            task = asyncio.ensure_future(self._listen(sound, self._file))
            self._listening.add(task)
            task.add_done_callback(self._listening.discard)

    async def _listen(self, sound: MediaStreamTrack, file: FileOutput) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                file.put(await sound.recv())


async def join(joined: Joined) -> None:
    """Runs a call until Ctrl-C or SIGTERM."""
    loop = asyncio.get_running_loop()
    for how in (signal.SIGINT, signal.SIGTERM):
        # Windows has no handlers; beside a window this is not the main thread, which then has them.
        with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
            loop.add_signal_handler(how, joined.stop)
    await joined.run()
