"""Media that were not requested are not decoded; an RTCP BYE ends those that were."""

import asyncio
import re
import threading
from fractions import Fraction
from itertools import repeat

import aiohttp
import pytest
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from aiortc.rtp import RtcpByePacket

from receiver.calls.rooms import Room
from receiver.enhance.enhancer import Enhancer
from receiver.media.encoding import Encoding
from receiver.sending.encoded_track import EncodedTrack
from receiver.sending.sources import Source, evenly
from receiver.transport.connections import h264_codecs, receive_h264
from receiver.transport.receiving import GOODBYE_SECONDS
from tests.calls.peer import HERE, Peer, Tone, serving, until
from tests.calls.test_join import joining
from tests.conftest import plain_frame


def plain_source(width: int = 320, height: int = 240) -> Source:
    """A video whose frames do not change."""
    frame, rate = plain_frame(width, height), Fraction(30)
    return Source(lambda: evenly(repeat(frame), rate), width, height, rate)


def plain_track(width: int = 320) -> EncodedTrack:
    return EncodedTrack(plain_source(width), Encoding(kbps=100, keyframe_every=30))


def send_on(peer: Peer, *, sound: bool = False, direction: str = "sendrecv") -> None:
    peer.sender = plain_track()
    video = peer.connection.addTransceiver(peer.sender, direction=direction)
    video.setCodecPreferences(h264_codecs())
    if sound:
        peer.connection.addTransceiver(Tone(), direction=direction)


async def publish(peer: Peer, *, sound: bool = False, direction: str = "sendrecv") -> str:
    """Publishes in the room; returns the answer."""
    send_on(peer, sound=sound, direction=direction)
    response = await peer.negotiate("/whip/room")
    await peer.connected()
    peer.sender.begin()
    return await response.text()


def directions(sdp: str) -> list[str]:
    return re.findall("^a=(sendrecv|sendonly|recvonly|inactive)\r$", sdp, re.MULTILINE)


def decoders() -> list[str]:
    """Names of aiortc's threads that decode, of the server and of the test's peers alike."""
    return sorted(one.name for one in threading.enumerate() if one.name.endswith("-decoder"))


def received(connection: RTCPeerConnection) -> int:
    """RTP packets of the peer that reached a receiver."""
    return sum(receiver._packets_received() for receiver in connection.getReceivers())


@pytest.mark.parametrize(
    ("offered", "answered"),
    [("sendrecv", "sendonly"), ("sendonly", "inactive"), ("recvonly", "sendonly")],
)
@pytest.mark.parametrize("has_sound", [True, False])
async def test_what_a_viewer_sends_is_not_decoded(generator, http, offered, answered, has_sound):
    """It was decoded into a queue without a bound: 29 kB sent took 758 MB."""
    async with serving(generator) as (server, base):
        publisher, viewer = Peer(http, base), Peer(http, base)
        assert directions(await publish(publisher, sound=has_sound))[0] == "recvonly"
        await until(lambda: "video-decoder" in decoders())
        one_way = decoders()
        send_on(viewer, sound=True, direction=offered)
        response = await viewer.negotiate("/whep/room")
        sound = answered if has_sound else "inactive"
        assert directions(await response.text()) == [answered, sound]
        await viewer.connected()
        viewer.sender.begin()
        if answered == "sendonly":
            await viewer.frames(3)
            own = ["audio-decoder"] * has_sound + ["video-decoder"]
            assert decoders() == sorted(one_way + own)
        else:
            await asyncio.sleep(1)
            assert decoders() == one_way
        (connection,) = server.rooms["room"]._viewers.values()
        assert received(connection) == 0
        await publisher.close()
        await viewer.close()


