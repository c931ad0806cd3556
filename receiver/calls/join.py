"""Joins a call as its enhanced receiver, and stays in it when the connection breaks off."""

import asyncio
import contextlib
import signal
from collections.abc import Callable
from typing import Any

import av
from aiortc import RTCConfiguration, RTCPeerConnection
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from receiver.calls.rooms import GONE, Room
from receiver.enhance.enhancer import Enhancer
from receiver.errors import InputError
from receiver.media.files.recording import FileOutput
from receiver.signalling.client import SETUP_SECONDS, SessionError, shown
from receiver.signalling.sessions import open_session
from receiver.waiting import first, run_until

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
        seconds: float = SETUP_SECONDS,
    ) -> None:
        """To be made inside a running event loop.

        Args:
            say: is told in a sentence when the call comes and goes.
            shows: are given every picture; must be quick.
            file: is given every picture and the sound.
            stock_transport: receive by aiortc's own transport, to compare with.
            seconds: longest wait for the other side at any step.
        """
        here = RTCConfiguration(iceServers=[])
        self.room = Room("live", enhancer, here, stock_transport=stock_transport)
        self.sessions = 0
        self._url, self._token, self._say = url, token, say
        self._file, self._seconds = file, seconds
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
        self.room.stats.restart_clock()
        try:
            await run_until(self._stop, self._stay())
        finally:
            self.first_restored_s = self.room.stats.first_restored_s
            await self.room.close()
            await asyncio.gather(*self._listening)

    async def _stay(self) -> None:
        """Joins the call again and again."""
        failures = 0
        while True:
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
            await asyncio.sleep(wait)

    async def _session(self) -> None:
        """One connection, until it breaks off. Raises SessionError if none comes about."""
        connected, gone = asyncio.Event(), asyncio.Event()

        def check() -> None:
            if connection.connectionState == "connected":
                connected.set()
            elif connection.connectionState in GONE:
                gone.set()

        where = shown(self._url)
        async with open_session(
            self._url, self._token, self._on_track, seconds=self._seconds
        ) as connection:
            connection.on("connectionstatechange", check)
            check()
            if not await first(connected, gone, seconds=self._seconds) or gone.is_set():
                raise SessionError(f"{where} answers but no connection comes about: allow UDP")
            self.sessions += 1
            self._say(f"in the call at {where}")
            await gone.wait()

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
