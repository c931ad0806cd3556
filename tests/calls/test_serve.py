"""WHIP publishers and WHEP viewers against the real server, over real connections."""

import asyncio
import contextlib
import ssl
import threading

import aiohttp
import pytest
from aiortc.mediastreams import MediaStreamError
from aiortc.rtp import RTCP_PSFB_FIR, RtcpPsfbPacket

from receiver.calls.config import ServeConfig
from receiver.calls.rooms import Room
from receiver.calls.server import Server, listening
from receiver.calls.viewers import SharedEncoder
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.generator import Generator
from receiver.enhance.quality import Quality
from receiver.media.frame import DecodedFrame
from receiver.signalling.negotiation import ClosableConnection
from receiver.signalling.offers import OfferError, read_offer
from receiver.transport.connections import prepare_aiortc, receive_h264
from receiver.transport.sending import KEYFRAMES_EVERY
from tests.calls.offers.making import VIDEO, filled
from tests.calls.peer import HERE, SDP, Peer, self_signed, serving, until
from tests.conftest import same_pixels


async def test_one_publisher_and_two_viewers(generator, http):
    async with serving(generator) as (server, base):
        publisher = Peer(http, base)
        answer = await publisher.publish(sound=True)
        assert answer.status == 201
        assert answer.content_type == "application/sdp"
        assert publisher.location.startswith("/whip/room/")
        viewers = [Peer(http, base), Peer(http, base)]
        for viewer, path in zip(viewers, ("/whep/room", "/whep/room?view=both"), strict=True):
            assert (await viewer.watch(path, sound=True)).status == 201
        shown = await asyncio.gather(*(viewer.frames(20) for viewer in viewers))
        assert {(frame.width, frame.height) for frame in shown[0]} == {(640, 480)}
        assert {(frame.width, frame.height) for frame in shown[1]} == {(1280, 480)}
        for frames in shown:
            stamps = [frame.pts for frame in frames]
            assert stamps == sorted(set(stamps))
        for viewer in viewers:
            piece = await asyncio.wait_for(viewer.tracks["audio"].recv(), 5)
            assert piece.sample_rate == 48000
        stats = await (await http.get(base + "/stats")).json()
        assert stats["room"]["viewers"] == 2
        assert stats["room"]["frames"]["received"] >= 20  # all that were shown
        assert 20 < stats["room"]["qp"] <= 51
        metrics = await (await http.get(base + "/metrics")).text()
        assert 'receiver_frames_received_total{room="room"}' in metrics
        assert 'receiver_viewers{room="room"} 2.0' in metrics
        assert (await http.delete(base + publisher.location)).status == 200
        assert server.rooms == {}
        for peer in (publisher, *viewers):
            await peer.close()


async def test_one_viewer_leaves_and_another_joins(generator, http):
    async with serving(generator) as (server, base):
        publisher, first, second = (Peer(http, base) for _ in range(3))
        await publisher.publish()
        await first.watch()
        await first.frames(3)
        assert (await http.delete(base + first.location)).status == 200
        assert (await http.delete(base + first.location)).status == 404
        assert server.rooms["room"].viewer_count == 0
        await second.watch()
        frames = await second.frames(5)  # begins with an I-frame, or nothing could be decoded
        assert not same_pixels(frames[0], frames[-1])
        for peer in (publisher, first, second):
            await peer.close()


async def test_a_publisher_that_is_killed_frees_its_room(generator, http):
    async with serving(generator) as (server, base):
        publisher, viewer = Peer(http, base), Peer(http, base)
        await publisher.publish()
        await viewer.watch()
        await viewer.frames(3)
        await publisher.close()  # DTLS announces its end; there is no DELETE
        began = asyncio.get_running_loop().time()
        while server.rooms and asyncio.get_running_loop().time() < began + 2:
            await asyncio.sleep(0.02)
        assert server.rooms == {}
        with pytest.raises(MediaStreamError):
            await viewer.frames(100)
        await viewer.close()


