"""Sessions that never become calls: what the real server keeps of them."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

import aiohttp
import pytest

from receiver.signalling.offers import OfferError, read_offer
from receiver.transport.connections import receive_h264
from tests.calls.offers.making import (
    VIDEO,
    filled,
    held,
    ice_peer,
    post_silent,
)
from tests.calls.peer import SDP, Peer, serving, until


async def silent(http: aiohttp.ClientSession, url: str) -> AsyncIterator[int]:
    """A peer that offers no candidate."""
    yield (await http.post(url, data=filled(VIDEO, []), headers=SDP)).status


async def unresolvable(http: aiohttp.ClientSession, url: str) -> AsyncIterator[int]:
    """A peer whose only candidate is a name that nobody knows."""
    more = ["a=candidate:1 1 udp 1 no-such-name.local 5000 typ host", "a=end-of-candidates"]
    yield (await http.post(url, data=filled(VIDEO, more), headers=SDP)).status


async def only_ice(http: aiohttp.ClientSession, url: str) -> AsyncIterator[int]:
    """A peer that does ICE, and then says nothing more."""
    status, ice = await ice_peer(http, url)
    await ice.connect()
    try:
        yield status
    finally:
        await ice.close()


@pytest.mark.parametrize("peer", [silent, unresolvable, only_ice])
async def test_a_publisher_that_never_connects_frees_its_name(generator, http, peer):
    async with serving(generator, connect_seconds=1.0) as (server, base):
        assert (await http.post(base + "/whip/room", headers=SDP)).status == 400
        before = held()
        async with contextlib.aclosing(peer(http, base + "/whip/room")) as answers:
            assert await anext(answers) == 201
            assert "room" in server.rooms
            await until(lambda: not server.rooms, 5)
        await until(lambda: held() == before, 5)
        stats = await (await http.get(base + "/stats")).json()
        assert stats == {"": {"never_connected": {"publisher": 1, "viewer": 0}}}
        metrics = await (await http.get(base + "/metrics")).text()
        assert 'receiver_never_connected_total{role="publisher"} 1.0' in metrics
        publisher = Peer(http, base)
        receive_h264(publisher.connection)
        assert (await publisher.negotiate("/whip/room")).status == 201
        await publisher.connected()
        await asyncio.sleep(1.5)
        assert "room" in server.rooms  # it has connected, so the limit is none to it
        await publisher.close()


@pytest.mark.parametrize("peer", [silent, unresolvable, only_ice])
async def test_a_viewer_that_never_connects_frees_its_slot(generator, http, peer):
    async with serving(generator, connect_seconds=1.0, viewers=1) as (server, base):
        publisher, viewer = Peer(http, base), Peer(http, base)
        receive_h264(publisher.connection)
        await publisher.negotiate("/whip/room")
        await publisher.connected()
        await post_silent(http, base + "/whep/room")  # the first: the encoder stays
        room = server.rooms["room"]
        await until(lambda: room.viewer_count == 0)
        await asyncio.sleep(0.5)  # its connection is still being closed
        before = held()
        async with contextlib.aclosing(peer(http, base + "/whep/room")) as answers:
            assert await anext(answers) == 201
            assert room.viewer_count == 1
            await until(lambda: room.viewer_count == 0, 5)
        await until(lambda: held() == before, 5)
        stats = await (await http.get(base + "/stats")).json()
        assert stats["room"]["never_connected"] == 2
        assert stats[""] == {"never_connected": {"publisher": 0, "viewer": 2}}
        metrics = await (await http.get(base + "/metrics")).text()
        assert 'receiver_never_connected_total{role="viewer"} 2.0' in metrics
        assert (await viewer.watch()).status == 201
        await viewer.connected()
        await asyncio.sleep(1.5)
        assert room.viewer_count == 1
        await publisher.close()
        await viewer.close()
        await until(lambda: not server.rooms)
        stats = await (await http.get(base + "/stats")).json()
        assert stats[""] == {"never_connected": {"publisher": 0, "viewer": 2}}


async def test_of_viewers_that_come_at_once_only_so_many_are_answered(generator, http):
    async with serving(generator, viewers=2) as (server, base):
        await post_silent(http, base + "/whip/room")
        room = server.rooms["room"]
        offer = read_offer(filled(VIDEO, []))
        first = asyncio.ensure_future(room.view(offer, "restored"))
        await asyncio.sleep(0)
        assert room.viewer_count == 1  # whose offer is being answered
        body = filled(VIDEO, [])
        posts = (http.post(base + "/whep/room", data=body, headers=SDP) for _ in range(2))
        answers = await asyncio.gather(*posts)
        assert sorted(one.status for one in answers) == [201, 503]
        await first
        assert room.viewer_count == 2


async def test_a_viewer_whose_room_ends_meanwhile_leaves_nothing(generator, http):
    async with serving(generator) as (server, base):
        await post_silent(http, base + "/whip/room")
        room = server.rooms["room"]
        await room.view(read_offer(filled(VIDEO, [])), "restored")
        files = len(os.listdir("/proc/self/fd"))
        late = asyncio.ensure_future(room.view(read_offer(filled(VIDEO, [])), "restored"))
        await asyncio.sleep(0)
        await room.close()
        with pytest.raises(OfferError, match="room has ended") as caught:
            await late
        assert caught.value.status == 404
        assert room.viewer_count == 0
        assert len(os.listdir("/proc/self/fd")) < files


async def test_a_rooms_name_forges_no_line_of_the_log(generator, http, caplog):
    async with serving(generator, connect_seconds=0.3) as (server, base):
        await post_silent(http, base + "/whip/a%1b%5b31m%0ab")
        await until(lambda: not server.rooms)
    lines = [record.getMessage() for record in caplog.records]
    assert "a [31m b: a publisher did not connect in 0.3 s" in lines
    assert all(line.isprintable() for line in lines)
