"""Offers of hostile peers against the real server: how long they stall it, what they leave."""

import asyncio
import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import count, cycle
from pathlib import Path

import aiohttp
import pytest
from aioice import Candidate, Connection, stun
from aiortc import RTCSessionDescription
from aiortc.sdp import SessionDescription

from receiver.calls.server import MAX_BODY
from receiver.signalling.offers import MAX_CANDIDATES, MAX_LINES, MAX_MEDIA, OfferError, read_offer
from receiver.transport.aiortc_hooks import MAX_PAIRS
from receiver.transport.connections import receive_h264
from tests.calls.peer import SDP, Peer, serving
from tests.calls.test_join import until

STALL = 0.05
"""Seconds of the event loop's own time that one offer may take in one go. Wall-clock time would
measure the machine's other work too."""

SESSION = ["v=0", "o=- 1 1 IN IP4 0.0.0.0", "s=-", "t=0 0"]


def section(kind: str, mid: object) -> list[str]:
    """A media section that the server can answer."""
    codec = {
        "video": ["a=rtpmap:96 H264/90000", "a=fmtp:96 packetization-mode=1"],
        "audio": ["a=rtpmap:96 opus/48000/2"],
    }[kind]
    return [
        f"m={kind} 9 UDP/TLS/RTP/SAVPF 96", f"a=mid:{mid}", "a=sendrecv", *codec, "a=rtcp-mux",
        "a=setup:actpass", "a=ice-ufrag:abcd", "a=ice-pwd:abcdefghijklmnopqrstuv",
        "a=fingerprint:sha-256 " + ":".join(["AA"] * 32),
    ]  # fmt: skip


def channels(*more: str) -> list[str]:
    """A media section of data channels, whose port is yet to come."""
    return [
        "m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "a=mid:1", "a=setup:actpass",
        "a=ice-ufrag:abcd", "a=ice-pwd:abcdefghijklmnopqrstuv",
        "a=fingerprint:sha-256 " + ":".join(["AA"] * 32), *more,
    ]  # fmt: skip


VIDEO = SESSION + section("video", 0)


def numbered(line: str) -> Iterator[str]:
    return (line.format(n=n, port=n % 65535 + 1, address=f"10.{n % 250}.1.1") for n in count())


