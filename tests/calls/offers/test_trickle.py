"""Candidates that come after the offer, by PATCH to the real server (RFC 9725, section 4.3)."""

import asyncio
import re
import socket

import aiohttp
import pytest
from aiortc.sdp import SessionDescription

from receiver.calls.server import MAX_BODY
from receiver.signalling.offers import MAX_CANDIDATES, MAX_LINES
from receiver.signalling.trickle import SDPFRAG
from tests.calls.offers.making import (
    STALL,
    VIDEO,
    StallWatch,
    filled,
    listening_sockets,
    own_udp_ports,
    packets,
    section,
)
from tests.calls.peer import SDP, Peer, bearer, serving, until
from tests.calls.servers.endpoints import without

UFRAG = ("a=ice-ufrag:abcd", "a=ice-pwd:abcdefghijklmnopqrstuv")
"""Of the offers that `filled(VIDEO, …)` makes."""
MEDIA = ("m=video 9 UDP/TLS/RTP/SAVPF 96", "a=mid:0")
ROLES = [("/whip/room", "publisher"), ("/whep/room", "viewer")]


class Session:
    """A session whose peer says nothing by itself."""

    def __init__(self, http: aiohttp.ClientSession, base: str, created: aiohttp.ClientResponse):
        self.http, self.created = http, created
        self.url = base + created.headers["Location"]
        self.etag = created.headers["ETag"]

    async def patch(self, *lines: str, **headers: str | None) -> tuple[int, str]:
        """Sends a fragment; returns status and text. Headers that are None are left out."""
        given = {"Content-Type": SDPFRAG, "If-Match": self.etag}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        kept = {name: value for name, value in given.items() if value is not None}
        body = "".join(f"{line}\r\n" for line in lines)
        response = await self.http.patch(self.url, data=body, headers=kept)
        assert "ETag" not in response.headers
        return response.status, await response.text()


async def opened(http: aiohttp.ClientSession, base: str, path: str, *more: str) -> Session:
    """Publishes to the room if `path` is not that, and opens a session at `path`."""
    if path.startswith("/whep/"):
        await http.post(base + "/whip/room", data=filled(VIDEO, []), headers=SDP)
    created = await http.post(base + path, data=filled(VIDEO, list(more)), headers=SDP)
    assert created.status == 201
    return Session(http, base, created)


def candidates(sockets: list[socket.socket], line: str = "a=candidate:1 1 udp 1 {} {} typ host"):
    return [line.format(*one.getsockname()) for one in sockets]


@pytest.mark.parametrize("path", [path for path, _ in ROLES])
async def test_a_candidate_that_comes_later_is_checked(generator, http, path):
    async with serving(generator) as (_, base):
        session = await opened(http, base, path)
        assert "a=ice-options:trickle" in await session.created.text()
        with listening_sockets(2) as sockets:
            assert await session.patch(*UFRAG, *MEDIA, *candidates(sockets[:1])) == (204, "")
            lines = candidates(sockets[1:], "a=candidate:1 1 UDP 1 {} {} TYP HOST generation 0")
            assert await session.patch(*MEDIA, *UFRAG, *lines, "a=end-of-candidates") == (204, "")
            await asyncio.sleep(0.5)
            assert packets(sockets[:1]) > 0
            assert packets(sockets[1:]) > 0


@pytest.mark.parametrize("role", ["publisher", "viewer"])
async def test_a_peer_whose_offer_has_no_candidates_trickles_them(generator, http, role):
    async with serving(generator) as (server, base):
        publisher, viewer = Peer(http, base), Peer(http, base)
        late = publisher if role == "publisher" else viewer
        late.change = without("(candidate|end-of-candidates)")
        await publisher.publish()
        assert (await viewer.watch()).status == 201
        media = SessionDescription.parse(late.connection.localDescription.sdp).media[0]
        own = re.findall("a=candidate:.*(?=\r)", late.connection.localDescription.sdp)
        ice = f"a=ice-ufrag:{media.ice.usernameFragment}", f"a=ice-pwd:{media.ice.password}"
        lines = [*ice, "m=video 9 RTP/AVP 0", "a=mid:0", *own]
        headers = {"Content-Type": SDPFRAG, "If-Match": late.etag}
        body = "".join(f"{line}\r\n" for line in lines)
        response = await http.patch(base + late.location, data=body, headers=headers)
        assert response.status == 204
        room = server.rooms["room"]
        connection = room.connection(role, late.location.rpartition("/")[2])
        transport = connection.getTransceivers()[0].receiver.transport.transport
        known = {(one.ip, one.port) for one in transport.getRemoteCandidates()}
        assert {(line.split()[4], int(line.split()[5])) for line in own} <= known
        assert len(await viewer.frames(3)) == 3
        await asyncio.gather(publisher.close(), viewer.close())


