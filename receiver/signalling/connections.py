"""What calls in both directions need to know of an aiortc connection and its tracks."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from aiortc import RTCPeerConnection, RTCRtpReceiver
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from receiver.waiting import first

GONE = ("failed", "closed", "disconnected")
"""States of a connection from which aiortc never recovers."""


class ConnectionState:
    """The state of a connection as events that can be awaited.

    Attributes:
        connected: set once ICE and DTLS are established.
        gone: set once the connection is in one of the states `GONE`.
    """

    def __init__(self, connection: RTCPeerConnection) -> None:
        """Follows `connection` from now on. Create it inside a running event loop."""
        self.connected, self.gone = asyncio.Event(), asyncio.Event()
        self._connection = connection
        connection.on("connectionstatechange", self._update)
        self._update()

    async def is_established(self, seconds: float) -> bool:
        """Waits for the connection; returns False if it is gone or takes longer than `seconds`."""
        return await first(self.connected, self.gone, seconds=seconds) and not self.gone.is_set()

    def _update(self) -> None:
        state = self._connection.connectionState
        if state == "connected":
            self.connected.set()
        elif state in GONE:
            self.gone.set()


def receiver_of(track: MediaStreamTrack, connection: RTCPeerConnection) -> RTCRtpReceiver:
    """Returns the RTP receiver of a remote track. Raises ValueError if `connection` has none."""
    (receiver,) = (one for one in connection.getReceivers() if one.track is track)
    return receiver


async def packets_received(connection: RTCPeerConnection) -> int:
    """Returns how many packets of any kind except STUN a connection has received."""
    report = await connection.getStats()
    transports = [row for row in report.values() if row.type == "transport"]
    return sum(int(row.packetsReceived) for row in transports)


async def read_to_the_end(
    track: MediaStreamTrack, on_frame: Callable[[Any], Any] | None = None
) -> None:
    """Reads a track until it ends, and calls `on_frame`, if given, with each frame."""
    with contextlib.suppress(MediaStreamError):
        while True:
            frame = await track.recv()
            if on_frame is not None:
                on_frame(frame)
