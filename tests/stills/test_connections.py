"""Stills between two real connections, and the limits on a peer's data channels."""

import asyncio
from types import SimpleNamespace

import av
import pytest
from aiortc import RTCPeerConnection

from receiver.enhance.faces.alignment import extract_crop, psnr_db
from receiver.stills.protocol import LABEL
from receiver.stills.receiver import StillReceiver
from receiver.stills.sender import PACE_BYTES, StillSender
from receiver.transport.data_channels import (
    LEAST_WINDOW,
    MAX_FRAGMENTS,
    MAX_STREAMS,
    guard_channels,
)
from tests.calls.peer import HERE
from tests.stills.channel import MIDDLE, until


async def connected(first: RTCPeerConnection, second: RTCPeerConnection, on_channel) -> None:
    """Offer and answer between two connections that have a data channel."""
    await first.setLocalDescription(await first.createOffer())
    await second.setRemoteDescription(first.localDescription)
    await second.setLocalDescription(await second.createAnswer())
    guard_channels(second, on_channel, lambda: asyncio.ensure_future(second.close()))
    await first.setRemoteDescription(second.localDescription)


class Call:
    """A sender and a receiver of stills, and a real connection between them."""

    def __init__(self, take) -> None:
        self.sending, self.receiving = RTCPeerConnection(HERE), RTCPeerConnection(HERE)
        self.channel = self.sending.createDataChannel(LABEL)
        self.sender = StillSender(self.channel, take)
        self.receiver: StillReceiver | None = None
        self.stills: list[tuple[av.VideoFrame, int]] = []
        self.failures: list[tuple[str, int]] = []

    def take(self, channel) -> bool:
        if channel.label != LABEL:
            return False
        self.receiver = StillReceiver(
            channel,
            lambda still: self.stills.append((still.picture, still.size_bytes)),
            lambda *failure: self.failures.append(failure),
        )
        return True

    async def __aenter__(self) -> "Call":
        await connected(self.sending, self.receiving, self.take)
        async with asyncio.timeout(10):
            while self.receiver is None:
                await asyncio.sleep(0.01)
        return self

    async def ask(self, max_bytes: int, kbps: float) -> None:
        async with asyncio.timeout(15):
            while not self.receiver.request(max_bytes, kbps):
                await asyncio.sleep(0.01)
            while self.receiver.waiting:
                await asyncio.sleep(0.01)

    async def __aexit__(self, *error) -> None:
        self.sender.close()
        self.receiver.close()
        await self.sending.close()
        await self.receiving.close()


class Paused:
    """asyncio that records how long the sender pauses, and pauses for a tenth of it."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __getattr__(self, name: str):
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await asyncio.sleep(seconds / 10)


async def test_a_still_is_sent_at_the_requested_rate(portrait, monkeypatch):
    paused = Paused()
    monkeypatch.setattr("receiver.stills.sender.asyncio", paused)
    async with Call(lambda: portrait[7]) as call:
        await call.ask(12_000, 80)
        ((frame, size),) = call.stills
        assert (frame.width, frame.height) == (640, 480)
        assert size <= 12_000
        assert psnr_db(extract_crop(frame, MIDDLE), extract_crop(portrait[7], MIDDLE)) > 33
        pieces = -(-size // PACE_BYTES)
        assert paused.seconds == pytest.approx([PACE_BYTES * 8 / 80_000] * (pieces - 1))
        assert pieces > 4
        await call.ask(40_000, 5000)
        assert len(call.stills) == 2
        assert call.receiver.counts.bytes == size + call.stills[1][1]
        assert (call.sender.sent, call.sender.refused) == (2, 0)


async def test_a_request_before_the_first_frame_is_refused():
    async with Call(lambda: None) as call:
        await call.ask(12_000, 80)
        assert call.failures == [("the sender refuses: 'there is no frame yet'", 0)]


async def test_a_connection_that_ends_during_a_still(portrait):
    async with Call(lambda: portrait[7]) as call:
        asking = asyncio.ensure_future(call.ask(30_000, 20))
        await asyncio.sleep(0.7)
        await call.sending.close()
        await asking
        assert [reason for reason, _ in call.failures] == ["the channel closed"]
        assert call.sender.sent == 0


async def test_unwanted_channels_are_closed_and_too_many_end_the_call():
    async with Call(lambda: None) as call:
        other = call.sending.createDataChannel("chat")
        await until(lambda: other.readyState == "closed")
        assert call.receiver.request(1000, 100)
        for number in range(20):
            call.sending.createDataChannel(f"chat {number}")
        await until(lambda: call.receiving.connectionState == "closed")


async def test_too_many_channels_end_the_call_even_if_all_are_wanted():
    first, second = RTCPeerConnection(HERE), RTCPeerConnection(HERE)
    channel = first.createDataChannel(LABEL)
    await connected(first, second, lambda _: True)
    await until(lambda: channel.readyState == "open")
    for number in range(MAX_STREAMS - 1):
        first.createDataChannel(f"chat {number}")
    await asyncio.sleep(0.5)
    assert second.connectionState == "connected"
    for number in range(3):
        first.createDataChannel(f"one more {number}")
    await until(lambda: second.connectionState == "closed")
    await first.close()


@pytest.mark.parametrize(
    ("fragment_bytes", "most_bytes", "most_fragments"),
    [
        (1200, (1 << 20) - LEAST_WINDOW, MAX_FRAGMENTS),  # the window is 1 MiB (RFC 9260)
        (100, 100 * (MAX_FRAGMENTS + 1), MAX_FRAGMENTS + 1),
    ],
)
async def test_a_message_without_an_end_ends_the_call(
    monkeypatch, fragment_bytes, most_bytes, most_fragments
):
    """Large fragments exceed the window first, small ones the number of fragments."""
    monkeypatch.setattr("aiortc.rtcsctptransport.USERDATA_MAX_LENGTH", fragment_bytes)
    async with Call(lambda: None) as call:
        await until(lambda: call.channel.readyState == "open")
        sctp = call.sending.sctp
        sctp._remote_max_message_size = 0
        transmit = sctp._send_chunk

        async def endless(chunk) -> None:
            chunk.flags &= ~0x01  # no fragment is the last one
            await transmit(chunk)

        monkeypatch.setattr(sctp, "_send_chunk", endless)
        for _ in range(5):
            call.channel.send(bytes(1_000_000))
        await until(lambda: call.receiving.connectionState == "closed")
        streams = call.receiving.sctp._inbound_streams.values()
        chunks = [chunk for one in streams for chunk in one.reassembly]
        assert sum(len(chunk.user_data) for chunk in chunks) <= most_bytes + fragment_bytes
        assert len(chunks) <= most_fragments


def test_a_connection_without_channels_needs_no_guard():
    guard_channels(SimpleNamespace(sctp=None), lambda _: False, lambda: None)