CANDIDATE = "a=candidate:1 1 udp 1 127.0.0.1 9 typ host"


@pytest.mark.parametrize("path", [path for path, _ in ROLES])
@pytest.mark.parametrize(
    ("lines", "headers", "status", "sentence"),
    [
        ([*MEDIA, CANDIDATE], {"Content_Type": "application/sdp"}, 415, "send candidates as"),
        ([*MEDIA, CANDIDATE], {"Content_Type": SDPFRAG.title() + "; a=b"}, 204, ""),
        ([*MEDIA, CANDIDATE], {"If_Match": None}, 428, "send the session's ETag as If-Match"),
        ([*MEDIA, CANDIDATE], {"If_Match": '"other"'}, 412, "lacks this session's ETag"),
        ([*MEDIA, CANDIDATE], {"If_Match": "W/{}"}, 412, "lacks this session's ETag"),
        ([*MEDIA, CANDIDATE], {"If_Match": "x"}, 412, "lacks this session's ETag"),
        ([*MEDIA, CANDIDATE], {"If_Match": '"other", {}'}, 204, ""),
        ([*MEDIA, CANDIDATE], {"If_Match": "*"}, 204, ""),
        ([], {}, 400, "not an SDP fragment"),
        (["hello"], {}, 400, "not an SDP fragment"),
        ([*MEDIA, "", CANDIDATE, ""], {}, 204, ""),
        ([*MEDIA, "v=0"], {}, 400, "not an SDP fragment"),
        ([CANDIDATE], {}, 400, "a candidate without media: begin with an m-line"),
        ([MEDIA[0], CANDIDATE], {}, 400, "media without a mid: add one a=mid"),
        ([*MEDIA, "a=mid:1", CANDIDATE], {}, 400, "media without a mid: add one a=mid"),
        ([MEDIA[0], "a=mid:7", CANDIDATE], {}, 422, "has media '7', which the offer lacks"),
        (["a=ice-ufrag:efgh", *MEDIA, CANDIDATE], {}, 422, "ICE restarts are not supported"),
        (["a=ice-pwd:" + 22 * "x", *MEDIA], {"If_Match": "*"}, 422, "ICE restarts are not"),
        ([*MEDIA, "a=ice-ufrag:efgh"], {}, 422, "ICE restarts are not supported: end this session"),
        ([*MEDIA, "a=" + "b" * 4095], {}, 422, "the fragment has 4097 characters in one line"),
        (["a=b"] * (MAX_LINES + 1), {}, 422, "the fragment has 2001 lines: offer at most 2000"),
        (["m=a"] * 17, {}, 422, "the fragment has 17 media sections: offer at most 16"),
        ([*MEDIA, "a=end-of-candidates"], {}, 204, ""),
        ([*MEDIA, "a=candidate:"], {}, 204, ""),
        ([*MEDIA, "a=candidate:1 1 udp 1 127.0.0.1 x typ host"], {}, 204, ""),
        ([*MEDIA, "a=candidate:1 1 udp 1 127.0.0.1 9 typ host raddr x rport y"], {}, 204, ""),
    ],
)
async def test_a_fragment_is_taken_or_refused_in_one_sentence(
    generator, http, path, lines, headers, status, sentence
):
    async with serving(generator) as (server, base):
        session = await opened(http, base, path)
        given = {name: value and value.format(session.etag) for name, value in headers.items()}
        answered, said = await session.patch(*lines, **given)
        assert answered == status
        assert sentence in said
        assert said.count("\n") == (0 if status == 204 else 1)
        # It goes on as it was.
        assert "room" in server.rooms
        assert (await session.patch(*UFRAG, *MEDIA, CANDIDATE))[0] == 204
        assert (await http.delete(session.url)).status == 200
        assert (await session.patch(*MEDIA, CANDIDATE))[0] == 404


async def test_a_fragment_that_is_no_text_is_refused(generator, http):
    async with serving(generator) as (_, base):
        session = await opened(http, base, "/whip/room")
        headers = {"Content-Type": SDPFRAG, "If-Match": session.etag}
        response = await http.patch(session.url, data=b"a=\xff", headers=headers)
        assert (response.status, "UTF-8" in await response.text()) == (400, True)
        large = b"a=" + bytes(MAX_BODY)
        assert (await http.patch(session.url, data=large, headers=headers)).status == 413


