"""Candidates of hostile offers: which addresses get packets from the server, and how many."""

import asyncio
import contextlib
import re
import socket

import pytest
from aioice import Connection, stun
from aiortc import RTCSessionDescription

from receiver.signalling.offers import MAX_CANDIDATES
from receiver.transport.aiortc_hooks import MAX_PAIRS
from receiver.transport.connections import receive_h264
from tests.calls.offers.making import (
    VIDEO,
    filled,
    ice_peer,
    listening_sockets,
    own_udp_ports,
    packets,
)
from tests.calls.peer import SDP, Peer, serving, until


async def test_candidates_are_sent_few_packets_and_none_after_the_limit(generator, http):
    """Three within 2 s from each of the server's own addresses; six within 20 s."""
    with listening_sockets(MAX_CANDIDATES) as sockets:
        ports = [one.getsockname()[1] for one in sockets]
        more = [f"a=candidate:1 1 udp 1 127.0.0.1 {port} typ host" for port in ports]
        async with serving(generator, connect_seconds=2.0) as (server, base):
            response = await http.post(base + "/whip/room", data=filled(VIDEO, more), headers=SDP)
            assert response.status == 201
            own = (await response.text()).count(" typ host")
            connection = server.rooms["room"]._publisher
            await until(lambda: connection.connectionState == "closed")
            assert MAX_CANDIDATES <= packets(sockets) <= 3 * own * MAX_CANDIDATES
            await asyncio.sleep(2)  # the next would be sent 3.5 s after the first
            assert packets(sockets) == 0


@pytest.mark.parametrize("name", ["localhost", "0.0.0.0", "::ffff:127.0.0.1", "no-such.local"])
async def test_names_are_not_looked_up_and_odd_addresses_get_no_packet(generator, http, name):
    with listening_sockets(1) as sockets:
        line = f"a=candidate:1 1 udp 1 {name} {sockets[0].getsockname()[1]} typ host"
        async with serving(generator) as (_, base):
            offer = filled(VIDEO, [line, "a=end-of-candidates"])
            assert (await http.post(base + "/whip/a", data=offer, headers=SDP)).status == 201
            await asyncio.sleep(1)
            assert packets(sockets) == 0
            assert 5353 not in own_udp_ports()


async def test_a_peer_with_many_addresses_is_sent_checks_at_some_of_them(generator, http):
    """Seven packets to each address from which one came, for as many as there were."""
    async with serving(generator) as (server, base):
        _, ice = await ice_peer(http, base + "/whip/room")
        local, remote = ice.local_candidates[0], ice.remote_candidates[0]
        with contextlib.ExitStack() as stack:
            sockets = []
            for _ in range(3 * MAX_PAIRS):
                one = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                one.bind((local.host, 0))
                one.setblocking(False)
                one.sendto(check(ice), (remote.host, remote.port))
                sockets.append(one)
                await asyncio.sleep(0.002)
            await asyncio.sleep(1)
            checked = 0
            for one in sockets:
                kinds = set()
                with contextlib.suppress(BlockingIOError):
                    while True:
                        kinds.add(stun.parse_message(one.recv(2048)).message_class)
                assert stun.Class.RESPONSE in kinds
                checked += stun.Class.REQUEST in kinds
            assert MAX_PAIRS // 2 <= checked <= MAX_PAIRS
            await asyncio.wait_for(ice.connect(), 10)  # all the same
            publisher = server.rooms["room"]._publisher
            await until(lambda: publisher.iceConnectionState == "completed")
        await ice.close()


def check(ice: Connection) -> bytes:
    """A connectivity check (RFC 8445, section 7.2.2)."""
    message = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)
    message.attributes["USERNAME"] = f"{ice.remote_username}:{ice.local_username}"
    message.attributes["PRIORITY"] = 1
    message.attributes["ICE-CONTROLLING"] = 1
    message.add_message_integrity(ice.remote_password.encode())
    return bytes(message)


@pytest.mark.parametrize("instead", ["", "1 1 udp 1 no-such-name.local 5000 typ host"])
async def test_a_peer_that_cannot_be_reached_connects_by_its_own_checks(generator, http, instead):
    """RFC 8863: aioice alone gives up at once."""
    async with serving(generator) as (server, base):
        publisher = Peer(http, base)
        receive_h264(publisher.connection)
        await publisher.connection.setLocalDescription(await publisher.connection.createOffer())
        own = re.compile("a=candidate:.*\r\n")
        offer = own.sub("", publisher.connection.localDescription.sdp)
        assert "a=end-of-candidates" in offer
        offer += f"a=candidate:{instead}\r\n" if instead else ""
        response = await http.post(base + "/whip/room", data=offer, headers=SDP)
        assert response.status == 201
        await asyncio.sleep(1)
        assert "room" in server.rooms
        answer = RTCSessionDescription(await response.text(), "answer")
        await publisher.connection.setRemoteDescription(answer)
        await asyncio.wait_for(publisher.connected(), 10)
        room = server.rooms["room"]
        await until(lambda: room._publisher.connectionState == "connected")
        await publisher.close()
        assert room.never_connected == {"publisher": 0, "viewer": 0}
