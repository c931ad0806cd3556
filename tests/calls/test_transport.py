"""Real calls that lose packets: between SRTP and the receiver, by their numbers."""

import asyncio
import copy
import random
import struct
import time
from fractions import Fraction

import pytest
from aiortc import RTCPeerConnection
from aiortc.jitterbuffer import JitterFrame
from aiortc.rtp import RTCP_RTPFB_NACK, RTP_HISTORY_SIZE, RtcpRtpfbPacket, RtpPacket

import receiver.transport.sending
from receiver.commands.loopback import connect
from receiver.media.encoding import Encoding
from receiver.media.frame import DecodedFrame
from receiver.sending.encoded_track import EncodedTrack
from receiver.transport.connections import prepare_aiortc
from receiver.transport.receiving import DECODER_BACKLOG
from receiver.transport.sending import RESEND_EVERY, RESENDS_AT_ONCE
from tests.calls.peer import portrait
from tests.conftest import plain_frame

RATE = 30


class LossyCall:
    """A call within this process whose video packets `lose(number, is_repair)` may take away.

    Numbers count the packets as they were first sent, from nought; repairs bear the number of the
    packet that they repeat.
    """

    def __init__(self, lose, *, stock=False):
        self._lose, self._stock = lose, stock
        self.frames = []

    async def __aenter__(self):
        prepare_aiortc()
        self.sender = EncodedTrack(portrait(), Encoding(kbps=150, keyframe_every=10_000))
        self.sending, self.receiving = RTCPeerConnection(), RTCPeerConnection()
        tracks = []
        self.receiving.on("track", tracks.append)
        await connect(self.sending, self.receiving, self.sender)
        (self.receiver,) = self.receiving.getReceivers()
        if self._stock:
            self.receiver.use_stock_transport()
        transport = self.receiver.transport
        handle = transport._handle_rtp_data
        first, media = None, None

        async def lossy(data, arrival_time_ms):
            nonlocal first, media
            packet = RtpPacket.parse(data, transport._rtp_header_extensions_map)
            if first is None:
                first, media = packet.sequence_number, packet.ssrc
            is_repair = packet.ssrc != media
            number = packet.sequence_number
            if is_repair:
                if len(packet.payload) < 2:
                    return
                number = int.from_bytes(packet.payload[:2], "big")  # RFC 4588, section 4
            if not self._lose((number - first) % (1 << 16), is_repair):
                await handle(data, arrival_time_ms)

        transport._handle_rtp_data = lossy
        self._reading = asyncio.ensure_future(self._read(tracks[0]))
        self.sender.begin()
        return self

    async def __aexit__(self, *_):
        self.sender.stop()
        await asyncio.gather(self.sending.close(), self.receiving.close())
        self._reading.cancel()

    async def _read(self, track):
        while True:
            self.frames.append(DecodedFrame.from_video(await track.recv()))

    async def until(self, count):
        """Waits for `count` frames."""
        async with asyncio.timeout(20):
            while len(self.frames) < count:
                await asyncio.sleep(0.02)


async def test_what_is_lost_on_the_way_comes_again_and_no_frame_is_missing():
    chance = random.Random(7)
    async with LossyCall(lambda number, repair: number > 3 and chance.random() < 0.1) as call:
        await call.until(120)
        stats = call.receiver.transport_stats()
    assert [frame.video.pts for frame in call.frames] == [3000 * n for n in range(len(call.frames))]
    assert not any(frame.damaged for frame in call.frames)
    assert stats["recovered"] > 5
    assert stats["holes"] == 0
    assert 0 < stats["round_trip_ms"] < 500


