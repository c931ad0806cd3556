"""Publishes a clip or a camera over WHIP, and answers requests for stills."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from aiortc import RTCPeerConnection

from receiver.errors import InputError, ReceiverError
from receiver.media.encoding import Encoding
from receiver.sending.encoded_track import EncodedTrack
from receiver.sending.sources import Source
from receiver.signalling.client import SETUP_SECONDS, SessionError, shown
from receiver.signalling.connections import ConnectionState
from receiver.signalling.sessions import open_publishing
from receiver.stills.protocol import LABEL
from receiver.stills.sender import StillSender
from receiver.transport.aiortc_hooks import on_keyframe_request
from receiver.transport.connections import h264_codecs, prepare_aiortc
from receiver.transport.data_channels import guard_channels
from receiver.waiting import first, run_until

ON_REQUEST = 1 << 20
"""Frames from one I-frame without a request to the next: ten hours at 30 fps."""


@dataclass(frozen=True)
class SendResult:
    """Figures of a call that has ended; `kbps` is the rate of the video alone."""

    seconds: float
    frames: int
    kbps: float
    stills: int
    stills_refused: int


class Sending:
    """Sends a source's video and sound in one call, and stills on request.

    Attributes:
        video: the encoded video.
        stills: answers requests for stills; None without a channel for them.
    """

    def __init__(self, source: Source, encoding: Encoding, *, stills: bool = True) -> None:
        """Must be called inside a running event loop."""
        self.video = EncodedTrack(source, encoding, scene_cuts=False)
        self.stills: StillSender | None = None
        self._has_stills = stills
        self._began = 0.0

    def prepare(self, connection: RTCPeerConnection) -> None:
        """Adds the tracks and the data channel to a connection, before its offer."""
        rtp_sender = connection.addTrack(self.video)
        on_keyframe_request(rtp_sender, self.video.request_keyframe)
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
        """Starts sending."""
        self._began = time.monotonic()
        self.video.begin()

    def close(self) -> None:
        """Ends every track and thread."""
        if self.stills is not None:
            self.stills.close()
        self.video.stop()

    def result(self) -> SendResult:
        """Returns the figures so far."""
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
    on_start: Callable[[str], None],
    *,
    stills: bool = True,
) -> SendResult:
    """Sends `source` to the WHIP endpoint at `url` until Ctrl-C or SIGTERM.

    Args:
        kbps: rate of the video in kbit/s.
        on_start: called once with a one-line message.
        stills: whether to offer the data channel for stills.

    Raises:
        InputError: if the address is not a WHIP endpoint, needs another token or does not answer.
        ReceiverError: if no connection is established, or it is lost.
    """
    prepare_aiortc()
    sending = Sending(source, Encoding(kbps=kbps, keyframe_every=ON_REQUEST), stills=stills)
    stop = asyncio.Event()
    for how in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows
            asyncio.get_running_loop().add_signal_handler(how, stop.set)
    try:
        # Ctrl-C cancels the call wherever it waits; its clean-up ends the session at the server.
        await run_until(stop, _call(sending, url, token, on_start))
    except SessionError as error:
        if error.unreachable:
            raise InputError(f"{error}: check the address") from error
        raise
    finally:
        sending.close()
    return sending.result()


async def _call(
    sending: Sending, url: str, token: str | None, on_start: Callable[[str], None]
) -> None:
    """Sends until it is cancelled or the source ends. Raises the errors of `send`."""
    where = shown(url)
    async with open_publishing(url, token, sending.prepare) as connection:
        state = ConnectionState(connection)
        guard_channels(connection, lambda _: False, state.gone.set)
        if not await state.is_established(SETUP_SECONDS):
            raise ReceiverError(
                f"{where} answers, but no connection is possible: allow UDP, or try --no-stills"
            )
        on_start(f"sending to {where}")
        sending.begin()
        await first(state.gone, sending.video.ended)
        # aiortc ends the track before it reports that the connection has ended.
        if await first(state.gone, seconds=1.0):
            raise ReceiverError(f"{where} ended the call, or can no longer be reached: send again")
