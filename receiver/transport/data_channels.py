"""Limits on the data channels of a peer."""

import itertools
from collections.abc import Callable
from typing import Any

from aiortc import RTCDataChannel, RTCPeerConnection

from receiver.transport.aiortc_hooks import IncomingData, filter_incoming_data

MAX_UNWANTED_CHANNELS = 16
"""Unwanted data channels after which a peer is disconnected."""
MAX_FRAGMENTS = 2048
"""Chunks of unfinished messages in one stream. The largest message of a still has 14."""
MAX_STREAMS = 64
"""Streams of data channels. A call has one."""
LEAST_WINDOW = -64 * 1024
"""Bytes that a peer may still send, which an honest peer keeps at 0 or more."""


def guard_channels(
    connection: RTCPeerConnection,
    take: Callable[[RTCDataChannel], bool],
    end: Callable[[], Any],
) -> None:
    """Limits a peer's data channels in number and memory. An answerer calls it after its answer.

    A message without an end would otherwise fill the memory.

    Args:
        take: called with each channel that the peer opens; returns whether the channel is wanted.
            Unwanted channels are closed.
        end: called if the peer exceeds a limit.
    """
    if connection.sctp is None:
        return
    unwanted = itertools.count(1)

    def accept(data: IncomingData) -> bool:
        too_many = data.fragments > MAX_FRAGMENTS or data.streams > MAX_STREAMS
        if too_many or data.window < LEAST_WINDOW:
            end()
            return False
        return True

    def on_channel(channel: RTCDataChannel) -> None:
        if not take(channel):
            channel.close()
            if next(unwanted) > MAX_UNWANTED_CHANNELS:
                end()

    filter_incoming_data(connection.sctp, accept)
    connection.on("datachannel", on_channel)