async def test_nothing_is_left_when_the_server_stops(generator, http):
    before = own_threads()
    async with serving(generator) as (_, base):
        publisher, viewer = Peer(http, base), Peer(http, base)
        await publisher.publish(sound=True)
        await viewer.watch(sound=True)
        await viewer.frames(3)
    await publisher.close()
    await viewer.close()
    await until(lambda: own_threads() <= before, 30)
    this = {asyncio.current_task()}
    await until(lambda: asyncio.all_tasks() == this)  # delayed sound is awaited for 0.2 s at most


def own_threads():
    """Returns all threads except those that every call of this process shares.

    The recogniser's watchdog may still run: its process takes seconds to start on a busy machine.
    """
    shared = ("asyncio", "recognition")
    return {one for one in threading.enumerate() if not one.name.startswith(shared)}


async def test_calls_beyond_the_measured_capacity_are_refused(generator, http):
    quality = Quality(Generator("lite", "cpu"), "fast", None)
    config = ServeConfig(port=0, rooms=2, is_measured=True)
    server = Server(config, lambda: quality.watch(Enhancer(generator)), quality)
    async with listening(server) as url:
        base = url.rstrip("/")
        publishers = [Peer(http, base) for _ in range(2)]
        for name, publisher in zip("ab", publishers, strict=True):
            assert (await publisher.publish(name)).status == 201
        third = Peer(http, base)
        receive_h264(third.connection)
        response = await third.negotiate("/whip/c")
        assert (response.status, response.headers["Retry-After"]) == (503, "30")
        assert await response.text() == (
            "this machine can enhance 2 calls at 30 frames a second, "
            "and no more can start now: try again later\n"
        )
        stats = await (await http.get(base + "/stats")).json()
        assert set(stats) == {"a", "b", ""}
        assert stats["a"]["quality"] == {"level": "fast", "changes": 0}
        metrics = await (await http.get(base + "/metrics")).text()
        assert "receiver_rooms_limit 2.0" in metrics
        assert 'receiver_quality_level{level="fast"} 1.0' in metrics
        assert "receiver_quality_changes_total 0.0" in metrics
        assert (await http.delete(base + publishers[0].location)).status == 200
        offer = third.connection.localDescription.sdp
        assert (await http.post(base + "/whip/c", data=offer, headers=SDP)).status == 201
        await asyncio.gather(*(peer.close() for peer in (*publishers, third)))


async def test_over_https_a_call_is_published_and_watched(generator, tmp_path):
    cert, key = self_signed(tmp_path)
    config = ServeConfig(port=0, tls_cert=cert, tls_key=key)
    trusting = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(cert)))
    server = Server(config, lambda: Enhancer(generator))
    async with (
        listening(server) as url,
        aiohttp.ClientSession(connector=trusting) as https,
        contextlib.AsyncExitStack() as stack,
    ):
        assert url.startswith("https://127.0.0.1:")
        publisher, viewer = Peer(https, url.rstrip("/")), Peer(https, url.rstrip("/"))
        for peer in (publisher, viewer):
            stack.push_async_callback(peer.close)
        assert (await publisher.publish()).status == 201
        assert (await viewer.watch()).status == 201
        assert len(await viewer.frames(10)) == 10


@pytest.mark.parametrize("order", [("end", "watch"), ("watch", "end")])
async def test_a_call_that_ends_while_a_viewer_joins_leaves_nothing(generator, http, order):
    """The viewer's new encoder made the end fail half way: the publisher continued unseen."""
    offer = filled(VIDEO, [])
    async with serving(generator) as (server, base):
        for _ in range(10):
            for path in ("/whip/r", "/whep/r"):
                assert (await http.post(base + path, data=offer, headers=SDP)).status == 201
            room = server.rooms["r"]
            # As the requests' handlers do, in the same turn of the event loop.
            steps = {"end": room.close, "watch": lambda it=room: it.view(read_offer(offer), "both")}
            results = await asyncio.gather(*(steps[n]() for n in order), return_exceptions=True)
            results = dict(zip(order, results, strict=True))
            assert results["end"] is None
            assert isinstance(results["watch"], OfferError)
            assert results["watch"].status == 404
            assert server.rooms == {}
            assert room._publisher.connectionState == "closed"
            tasks = {task.get_coro().__qualname__ for task in asyncio.all_tasks()}
            assert "SharedEncoder._run" not in tasks