def hostile() -> dict[str, tuple[list[str], Iterable[str]]]:
    """Returns, by name, the first lines of an offer and more of them than it can have."""
    return {
        "candidates": (VIDEO, numbered("a=candidate:{n} 1 udp 1 {address} {port} typ host")),
        "TCP candidates": (VIDEO, numbered("a=candidate:{n} 1 tcp 1 {address} 9 typ host")),
        "mDNS names": (VIDEO, numbered("a=candidate:{n} 1 udp 1 n{n}.local {port} typ host")),
        "media sections": (VIDEO, (line for n in count(1) for line in section("audio", n))),
        "empty media sections": (VIDEO, cycle(["m=audio 9 A 0"])),
        "codecs": (VIDEO, numbered("a=rtpmap:{n} H264/90000")),
        "one codec": (VIDEO, cycle(["a=rtpmap:96 H264/90000"])),
        "feedback": (VIDEO, cycle(["a=rtpmap:96 H264/90000", "a=rtcp-fb:* nack"])),
        "feedback of a stranger": (VIDEO, cycle(["a=rtpmap:97 VP8/90000", "a=rtcp-fb:* a"])),
        "codecs with everything": (
            VIDEO,
            (
                line.format(n)
                for n in count()
                for line in ("a=rtpmap:{} H264/90000", "a=fmtp:{} profile-level-id=42e01f",
                             "a=rtcp-fb:{} nack", "a=rtcp-fb:{} nack pli", "a=rtcp-fb:* nack")
            ),
        ),
        "clock rates": (VIDEO, (f"a=rtpmap:{n} H264/" + "9" * 4000 for n in count())),
        "feedback of codecs": (
            [*VIDEO, *(f"a=rtpmap:{n} H264/90000" for n in range(128))],
            (f"a=rtcp-fb:{n} {what}" for what in cycle(["nack", "goog-remb"]) for n in range(128)),
        ),
        "retransmission": (
            [*VIDEO, *(f"a=rtpmap:{n} rtx/90000" for n in range(97, 128))],
            (f"a=fmtp:{n % 128} apt=96;apt=" + "9" * 3900 for n in count(97)),
        ),
        "parameters": (VIDEO, cycle(["a=fmtp:96 " + ";".join(f"a{n}=1" for n in range(600))])),
        "parameters of codecs": (VIDEO, cycle(["a=rtpmap:97 H264/90000", "a=fmtp:97 x"])),
        "SSRCs": (VIDEO, numbered("a=ssrc:{n} a:b")),
        "SSRC groups": (VIDEO, cycle(["a=ssrc-group:FID " + "1 " * 1900])),
        "extensions": (VIDEO, cycle(["a=extmap:1 urn:ietf:params:rtp-hdrext:sdes:mid"])),
        "fingerprints": (VIDEO, cycle(["a=fingerprint:sha-512 a"])),
        "ICE options": (VIDEO, cycle(["a=ice-options:a"])),
        "bundles": (SESSION, cycle(["a=group:BUNDLE " + "0 " * 2000])),
        "streams": ([*SESSION, "a=msid-semantic:WMS " + "s " * 1900], cycle(section("video", 0))),
        "unknown attributes": (VIDEO, cycle(["a=b"])),
        "directions": (VIDEO, cycle(["a=sendrecv"])),
        "a long line": (VIDEO, ["a=b:" + "c" * 60000]),
        "a long m-line": (SESSION, ["m=video 9 UDP/TLS/RTP/SAVPF" + " 96" * 20000]),
        "payload types": (
            SESSION,
            ["m=video 9 UDP/TLS/RTP/SAVPF" + " 96" * 1300, *section("video", 0)[1:]],
        ),
        "separators": (VIDEO, ["\x0b" * 60000]),
    }  # fmt: skip


def filled(lines: list[str], more: Iterable[str], most_lines: int = MAX_BODY) -> bytes:
    """An offer of `lines` and as many further ones as a body may have."""
    offer, size = list(lines), sum(len(line) + 2 for line in lines)
    for line in more:
        size += len(line) + 2
        if size > MAX_BODY or len(offer) == most_lines:
            break
        offer.append(line)
    return ("\r\n".join(offer) + "\r\n").encode()


class StallWatch:
    """Measures the longest time that the event loop's thread works without a pause, in seconds."""

    def __init__(self) -> None:
        self.worked = self.passed = 0.0

    async def __aenter__(self) -> "StallWatch":
        self._task = asyncio.ensure_future(self._watch())
        await asyncio.sleep(0.01)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    async def _watch(self) -> None:
        while True:
            worked, passed = time.thread_time(), time.perf_counter()
            await asyncio.sleep(0.001)
            self.worked = max(self.worked, time.thread_time() - worked)
            self.passed = max(self.passed, time.perf_counter() - passed - 0.001)


@pytest.mark.parametrize("path", ["/whip/room", "/whep/other"])
@pytest.mark.parametrize("most_lines", [MAX_LINES, MAX_BODY])
async def test_no_offer_stalls_the_server(generator, http, young_heap, path, most_lines):
    """The worst held the event loop for 9 s."""
    async with serving(generator, rooms=64) as (_, base):
        await post_silent(http, base + "/whip/other")
        for name, (lines, more) in hostile().items():
            offer = filled(lines, more, most_lines)
            async with StallWatch() as watch:
                where = base + path.replace("room", f"{len(name)}-{name[0]}-{name[-1]}")
                response = await http.post(where, data=offer, headers=SDP)
                said = await response.text()
                await asyncio.sleep(0.05)  # what is begun after the answer counts too
            assert response.status in (201, 400, 422, 503), name
            assert response.status == 201 or said.count("\n") == 1, name
            assert watch.worked < STALL, name


async def post_silent(http: aiohttp.ClientSession, url: str) -> None:
    offer = filled(VIDEO, [])
    assert (await http.post(url, data=offer, headers=SDP)).status == 201


