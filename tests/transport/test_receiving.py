"""The receiving side of transport: the end of a track."""

import asyncio
import threading

import pytest
from aiortc import RTCPeerConnection
from aiortc.rtcrtpreceiver import StreamStatistics
from aiortc.rtp import RtcpByePacket

from receiver.transport.connections import prepare_aiortc
from tests.transport.test_assembly import stream


async def test_a_bye_ends_the_track_unless_packets_still_arrive(monkeypatch):
    """RFC 3550, section 8.2: a sender that changes its SSRC sends a BYE for the old one."""
    monkeypatch.setattr("receiver.transport.receiving.GOODBYE_SECONDS", 0.1)
    prepare_aiortc()
    connection, ends = RTCPeerConnection(), []
    receiver = connection.addTransceiver("video", direction="recvonly").receiver
    receiver.stop_decoder = lambda: ends.append("decoder")
    stream = receiver.remote_streams[7] = StreamStatistics(90000)
    receiver.rtx_ssrc[8] = 7

    async def after_bye_of(ssrc: int, packets: int) -> list[str]:
        await receiver._handle_rtcp_packet(RtcpByePacket(sources=[ssrc]))
        await asyncio.sleep(0)  # the wait starts
        stream.packets_received += packets
        await asyncio.sleep(0.5)
        return ends

    assert await after_bye_of(7, packets=1) == []
    assert await after_bye_of(8, packets=0) == []  # of retransmissions alone
    assert await after_bye_of(7, packets=0) == ["decoder"]
    await connection.close()


@pytest.fixture
async def asking(monkeypatch):
    """A receiver with a decoder's thread, and the SSRCs of which it requests an I-frame."""
    monkeypatch.setattr("receiver.transport.assembly.PACKET_WAIT", (0.05, 0.1))
    monkeypatch.setattr("receiver.transport.receiving.KEYFRAME_REQUEST_EVERY", 60.0)
    prepare_aiortc()
    connection, asked = RTCPeerConnection(), []
    receiver = connection.addTransceiver("video", direction="recvonly").receiver
    receiver.decoder_thread = threading.current_thread()  # says that the call has begun

    async def send_pli(ssrc: int) -> None:
        asked.append(ssrc)

    async def send_nack(ssrc: int, lost: list[int]) -> None:
        pass

    receiver.send_pli, receiver.send_nack = send_pli, send_nack
    yield receiver, asked
    receiver.decoder_thread = None
    await connection.close()


async def test_an_i_frame_is_requested_though_no_packet_follows_a_hole(asking):
    """A sender that pauses after a loss leaves nothing to react to but the time."""
    receiver, asked = asking
    packets = stream(3)
    for packet in [*packets[:4], *packets[5:]]:
        assert receiver.add(packet) == (False, None)
    assert asked == []
    async with asyncio.timeout(10):
        while not asked:
            await asyncio.sleep(0.01)
    assert asked == [1]  # the packets' SSRC
    assert receiver.transport_stats()["holes"] == 1


async def test_an_i_frame_is_requested_by_the_timer_or_by_a_packet_not_by_both(asking):
    receiver, asked = asking
    packets = stream(4)
    for packet in [*packets[:4], *packets[5:9]]:
        receiver.add(packet)
    async with asyncio.timeout(10):
        while not asked:
            await asyncio.sleep(0.01)
    assert [receiver.add(packet)[0] for packet in packets[9:]] == [False] * 3
    assert asked == [1]