async def test_one_packet_that_never_comes_is_a_short_gap_and_a_key_frame():
    async with LossyCall(lambda number, repair: number == 45) as call:
        await call.until(120)
        stats = call.receiver.transport_stats()
    assert stats["holes"] == 1
    assert stats["asked_for"] > 2
    (healed,) = [n for n, frame in enumerate(call.frames) if frame.is_keyframe and n > 0]
    damaged = [n for n, frame in enumerate(call.frames) if frame.damaged]
    assert damaged == list(range(damaged[0], healed)) if damaged else True
    numbers = [frame.video.pts // 3000 for frame in call.frames]
    assert len(range(numbers[0], numbers[-1] + 1)) - len(numbers) in (1, 2)


async def test_aiortcs_own_transport_can_be_compared_with():
    """It waits for the packet until 512 others have come: for seventeen seconds."""
    async with LossyCall(lambda number, repair: number == 45, stock=True) as call:
        await call.until(20)
        await asyncio.sleep(3)
        assert call.receiver.transport_stats() is None
        assert len(call.frames) < 60


async def test_what_waits_for_the_decoder_is_dropped_at_the_end():
    """The event loop waits for the decoder's thread: for 90 frames, that could be seconds."""
    frames = [plain_frame(1280, 720) for _ in range(DECODER_BACKLOG)]
    units = list(encoded(frames))
    async with LossyCall(lambda number, repair: False) as call:
        await call.until(3)
        codec = next(iter(call.receiver.codecs.values()))
        before = len(call.frames)
        for number, data in enumerate(units):
            unit = JitterFrame(data=data, timestamp=3000 * number)
            call.receiver.decoder_queue.put((codec, unit))
        await call.receiver.stop()
        await asyncio.sleep(0.5)
        assert len(call.frames) - before < DECODER_BACKLOG // 2


def encoded(frames):
    """Yields each frame as an I-frame's access unit."""
    encoder = Encoding(crf=30, keyframe_every=1).open(1280, 720, Fraction(RATE))
    for number, frame in enumerate(frames):
        frame.pts, frame.time_base = 3000 * number, encoder.time_base
        yield b"".join(bytes(packet) for packet in encoder.encode(frame))


async def test_a_flood_of_nacks_is_not_answered_with_one_of_packets():
    """17 packets named 300 times, 5 times a second, had 30 MB/s resent."""
    async with LossyCall(lambda number, repair: False) as call:
        await call.until(30)
        (sender,) = call.sending.getSenders()
        before, began = await bytes_sent(call.sending), time.monotonic()
        for _ in range(10):
            await send_nacks(call, sender, times=300)
            await asyncio.sleep(0.2)
        passed = time.monotonic() - began
        sent = await bytes_sent(call.sending) - before
        newest = len(call.frames)
        await call.until(newest + 10)  # and the call goes on
    # The video's own 150 kbit/s, and 17 packets for each NACK.
    assert sent < 2 * passed * 150_000 / 8 + 10 * 17 * 1300


async def send_nacks(call, sender, times):
    """Sends one RTCP packet of the viewer that names 17 packets, `times` times each."""
    history = sender.rtp_history
    newest = max(packet.sequence_number for packet in history.values())
    named = struct.pack("!HH", newest - 16, 0xFFFF) * times  # RFC 4585, section 6.2.1
    header = struct.pack("!BBHII", 0x80 | RTCP_RTPFB_NACK, 205, 2 + times, 1, sender._ssrc)
    await call.receiver.transport._send_rtp(header + named)


async def bytes_sent(connection):
    report = await connection.getStats()
    return sum(row.bytesSent for row in report.values() if row.type == "transport")


async def resent_by(sender, numbers):
    """Returns how many of the packets a NACK brings."""
    before = (await sender.getStats()).copy()
    nack = RtcpRtpfbPacket(fmt=RTCP_RTPFB_NACK, ssrc=1, media_ssrc=sender._ssrc, lost=numbers)
    await sender._handle_rtcp_packet(nack)
    assert len(nack.lost) == min(RTP_HISTORY_SIZE, len(set(numbers)))
    after = await sender.getStats()
    sent = [
        sum(row.packetsSent for row in report.values() if row.type == "transport")
        for report in (before, after)
    ]
    return sent[1] - sent[0]


async def test_repairs_are_bounded_each_and_together(monkeypatch):
    monkeypatch.setattr(
        receiver.transport.sending, "RESENDS", 0.0
    )  # the bucket is never filled again
    async with LossyCall(lambda number, repair: False) as call:
        await call.until(3)
        call.sender.stop()
        await asyncio.sleep(0.1)
        (sender,) = call.sending.getSenders()
        history = sender.rtp_history
        last = max(history.values(), key=lambda packet: packet.sequence_number)
        first = last.sequence_number - RTP_HISTORY_SIZE + 1
        for number in range(first, last.sequence_number + 1):
            packet = copy.copy(last)
            packet.sequence_number = number
            history[number % RTP_HISTORY_SIZE] = packet
        gone = [(first - n) % (1 << 16) for n in range(1, 1000)]
        newest = last.sequence_number
        assert await resent_by(sender, gone) == 0
        assert await resent_by(sender, [*gone, newest, newest, newest - 1]) == 2
        assert await resent_by(sender, [newest]) == 0
        await asyncio.sleep(2 * RESEND_EVERY)
        assert await resent_by(sender, [newest]) == 1
        await asyncio.sleep(2 * RESEND_EVERY)
        assert await resent_by(sender, list(range(first, newest + 1))) == RESENDS_AT_ONCE - 3
        monkeypatch.setattr(receiver.transport.sending, "RESENDS", 1000.0)
        await asyncio.sleep(2 * RESEND_EVERY)
        assert await resent_by(sender, [newest]) == 1


@pytest.mark.parametrize("kind", ["audio", "video"])
async def test_a_receiver_that_never_started_stops(kind):
    prepare_aiortc()
    connection = RTCPeerConnection()
    receiver = connection.addTransceiver(kind, direction="recvonly").receiver
    await receiver.stop()
    await connection.close()