async def test_large_offers_are_read_in_a_thread(generator, http):
    def threads() -> list[str]:
        return [one.name for one in threading.enumerate() if one.name.startswith("asyncio")]

    async with serving(generator, rooms=2) as (_, base):
        await post_silent(http, base + "/whip/small")
        assert threads() == []
        offer = filled(VIDEO, ["a=b:" + "c" * 4000] * 3)
        assert (await http.post(base + "/whip/large", data=offer, headers=SDP)).status == 201
        assert len(threads()) == 1


async def test_a_slow_charset_is_not_used(generator, http, young_heap):
    """Punycode takes a time that grows with the square of a text's length."""
    async with serving(generator) as (_, base), StallWatch() as watch:
        headers = {"Content-Type": "application/sdp; charset=punycode"}
        response = await http.post(base + "/whip/a", data="a-" + "aaaa" * 16000, headers=headers)
        assert response.status == 400
        assert watch.worked < STALL


def candidates(number: int, address: str = "10.0.0.1", transport: str = "udp") -> list[str]:
    return [
        f"a=candidate:{n} 1 {transport} {n} {address} {5000 + n} typ host" for n in range(number)
    ]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (candidates(MAX_CANDIDATES + 1), "the offer has 33 candidates: offer 32 at most"),
        (candidates(900, "n.local"), "the offer has 900 candidates: offer 32 at most"),
        (["m=audio 9 A 0"] * MAX_MEDIA, "the offer has 17 media sections: offer 16 at most"),
        (["a=b:" + "c" * 4093], "the offer has 4097 characters in one line: offer 4096 at most"),
        (["a=b"] * 2000, f"the offer has {2000 + len(VIDEO)} lines: offer 2000 at most"),
        (section("video", 1), "the offer has more than one video: offer one"),
        (section("audio", 1) + section("audio", 2), "the offer has more than one audio: offer one"),
        (channels(), "the offer has data channels without a port from 1 to 65535"),
        (channels("a=sctp-port:0"), "the offer has data channels without a port from 1 to 65535"),
        (
            channels("a=sctp-port:5000", "a=max-message-size:16383"),
            "the offer has data channels that take no message of 16384 bytes",
        ),
        (
            ["a=extmap:256 urn:ietf:params:rtp-hdrext:sdes:mid"],
            "the offer numbers RTP's extensions beyond 1 to 255",
        ),
    ],
)
@pytest.mark.parametrize("path", ["/whip/room", "/whep/room"])
async def test_too_much_is_refused_in_one_sentence(generator, http, path, more, sentence):
    async with serving(generator) as (server, base):
        response = await http.post(base + path, data=filled(VIDEO, more), headers=SDP)
        assert (response.status, await response.text()) == (422, sentence + "\n")
        assert not server.rooms


async def test_as_much_as_is_allowed_is_answered(generator, http):
    more = ["a=b:" + "c" * 4092, *candidates(MAX_CANDIDATES), *candidates(40, transport="TCP")]
    async with serving(generator) as (_, base):
        response = await http.post(base + "/whip/room", data=filled(VIDEO, more), headers=SDP)
        assert response.status == 201


@contextlib.contextmanager
def listening_sockets(number: int) -> Iterator[list[socket.socket]]:
    """UDP sockets on the loopback address, which the server's packets may come to."""
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            for _ in range(number)
        ]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
            one.setblocking(False)
        yield sockets


def packets(sockets: list[socket.socket]) -> int:
    """How many packets came since the last call."""
    number = 0
    for one in sockets:
        with contextlib.suppress(BlockingIOError):
            while one.recv(2048):
                number += 1
    return number


async def test_candidates_are_sent_few_packets_and_none_after_the_limit(generator, http):
    """Four before 4 s, of each of the server's own addresses; six of them before 20 s."""
    with listening_sockets(MAX_CANDIDATES) as sockets:
        ports = [one.getsockname()[1] for one in sockets]
        more = [f"a=candidate:1 1 udp 1 127.0.0.1 {port} typ host" for port in ports]
        async with serving(generator, connect_seconds=4.0) as (server, base):
            response = await http.post(base + "/whip/room", data=filled(VIDEO, more), headers=SDP)
            assert response.status == 201
            own = (await response.text()).count(" typ host")
            await until(lambda: not server.rooms)
            await asyncio.sleep(0.5)  # its connection is closed a moment after the room is gone
            assert MAX_CANDIDATES <= packets(sockets) <= 4 * own * MAX_CANDIDATES
            await asyncio.sleep(5)  # the next would come 7.5 s after the first
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