async def test_media_that_a_viewer_sends_cost_nothing(generator, http):
    async with serving(generator) as (server, base):
        publisher, viewer = Peer(http, base), Peer(http, base)
        await publish(publisher)
        await until(lambda: decoders() == ["video-decoder"])
        send_on(viewer, sound=True)
        await viewer.connection.setLocalDescription(await viewer.connection.createOffer())
        url, offer = base + "/whep/room", viewer.connection.localDescription.sdp
        response = await http.post(url, data=offer, headers={"Content-Type": "application/sdp"})
        sdp = re.sub("a=(sendonly|inactive)", "a=sendrecv", await response.text())
        await viewer.connection.setRemoteDescription(RTCSessionDescription(sdp, "answer"))
        await viewer.connected()
        viewer.sender.begin()
        await until(lambda: viewer.sender.frames_sent > 30)
        (connection,) = server.rooms["room"]._viewers.values()
        assert received(connection) == 0
        tracks = [one.track for one in connection.getReceivers()]
        assert all(track is None or track._queue.empty() for track in tracks)
        assert len(decoders()) == 3  # the publisher's one, and the two of the viewer itself
        await publisher.close()
        await viewer.close()


async def test_a_publisher_that_only_receives_is_not_decoded(generator, http):
    async with serving(generator) as (_, base):
        publisher = Peer(http, base)
        receive_h264(publisher.connection)
        publisher.connection.addTransceiver("audio", direction="recvonly")
        response = await publisher.negotiate("/whip/room")
        assert directions(await response.text()) == ["inactive", "inactive"]
        await publisher.connected()
        await asyncio.sleep(0.2)
        assert decoders() == []
        await publisher.close()


async def test_of_two_videos_and_two_sounds_one_each_is_received(generator):
    """As from an SFU, which offers all that a publisher has."""
    sending, receiving = RTCPeerConnection(HERE), RTCPeerConnection(HERE)
    room = Room("room", Enhancer(generator), HERE)
    widths: set[int] = set()
    room.outputs.append(lambda frame: widths.add(frame.width))
    tracks = [plain_track(320), plain_track(640)]
    for track in tracks:
        sending.addTransceiver(track, direction="sendonly").setCodecPreferences(h264_codecs())
    for _ in range(2):
        sending.addTransceiver(Tone(), direction="sendonly")
    receive_h264(receiving)
    receiving.on("track", lambda track: room.attach(track, receiving))
    await sending.setLocalDescription(await sending.createOffer())
    await receiving.setRemoteDescription(sending.localDescription)
    await receiving.setLocalDescription(await receiving.createAnswer())
    assert directions(receiving.localDescription.sdp) == [
        "recvonly", "inactive", "recvonly", "inactive",
    ]  # fmt: skip
    await sending.setRemoteDescription(receiving.localDescription)
    await until(lambda: sending.connectionState == "connected")
    for track in tracks:
        track.begin()
    await until(lambda: room.stats.frames.received > 20)
    assert widths == {320}
    assert room.refused_tracks == 2
    assert decoders() == ["audio-decoder", "video-decoder"]
    await asyncio.gather(sending.close(), receiving.close())
    await room.close()


async def test_tracks_of_a_call_that_is_joined_again_replace_those_before(generator):
    """aiortc ends no track of a peer that never connected: the room would wait for it forever."""
    sending = RTCPeerConnection(HERE)
    sending.addTransceiver(plain_track(), direction="sendonly").setCodecPreferences(h264_codecs())
    sending.addTransceiver(Tone(), direction="sendonly")
    await sending.setLocalDescription(await sending.createOffer())
    room = Room("room", Enhancer(generator), HERE)
    before, tasks = threading.active_count(), len(asyncio.all_tasks())
    for _ in range(3):
        receiving = RTCPeerConnection(HERE)
        receive_h264(receiving)
        receiving.on("track", lambda track, it=receiving: room.attach(track, it))
        await receiving.setRemoteDescription(sending.localDescription)
        await receiving.close()
    assert room.refused_tracks == 0
    await asyncio.wait_for(room.close(), 5)
    await sending.close()
    await until(lambda: threading.active_count() <= before)
    await until(lambda: len(asyncio.all_tasks()) <= tasks)


# RTCP BYE.


