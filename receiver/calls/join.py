"""Joins a call and restores its faces; joins it again if the connection is lost."""

import asyncio
import contextlib
import signal
from collections.abc import Callable
from typing import Any

import av
from aiortc import RTCConfiguration, RTCPeerConnection
from aiortc.mediastreams import MediaStreamTrack

from receiver.calls.rooms import Room
from receiver.enhance.enhancer import Enhancer
from receiver.errors import InputError
from receiver.media.files.recording import FileOutput
from receiver.signalling.client import SETUP_SECONDS, SessionError, shown
from receiver.signalling.connections import ConnectionState, read_to_the_end
from receiver.signalling.sessions import open_session
from receiver.waiting import BackgroundTasks, run_until

BACKOFF = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
"""Seconds before the next attempt, after one failure in a row, two, and so on."""

Show = Callable[[av.VideoFrame], Any]


class Joined:
    """A call that is joined again after every interruption until `stop` is called.

    Attributes:
        room: the room of the received stream; a `Server` can republish it.
        sessions: number of connections established so far.
        first_restored_s: seconds from `run` to the first restored frame; None before that frame.
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
        """Create it inside a running event loop.

        Args:
            say: called with a one-line message when the call begins, is interrupted or fails.
            shows: called with every frame, in the event loop; must return quickly.
            file: records every frame and the audio.
            stock_transport: whether to receive with aiortc's own transport, for comparison.
            seconds: longest wait for the server at any step.
        """
        here = RTCConfiguration(iceServers=[])
        self.room = Room("live", enhancer, here, stock_transport=stock_transport)
        self.sessions = 0
        self._url, self._token, self._say = url, token, say
        self._file, self._seconds = file, seconds
        self._stop = asyncio.Event()
        self._listening = BackgroundTasks()
        self.first_restored_s: float | None = None
        self.room.outputs.extend(shows)
        if file is not None:
            self.room.outputs.append(file.put)

    def stop(self) -> None:
        """Ends the call; `run` returns soon after."""
        self._stop.set()

    async def run(self) -> None:
        """Stays in the call until `stop`. Raises InputError if another attempt cannot help."""
        self.room.stats.restart_clock()
        try:
            await run_until(self._stop, self._stay())
        finally:
            self.first_restored_s = self.room.stats.first_restored_s
            await self.room.close()
            await asyncio.gather(*self._listening)

    async def _stay(self) -> None:
        """Joins the call, again after every interruption."""
        failures = 0
        while True:
            wait = 0.0
            try:
                await self._session()
                failures = 0
                self._say("the connection to the call was lost")
            except SessionError as error:
                if error.unreachable and not self.sessions:
                    raise InputError(f"{error}: check the address") from error
                wait = error.retry_after
                self._say(str(error))
            wait = max(wait, BACKOFF[min(failures, len(BACKOFF) - 1)])
            failures += 1
            await asyncio.sleep(wait)

    async def _session(self) -> None:
        """Keeps one connection until it is lost. Raises SessionError if there is none."""
        where = shown(self._url)
        async with open_session(
            self._url, self._token, self._on_track, seconds=self._seconds
        ) as connection:
            state = ConnectionState(connection)
            if not await state.is_established(self._seconds):
                raise SessionError(f"{where} answers, but no connection is possible: allow UDP")
            self.sessions += 1
            self._say(f"in the call at {where}")
            await state.gone.wait()

    def _on_track(self, track: MediaStreamTrack, connection: RTCPeerConnection) -> None:
        self.room.attach(track, connection)
        sound = self.room.sound() if track.kind == "audio" else None
        if sound is not None and self._file is not None:
            self._listening.start(read_to_the_end(sound, self._file.put))


async def join(joined: Joined) -> None:
    """Runs a call until Ctrl-C or SIGTERM."""
    loop = asyncio.get_running_loop()
    for how in (signal.SIGINT, signal.SIGTERM):
        # Windows has no handlers; with a window this is not the main thread, which then has them.
        with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
            loop.add_signal_handler(how, joined.stop)
    await joined.run()