async def test_an_end_that_fails_in_part_ends_the_rest(generator, http, monkeypatch):
    async def fail(encoder):
        raise RuntimeError("no end")

    offer = filled(VIDEO, [])
    async with serving(generator) as (server, base):
        published = await http.post(base + "/whip/r", data=offer, headers=SDP)
        await http.post(base + "/whep/r", data=offer, headers=SDP)
        room = server.rooms["r"]
        encoder = room._encoders["restored"]
        with monkeypatch.context() as patched:
            patched.setattr(SharedEncoder, "close", fail)
            response = await http.delete(base + published.headers["Location"])
        assert response.status == 200
        assert room._publisher.connectionState == "closed"
        assert room.viewer_count == 0
        await encoder.close()


async def test_a_call_that_has_ended_takes_no_viewer(generator):
    prepare_aiortc()
    room = Room("r", Enhancer(generator), HERE)
    await room.close()
    with pytest.raises(OfferError, match="r has ended") as caught:
        await room.view(read_offer(filled(VIDEO, [])), "both")
    assert caught.value.status == 404
    assert room._encoders == {}


async def test_a_viewer_that_asks_for_key_frames_all_the_time_gets_two_a_second(generator, http):
    """Nearly every frame became one, for all viewers."""
    async with serving(generator) as (_, base):
        publisher, greedy, other = (Peer(http, base) for _ in range(3))
        await publisher.publish()
        await greedy.watch()
        await other.watch()
        await greedy.connected()
        await asyncio.gather(greedy.frames(3), other.frames(3))
        flood = asyncio.ensure_future(ask_for_keyframes(greedy))
        began = asyncio.get_running_loop().time()
        seen, _ = await asyncio.gather(other.frames(60), greedy.frames(60))
        passed = asyncio.get_running_loop().time() - began
        flood.cancel()
        keyed = sum(DecodedFrame.from_video(frame).is_keyframe for frame in seen)
        # One more for its beginning, and one for what had waited for its decoder.
        assert 2 <= keyed <= passed / KEYFRAMES_EVERY + 2
        for peer in (publisher, greedy, other):
            await peer.close()


async def ask_for_keyframes(peer):
    """Sends PLI and FIR by turns (RFC 4585, section 6.3.1; RFC 5104, section 4.3.1)."""
    (receiver,) = peer.connection.getReceivers()
    ssrcs = {source.source for source in receiver.getSynchronizationSources()}
    while True:
        for ssrc in ssrcs:
            await receiver._send_rtcp_pli(ssrc)
            fir = RtcpPsfbPacket(fmt=RTCP_PSFB_FIR, ssrc=1, media_ssrc=ssrc, fci=bytes(8))
            await receiver.transport._send_rtp(bytes(fir))
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("role", ["publisher", "viewer"])
async def test_sessions_that_end_while_they_connect_leave_nothing(generator, http, role):
    """ICE's consent checks continued forever."""
    async with serving(generator) as (_, base):
        if role == "viewer":
            for path in ("/whip/r", "/whep/r"):  # the first viewer has the encoder made
                answer = await http.post(base + path, data=filled(VIDEO, []), headers=SDP)
            await http.delete(base + answer.headers["Location"])
        await asyncio.sleep(0.1)
        before = working()
        for number in range(30):
            peer = Peer(http, base)
            peer.connection = ClosableConnection(HERE)
            peer.connection.addTransceiver("video", direction="sendrecv")
            path = "/whip/one" if role == "publisher" else "/whep/r"
            assert (await peer.negotiate(path)).status == 201
            await asyncio.sleep(number % 10 * 0.005)
            assert (await http.delete(base + peer.location)).status == 200
            await peer.close()
        await until(lambda: working() == before, 3)


def working():
    """Returns the names of all tasks except those of open HTTP connections."""
    names = (task.get_coro().__qualname__ for task in asyncio.all_tasks())
    return sorted(name for name in names if not name.startswith("RequestHandler"))
