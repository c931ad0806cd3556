"""Publishes a clip or a camera over WHIP, and shows in full detail what it is asked stills of."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from aiortc import RTCPeerConnection

from receiver.errors import InputError, ReceiverError
from receiver.media.encoding import Encoding
from receiver.sending.tracks import EncodedTrack, Source
from receiver.signalling.client import SETUP_SECONDS, SessionError, shown
from receiver.signalling.connections import ConnectionState
from receiver.signalling.sessions import open_publishing
from receiver.stills.protocol import LABEL, StillSender, guard_channels
from receiver.transport.aiortc_hooks import h264_codecs, prepare_aiortc
from receiver.waiting import first, run_until

ON_REQUEST = 1 << 20
"""Frames from one key frame to the next that nobody asked for: ten hours at 30 fps."""


@dataclass(frozen=True)
class SendResult:
    """Figures of what was sent; kbps is of the video alone."""

    seconds: float
    frames: int
    kbps: float
    stills: int
    stills_refused: int


class Sending:
    """What one call sends: a source's picture and sound, and stills when asked.

    Attributes:
        video: the encoded picture.
        stills: answers requests for stills, None if there is no channel for them.
    """

    def __init__(self, source: Source, encoding: Encoding, *, stills: bool = True) -> None:
        """To be made inside a running event loop."""
        self.video = EncodedTrack(source, encoding, scene_cuts=False)
        self.stills: StillSender | None = None
        self._has_stills = stills
        self._began = 0.0

    def prepare(self, connection: RTCPeerConnection) -> None:
        """Gives a connection, before its offer, all that is to be sent."""
        rtp_sender = connection.addTrack(self.video)
        # aiortc has no public way to learn of a PLI; without this it would go to its own encoder.
        setattr(rtp_sender, "_send_keyframe", self.video.request_keyframe)  # noqa: B010
        transceiver = connection.getTransceivers()[0]
        transceiver.direction = "sendonly"
        transceiver.setCodecPreferences(h264_codecs())
        if self.video.sound is not None:
            connection.addTrack(self.video.sound)
            connection.getTransceivers()[1].direction = "sendonly"
        if self._has_stills:
            channel = connection.createDataChannel(LABEL)
            self.stills = StillSender(channel, lambda: self.video.newest)

    def begin(self) -> None:
        """Lets the first frame go."""
        self._began = time.monotonic()
        self.video.begin()

    def close(self) -> None:
        """Ends every track and thread."""
        if self.stills is not None:
            self.stills.close()
        self.video.stop()

    def result(self) -> SendResult:
        """The figures so far."""
        seconds = time.monotonic() - self._began if self._began else 0.0
        return SendResult(
            seconds=round(seconds, 2),
            frames=self.video.frames_sent,
            kbps=round(self.video.bytes_sent * 8 / 1000 / max(seconds, 1e-3), 1),
            stills=self.stills.sent if self.stills else 0,
            stills_refused=self.stills.refused if self.stills else 0,
        )


async def send(
    source: Source,
    kbps: float,
    url: str,
    token: str | None,
    say: Callable[[str], None],
    *,
    stills: bool = True,
) -> SendResult:
    """Sends `source` to the WHIP endpoint at `url` until Ctrl-C or SIGTERM.

    Args:
        kbps: of the video, in kbit/s.
        say: is told in a sentence when the call has begun.
        stills: whether to offer the data channel for them.

    Raises:
        InputError: for an address that is no WHIP endpoint, asks for another token or is silent.
        ReceiverError: if there is no connection, or it breaks off.
    """
    prepare_aiortc()
    sending = Sending(source, Encoding(kbps=kbps, keyframe_every=ON_REQUEST), stills=stills)
    stop = asyncio.Event()
    for how in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows
            asyncio.get_running_loop().add_signal_handler(how, stop.set)
    try:
        # Ctrl-C cancels whatever the call waits for; leaving it ends the session at the other side.
        await run_until(stop, _call(sending, url, token, say))
    except SessionError as error:
        if error.unreachable:
            raise InputError(f"{error}: check the address") from error
        raise
    finally:
        sending.close()
    return sending.result()


async def _call(sending: Sending, url: str, token: str | None, say: Callable[[str], None]) -> None:
    """Sends until it is cancelled or the source ends. Raises as `send`."""
    where = shown(url)
    async with open_publishing(url, token, sending.prepare) as connection:
        state = ConnectionState(connection)
        guard_channels(connection, lambda _: False, state.gone.set)
        if not await state.is_established(SETUP_SECONDS):
            raise ReceiverError(
                f"{where} answers, but no connection is possible: allow UDP, or try --no-stills"
            )
        say(f"sending to {where}")
        sending.begin()
        await first(state.gone, sending.video.ended)
        # aiortc ends the track before it says that the connection has ended.
        if await first(state.gone, seconds=1.0):
            raise ReceiverError(
                f"{where} ended the call, or cannot be reached any more: send again"
            )