async def say_goodbye(connection: RTCPeerConnection, *sources: int) -> None:
    """Sends an RTCP BYE (RFC 3550, section 6.6) over a connection that stays open."""
    transport = connection.getSenders()[0].transport
    await transport._send_rtp(bytes(RtcpByePacket(sources=list(sources))))


async def test_a_goodbye_ends_the_call(generator, http: aiohttp.ClientSession):
    """The room froze, and its name stayed taken."""
    async with serving(generator) as (server, base):
        publisher, viewer, second = Peer(http, base), Peer(http, base), Peer(http, base)
        await publish(publisher, sound=True)
        await viewer.watch(sound=True)
        await viewer.frames(3)
        await publisher.connection.getSenders()[0].stop()  # sends it, and nothing more
        assert publisher.connection.connectionState == "connected"
        await until(lambda: not server.rooms, 5)
        with pytest.raises(MediaStreamError):
            await viewer.frames(100)
        await until(lambda: viewer.connection.connectionState == "closed")
        await publish(second)
        assert "room" in server.rooms
        await asyncio.gather(*(peer.close() for peer in (publisher, viewer, second)))


async def test_a_goodbye_of_another_stream_ends_nothing(generator, http):
    async with serving(generator) as (server, base):
        publisher, viewer = Peer(http, base), Peer(http, base)
        await publish(publisher, sound=True)
        await viewer.watch()
        await viewer.frames(3)
        video, sound = publisher.connection.getSenders()
        await say_goodbye(publisher.connection, video._rtx_ssrc)
        await say_goodbye(publisher.connection, 12345)
        await say_goodbye(publisher.connection, video._ssrc)  # but it continues
        await sound.stop()
        await asyncio.sleep(1.5 * GOODBYE_SECONDS)
        assert "room" in server.rooms
        assert len(await viewer.frames(60)) == 60
        assert decoders().count("audio-decoder") == 0  # the sound has ended
        await video.stop()
        await until(lambda: not server.rooms, 5)
        await publisher.close()
        await viewer.close()


async def test_a_goodbye_of_the_retransmissions_does_not_end_a_video_that_rests(generator, http):
    async with serving(generator) as (server, base):
        publisher = Peer(http, base)
        await publish(publisher)
        room = server.rooms["room"]
        await until(lambda: room.stats.frames.received > 3)
        video = publisher.connection.getSenders()[0]
        sent = vars(video)["_RTCRtpSender__rtp_history"]
        await video._retransmit(next(iter(sent.values())).sequence_number)
        video.replaceTrack(None)  # nothing comes, but the video has not ended
        await asyncio.sleep(0.5)
        await say_goodbye(publisher.connection, video._rtx_ssrc)
        await asyncio.sleep(1.5 * GOODBYE_SECONDS)
        assert "room" in server.rooms
        await say_goodbye(publisher.connection, video._rtx_ssrc, video._ssrc)
        await until(lambda: not server.rooms, 5)
        await publisher.close()


async def test_a_goodbye_before_the_first_frame_ends_the_call(generator, http):
    async with serving(generator) as (server, base):
        publisher = Peer(http, base)
        send_on(publisher)
        await publisher.negotiate("/whip/room")
        await publisher.connected()
        await until(lambda: "video-decoder" in decoders())
        await say_goodbye(publisher.connection, publisher.connection.getSenders()[0]._ssrc)
        await until(lambda: not server.rooms, 5)
        await publisher.close()


async def test_a_call_that_is_joined_breaks_off_at_a_goodbye_and_is_joined_again(generator, http):
    async with serving(generator) as (server, base):
        publisher = Peer(http, base)
        await publish(publisher)
        async with joining(base + "/whep/room", generator) as (joined, seen):
            await until(lambda: len(seen) > 5)
            (viewer,) = server.rooms["room"]._viewers.values()
            await viewer.getSenders()[0].stop()
            await until(lambda: joined.sessions == 2)
            before = len(seen)
            await until(lambda: len(seen) > before + 5)
        await publisher.close()