def own_udp_ports() -> set[int]:
    """Local ports of this process's UDP sockets."""
    links = (Path(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd"))
    inodes = set()
    for link in links:
        with contextlib.suppress(FileNotFoundError):
            inodes.add(os.readlink(link))
    ports = set()
    for table in ("udp", "udp6"):
        for row in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            words = row.split()
            if f"socket:[{words[9]}]" in inodes:
                ports.add(int(words[1].rpartition(":")[2], 16))
    return ports


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


# Sessions that never become calls.


async def silent(http: aiohttp.ClientSession, url: str) -> AsyncIterator[int]:
    """A peer that offers no candidate."""
    yield (await http.post(url, data=filled(VIDEO, []), headers=SDP)).status


async def unresolvable(http: aiohttp.ClientSession, url: str) -> AsyncIterator[int]:
    """A peer whose only candidate is a name that nobody knows."""
    more = ["a=candidate:1 1 udp 1 no-such-name.local 5000 typ host", "a=end-of-candidates"]
    yield (await http.post(url, data=filled(VIDEO, more), headers=SDP)).status


async def ice_peer(http: aiohttp.ClientSession, url: str) -> tuple[int, Connection]:
    """Offers a video with ICE of its own; returns the answer's status, and ICE to be connected."""
    ice = Connection(ice_controlling=True)
    await ice.gather_candidates()
    offer = filled(VIDEO, []).decode()
    offer = offer.replace("ice-ufrag:abcd", f"ice-ufrag:{ice.local_username}")
    offer = re.sub("ice-pwd:.*", f"ice-pwd:{ice.local_password}\r", offer)
    offer += "".join(f"a=candidate:{one.to_sdp()}\r\n" for one in ice.local_candidates)
    response = await http.post(url, data=offer, headers=SDP)
    media = SessionDescription.parse(await response.text()).media[0]
    ice.remote_username, ice.remote_password = media.ice.usernameFragment, media.ice.password
    for line in re.findall("a=candidate:(.*)", await response.text()):
        await ice.add_remote_candidate(Candidate.from_sdp(line))
    await ice.add_remote_candidate(None)
    return response.status, ice


async def only_ice(http: aiohttp.ClientSession, url: str) -> AsyncIterator[int]:
    """A peer that does ICE, and then says nothing more."""
    status, ice = await ice_peer(http, url)
    await ice.connect()
    try:
        yield status
    finally:
        await ice.close()


def held() -> tuple[int, set[str], int]:
    """Returns what a session may leave behind: open files, threads' names, tasks."""
    files = len(os.listdir("/proc/self/fd"))
    threads = {
        one.name
        for one in threading.enumerate()
        if not one.name.startswith(("asyncio", "recognition"))
    }
    return files, threads, len(asyncio.all_tasks())


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
        await asyncio.sleep(3)
        assert "room" in server.rooms
        answer = RTCSessionDescription(await response.text(), "answer")
        await publisher.connection.setRemoteDescription(answer)
        await asyncio.wait_for(publisher.connected(), 10)
        room = server.rooms["room"]
        await until(lambda: room._publisher.connectionState == "connected")
        await publisher.close()
        assert room.never_connected == {"publisher": 0, "viewer": 0}


async def test_a_rooms_name_forges_no_line_of_the_log(generator, http, caplog):
    async with serving(generator, connect_seconds=0.3) as (server, base):
        await post_silent(http, base + "/whip/a%1b%5b31m%0ab")
        await until(lambda: not server.rooms)
    lines = [record.getMessage() for record in caplog.records]
    assert "a [31m b: a publisher did not connect in 0.3 s" in lines
    assert all(line.isprintable() for line in lines)
