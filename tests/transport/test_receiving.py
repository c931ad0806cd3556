"""The receiving side of transport: the end of a track."""

import asyncio

from aiortc import RTCPeerConnection
from aiortc.rtcrtpreceiver import StreamStatistics
from aiortc.rtp import RtcpByePacket

from receiver.transport.connections import prepare_aiortc


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