async def test_sessions_are_patched_with_their_own_token_path_and_etag(generator, http):
    tokens = ["publish@room:pub", "watch@room:wat"]
    async with serving(generator, tokens=tokens) as (_, base):
        offer = filled(VIDEO, [])
        sessions = {}
        for path, secret in (("/whip/room", "pub"), ("/whep/room", "wat")):
            created = await http.post(base + path, data=offer, headers=SDP | bearer(secret))
            sessions[secret] = Session(http, base, created)
        pub, wat = sessions["pub"], sessions["wat"]
        assert len({pub.etag, wat.etag}) == 2
        lines = [*MEDIA, CANDIDATE]
        for session, right, wrong in ((pub, "pub", "wat"), (wat, "wat", "pub")):
            assert (await session.patch(*lines, **bearer(right)))[0] == 204
            assert (await session.patch(*lines, **bearer(wrong)))[0] == 403
            assert (await session.patch(*lines, **bearer("no")))[0] == 401
            assert (await session.patch(*lines))[0] == 401
            other = wat if session is pub else pub
            answered = await session.patch(*lines, If_Match=other.etag, **bearer(right))
            assert answered[0] == 412
        # A viewer's session is none of the publisher's, and the other way round.
        pub.url, wat.url = wat.url.replace("whep", "whip"), pub.url.replace("whip", "whep")
        for session, right in ((pub, "pub"), (wat, "wat")):
            assert (await session.patch(*lines, **bearer(right)))[0] == 404


@pytest.mark.parametrize("path", [path for path, _ in ROLES])
async def test_all_candidates_of_a_session_count_together(generator, http, path):
    with listening_sockets(MAX_CANDIDATES + 1) as sockets:
        lines = candidates(sockets)
        async with serving(generator) as (_, base):
            session = await opened(http, base, path, *lines[:10])
            for end in (15, 25, 20, MAX_CANDIDATES):  # those that are known do not count again
                assert await session.patch(*UFRAG, *MEDIA, *lines[end - 10 : end]) == (204, "")
            refusal = (422, "the session has 33 candidates: send at most 32\n")
            assert await session.patch(*MEDIA, lines[-1]) == refusal
            assert await session.patch(*MEDIA, *lines[-5:]) == refusal
            assert await session.patch(*MEDIA, lines[-2]) == (204, "")
            await asyncio.sleep(1.5)
            assert packets(sockets[-1:]) == 0
            assert all(packets([one]) for one in sockets[:-1])
            fragment = "the fragment has 33 candidates: offer at most 32\n"
            assert await session.patch(*MEDIA, *lines) == (422, fragment)


async def test_candidates_of_bundled_media_count_too(generator, http):
    async with serving(generator) as (_, base):
        session = await opened(http, base, "/whip/room", *section("audio", 1))
        line = "a=candidate:1 1 udp 1 127.0.0.1 {} typ host"
        for mid in "01":
            lines = [line.format(port) for port in range(20, 36)]
            assert await session.patch(MEDIA[0], f"a=mid:{mid}", *lines) == (204, "")
        assert (await session.patch(*MEDIA, line.format(36)))[0] == 422


@pytest.mark.parametrize("name", ["localhost", "0.0.0.0", "::ffff:127.0.0.1", "no-such.local"])
async def test_names_are_not_looked_up_and_odd_addresses_get_no_packet(generator, http, name):
    with listening_sockets(1) as sockets:
        line = f"a=candidate:1 1 udp 1 {name} {sockets[0].getsockname()[1]} typ host"
        async with serving(generator) as (_, base):
            session = await opened(http, base, "/whip/room")
            assert await session.patch(*MEDIA, line) == (204, "")
            await asyncio.sleep(0.5)
            assert packets(sockets) == 0
            assert 5353 not in own_udp_ports()


@pytest.mark.parametrize(
    "line",
    [
        "a=candidate:1 1 udp 1 127.0.0.1 9 typ host",
        "a=candidate:1 1 tcp 1 127.0.0.1 9 typ host",
        "a=b",
        "m=a 9 A 0",
        "a=ice-ufrag:efgh",
        "a=mid:0",
        "a=fmtp:96 " + ";" * 4000,
        "\x0b",
    ],
)
async def test_no_fragment_stalls_the_server(generator, http, young_heap, line):
    async with serving(generator) as (_, base):
        session = await opened(http, base, "/whip/room")
        count = min((MAX_BODY - 100) // (len(line) + 2), MAX_LINES - len(MEDIA))
        async with StallWatch() as watch:
            status, _ = await session.patch(*MEDIA, *[line] * count)
            assert status in (204, 400, 422)
            await asyncio.sleep(0.05)
        assert watch.worked < STALL


async def test_a_session_that_ends_meanwhile_takes_no_candidate(generator, http):
    async with serving(generator) as (server, base):
        session = await opened(http, base, "/whip/room")
        body = "".join(f"{line}\r\n" for line in (*MEDIA, CANDIDATE))
        headers = {"Content-Type": SDPFRAG, "If-Match": session.etag}
        patching = [http.patch(session.url, data=body, headers=headers) for _ in range(5)]
        answers = await asyncio.gather(*patching, http.delete(session.url))
        assert {one.status for one in answers} <= {200, 204, 404}
        await until(lambda: not server.rooms)
