"""Real calls in which something fails."""

import asyncio
import threading

import av
import pytest
from aiortc.mediastreams import MediaStreamError
from aiortc.rtp import is_rtcp

import receiver.calls.rooms
from receiver.calls.server import Server
from receiver.media.encoding import Encoding
from receiver.sending.encoded_track import EncodedTrack
from receiver.transport.connections import h264_codecs
from receiver.transport.sending import VideoPacket
from tests.calls.peer import Peer, portrait, serving, until
from tests.calls.test_send import sending
from tests.enhance.test_faults import raising, told


class Jumping(EncodedTrack):
    """A sender whose clock is set ahead in mid-stream, and back again."""

    AHEAD = 3600 * 90000

    async def recv(self) -> VideoPacket:
        packet = await super().recv()
        if self.frames_sent % 60 >= 30:
            packet.pts = packet.pts + self.AHEAD
        return packet


async def publish(peer: Peer, track: EncodedTrack) -> None:
    peer.sender = track
    peer.connection.addTrack(track)
    peer.connection.getTransceivers()[0].setCodecPreferences(h264_codecs())
    await peer.negotiate("/whip/room")
    await peer.connected()
    track.begin()


async def test_a_senders_clock_that_jumps_ends_nothing(generator, http):
    async with serving(generator) as (server, base):
        publisher, viewer = Peer(http, base), Peer(http, base)
        jumping = Jumping(portrait(), Encoding(kbps=200, keyframe_every=30))
        await publish(publisher, jumping)
        room = server.rooms["room"]
        left: list[av.VideoFrame] = []
        room.outputs.append(left.append)
        await viewer.watch()
        for _ in range(4):  # one jump lies between each and the next
            begun, sent = len(left), jumping.frames_sent
            await until(lambda sent=sent: jumping.frames_sent >= sent + 30, 60)
            await until(lambda begun=begun: len(left) > begun, 60)
            await viewer.frames(1)
        stamps = [frame.pts for frame in left]
        assert max(stamps) - min(stamps) >= Jumping.AHEAD
        assert room.stats.snapshot()["faults"] == {}
        await publisher.close()
        await viewer.close()


async def test_restoring_that_fails_is_told_and_heals(generator, http, monkeypatch):
    async with serving(generator) as (server, base):
        publisher, viewer = Peer(http, base), Peer(http, base)
        await publisher.publish()
        await viewer.watch()
        stats = server.rooms["room"].stats
        await until(lambda: stats.frames.enhanced > 0, 60)
        with monkeypatch.context() as patch:
            patch.setattr(generator, "restore", raising(generator.restore, lambda: True))
            await until(lambda: stats.frames.failed >= 3, 60)
            passed = stats.frames.passed
            await until(lambda: stats.frames.passed > passed + 5, 60)
            await viewer.frames(3)
            told = (await (await http.get(base + "/stats")).json())["room"]
            assert (told["healthy"], told["faults"]["restoring"] >= 3) == (False, True)
            metrics = await (await http.get(base + "/metrics")).text()
            assert 'receiver_healthy{room="room"} 0.0' in metrics
            assert 'receiver_faults_total{part="restoring",room="room"}' in metrics
        enhanced = stats.frames.enhanced
        await until(lambda: stats.frames.enhanced > enhanced, 60)
        await until(lambda: stats.faults.healthy, 100)
        await publisher.close()
        await viewer.close()


async def test_a_viewer_whose_transport_stalls_is_alone_with_it(generator, http):
    async with serving(generator) as (server, base):
        publisher, stalled, viewer = (Peer(http, base) for _ in range(3))
        await publisher.publish()
        await stalled.watch()
        await stalled.frames(3)
        room = server.rooms["room"]
        (connection,) = room._viewers.values()
        (sender,) = (one for one in connection.getSenders() if one.kind == "video")

        send = sender.transport._send_rtp

        async def hardly(data: bytes) -> None:
            await (send(data) if is_rtcp(data) else asyncio.Event().wait())

        sender.transport._send_rtp = hardly
        await viewer.watch()
        stuck = sender.track
        await until(lambda: stuck._packets.full(), 60)
        await viewer.frames(60)
        assert stuck._packets.qsize() <= stuck._packets.maxsize
        assert (await http.delete(base + stalled.location)).status == 200
        assert room.viewer_count == 1
        await viewer.frames(3)
        for peer in (publisher, stalled, viewer):
            await peer.close()


async def test_a_publisher_that_is_killed_is_missed(generator, http, clip, monkeypatch, caplog):
    """Its process says no farewell; room, viewers, threads and tasks end all the same."""
    monkeypatch.setattr(receiver.calls.rooms, "SILENT_AFTER", 3.0)
    async with serving(generator) as (server, base):
        for _ in range(2):  # and the name is free again
            before = threads_and_tasks()
            await publish_and_be_killed(server, http, base, str(clip))
            await until(lambda before=before: threads_and_tasks() <= before, 60)
    assert told(caplog, "its publisher sent nothing") == 2


async def publish_and_be_killed(server: Server, http, base: str, clip: str) -> None:
    viewer = Peer(http, base)
    async with sending(clip, base + "/whip/room") as process:
        await until(lambda: "room" in server.rooms, 60)
        stats = server.rooms["room"].stats
        await until(lambda: stats.frames.received > 0, 60)
        await viewer.watch()
        await viewer.frames(1)
        process.kill()
        await process.wait()
        await until(lambda: not server.rooms, 60)
    with pytest.raises(MediaStreamError):
        await viewer.frames(1000)
    await until(lambda: viewer.connection.connectionState == "closed", 60)
    await viewer.close()


async def test_a_publisher_that_shows_nothing_is_no_silence(generator, http, monkeypatch):
    monkeypatch.setattr(receiver.calls.rooms, "SILENT_AFTER", 3.0)
    async with serving(generator) as (server, base):
        publisher = Peer(http, base)
        await publisher.publish()
        room = server.rooms["room"]
        await until(lambda: room.stats.frames.received > 0, 60)
        paused, publisher.sender.recv = publisher.sender.recv, asyncio.Event().wait
        received = room.stats.frames.received
        await asyncio.sleep(4.5)
        assert not room.closed.is_set()
        assert room.stats.frames.received < received + 10
        publisher.sender.recv = paused
        await publisher.close()


def threads_and_tasks() -> tuple[int, int]:
    return threading.active_count(), len(asyncio.all_tasks())
