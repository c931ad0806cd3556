"""Real calls with peers and servers that are unusual but valid, or invalid in common ways."""

import asyncio
import contextlib
import re

import pytest
from aiohttp import web
from yarl import URL

from receiver.enhance.faces.album import peer_of
from receiver.errors import InputError
from receiver.media.encoding import Encoding
from receiver.sending.publishing import Sending, send
from receiver.sending.sources import clip_source
from receiver.signalling.client import Client, SessionError
from receiver.signalling.sessions import open_publishing, open_session
from tests.calls.offers.making import VIDEO, filled, section
from tests.calls.peer import SDP, Peer, bearer, serving, until
from tests.calls.servers.endpoints import (
    SECONDS,
    answerer,
    fake_janus,
    joined,
    origin,
    refused,
    replaced,
    without,
)


def other_case(sdp: str) -> str:
    """Returns a description with its case-insensitive parts in the case aiortc does not use."""
    for pattern, change in (
        (r"(?<=a=rtpmap:)(\d+ )(H264|VP8|G722|PCMU|PCMA)", str.lower),
        (r"(?<=a=rtpmap:)(\d+ )(opus|rtx)", str.upper),
        (r"UDP/\S+", str.lower),
        (r"(?<=a=fmtp:\d\d )\S+", str.title),
        (r"(?<=a=rtcp-fb:\d\d ).*", str.upper),
        (r"sha-\d+", str.upper),
        (r"([0-9A-F]{2}:){31}[0-9A-F]{2}", str.lower),
        (r"(?<=a=setup:)\w+", str.title),
        (r"BUNDLE", str.lower),
        (r" udp ", str.upper),
        (r"typ host", str.upper),
    ):
        changed = re.sub(pattern, lambda found, how=change: how(found[0]), sdp)
        assert changed != sdp or pattern.startswith("(?<=a=rtcp"), pattern
        sdp = changed
    return sdp


def spaced(sdp: str) -> str:
    """Spaces between a codec's parameters, as cameras write them."""
    return sdp.replace(";packetization-mode", "; packetization-mode")


CHANGES = {
    "other case": other_case,
    "spaces": spaced,
    "hexadecimal digits": replaced("profile-level-id=42e01f", "profile-level-id=42E01F"),
}
NO_ROLE = {"no role": without("setup")}


@pytest.mark.parametrize("change", [*CHANGES, *NO_ROLE])
async def test_an_odd_offer_becomes_a_call(generator, http, change):
    async with serving(generator) as (_, base):
        publisher, viewer = Peer(http, base), Peer(http, base)
        publisher.change = viewer.change = (CHANGES | NO_ROLE)[change]
        assert (await publisher.publish(sound=True)).status == 201
        assert (await viewer.watch(sound=True)).status == 201
        assert len(await viewer.frames(5)) == 5
        piece = await asyncio.wait_for(viewer.tracks["audio"].recv(), 5)
        assert piece.sample_rate == 48000
        answer = publisher.connection.remoteDescription.sdp
        role = "passive" if change == "no role" else "active"
        assert set(re.findall("a=setup:(.*)\r", answer)) == {role}
        assert "rtx/90000" in answer.lower()
        await asyncio.gather(publisher.close(), viewer.close())


@pytest.mark.parametrize("change", CHANGES)
async def test_an_odd_answer_becomes_a_call(change, clip):
    async with answerer(CHANGES[change]) as endpoint, origin(endpoint) as home:
        await joined(home.base)
    call = Sending(clip_source(clip), Encoding(kbps=60))
    async with (
        answerer(CHANGES[change]) as endpoint,
        origin(endpoint) as home,
        open_publishing(home.base, None, call.prepare, seconds=SECONDS) as connection,
    ):
        await until(lambda: connection.connectionState == "connected", 5)
    call.close()


@pytest.mark.parametrize("change", [*CHANGES, *NO_ROLE])
async def test_an_odd_offer_of_janus_becomes_a_call(change):
    async with fake_janus() as (server, _, url):
        server.change = (CHANGES | NO_ROLE)[change]
        await joined(url, None)


async def test_an_unusable_offer_of_janus_is_reported():
    async with fake_janus() as (server, _, url):
        server.change = replaced("packetization-mode=1", "packetization-mode=0")
        words = "it has H.264 only in packetization-mode 0: add packetization-mode=1"
        await refused(url, SessionError, "the offer of", "cannot be used", words, token=None)


MODE_0 = (
    "the offer has H.264 only in packetization-mode 0: add packetization-mode=1\n",
    ("packetization-mode=1", "packetization-mode=0"),
)
SPEEX = [line.replace("opus/48000/2", "speex/16000") for line in section("audio", 1)]


@pytest.mark.parametrize(
    ("sentence", "change"),
    [
        MODE_0,
        (MODE_0[0], ("packetization-mode=1", "profile-level-id=42e01f")),
        (MODE_0[0], ("a=fmtp:96 packetization-mode=1\r\n", "")),
        (
            "the offer has H.264 only in unsupported profiles: add profile-level-id=42e01f\n",
            ("packetization-mode=1", "packetization-mode=1;profile-level-id=f4001f"),
        ),
        (
            "the offer has no sound in Opus, G.722 or G.711\n",
            (VIDEO[-1], "\r\n".join([VIDEO[-1], *SPEEX])),
        ),
        (
            "the offer has the DTLS role 'holdconn': use a=setup:actpass\n",
            ("a=setup:actpass", "a=setup:holdconn"),
        ),
        (
            "the offer has RTCP on a separate port: add a=rtcp-mux\n",
            ("a=rtcp-mux\r\n", ""),
        ),
    ],
)
@pytest.mark.parametrize("path", ["/whip/other", "/whep/room"])
async def test_an_offer_that_cannot_be_answered_is_refused_with_a_reason(
    generator, http, path, sentence, change
):
    """None of the sentences is aiortc's."""
    async with serving(generator, rooms=2) as (server, base):
        good = filled(VIDEO, [])
        assert (await http.post(base + "/whip/room", data=good, headers=SDP)).status == 201
        offer = good.decode().replace(*change)
        assert offer != good.decode()
        response = await http.post(base + path, data=offer, headers=SDP)
        assert (response.status, await response.text()) == (422, sentence)
        assert set(server.rooms) == {"room"}
        assert server.rooms["room"].viewer_count == 0


# What is beside the SDP.


@pytest.mark.parametrize("kind", ["application/SDP", "Application/sdp; charset=utf-8"])
async def test_the_content_type_has_no_case_and_may_have_parameters(generator, http, kind):
    async with serving(generator) as (_, base):
        headers = {"Content-Type": kind}
        response = await http.post(base + "/whip/a", data=filled(VIDEO, []), headers=headers)
        assert response.status == 201


@pytest.mark.parametrize("end", ["", "/"])
async def test_a_slash_at_an_addresss_end_changes_nothing(generator, http, end):
    async with serving(generator, token="secret") as (server, base):
        http.headers.update(bearer("secret"))
        publisher, viewer = Peer(http, base), Peer(http, base)
        assert (await publisher.publish("room" + end)).status == 201
        assert list(server.rooms) == ["room"]
        assert (await viewer.watch(f"/whep/room{end}?view=both")).status == 201
        assert (await viewer.frames(3))[-1].width == 1280
        for peer in (viewer, publisher):
            assert re.fullmatch("/wh[ie]p/room/[^/]+", peer.location)
            headers = {"Content-Type": "application/trickle-ice-sdpfrag", "If-Match": peer.etag}
            where = base + peer.location + end
            patched = await http.patch(where, data="a=end-of-candidates", headers=headers)
            assert patched.status == 204
            assert (await http.delete(where)).status == 200
            await peer.close()
        assert server.rooms == {}
        for path in ("/whip/room//", "/whip//", "/whip/", "/stats/"):
            assert (await http.post(base + path, headers=SDP)).status == 404


@pytest.mark.parametrize("end", ["", "/"])
async def test_a_slash_at_the_end_needs_the_same_token(generator, http, end):
    async with serving(generator, tokens=["publish@x:pub", "watch@x:wat"]) as (_, base):
        for path, secret in (("/whip/x", "pub"), ("/whep/x", "wat")):
            for more in ("", "/1"):
                method = "DELETE" if more else "POST"
                for given, status in (
                    ("", 401),
                    (secret, 400),
                    ("wat" if secret == "pub" else "pub", 403),
                ):
                    headers = SDP | (bearer(given) if given else {})
                    response = await http.request(method, base + path + more + end, headers=headers)
                    assert response.status == (404 if more and status == 400 else status)


ALLOWED = {
    "/": "GET, HEAD, OPTIONS",
    "/page.js": "GET, HEAD, OPTIONS",
    "/healthz": "GET, HEAD, OPTIONS",
    "/stats": "GET, HEAD, OPTIONS",
    "/metrics": "GET, HEAD, OPTIONS",
    "/whip/x": "OPTIONS, POST",
    "/whep/x/": "OPTIONS, POST",
    "/whip/x/1": "DELETE, OPTIONS, PATCH",
    "/whep/x/1/": "DELETE, OPTIONS, PATCH",
}


@pytest.mark.parametrize("path", ALLOWED)
async def test_every_address_tells_its_methods(generator, http, path):
    async with serving(generator, token="secret") as (_, base):
        options = await http.options(base + path)
        assert (options.status, options.headers["Allow"]) == (204, ALLOWED[path])
        accepted = options.headers.get("Accept-Patch")
        assert accepted == ("application/trickle-ice-sdpfrag" if "PATCH" in ALLOWED[path] else None)
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "PROPFIND"):
            asked = {"Content-Type": "text/html", **bearer("secret")}
            response = await http.request(method, base + path, headers=asked)
            if method in ALLOWED[path].split(", "):
                assert response.status in (200, 404, 415), method
                assert "Allow" not in response.headers
                continue
            assert (response.status, response.headers["Allow"]) == (405, ALLOWED[path]), method
            sentence = f"{method} is not allowed here: use a method that Allow lists\n"
            assert await response.text() == ("" if method == "HEAD" else sentence)
        assert "Allow" not in (await http.options(base + "/nowhere")).headers


async def test_pages_of_other_origins_may_trickle_if_they_may_publish(generator, http):
    async with serving(generator, cors=True) as (_, base):
        headers = (await http.options(base + "/whip/x/1")).headers
        assert "PATCH" in headers["Access-Control-Allow-Methods"]
        assert "If-Match" in headers["Access-Control-Allow-Headers"]
        assert {"ETag", "Location"} <= set(headers["Access-Control-Expose-Headers"].split(", "))


# Servers that answer 200.


@pytest.mark.parametrize("status", [200, 201])
@pytest.mark.parametrize("location", [None, "/session/1", "session/1"])
async def test_a_session_is_one_by_200_too(status, location):
    """Without a Location there is nothing to delete."""
    async with answerer() as endpoint, origin(endpoint) as home:
        endpoint.status = status
        if location is not None:
            endpoint.headers["Location"] = location
        await joined(home.base + "/a/whep/")
    path = {None: [], "/session/1": ["/session/1"], "session/1": ["/a/whep/session/1"]}[location]
    assert [one for one, _ in home.requests("DELETE")] == path
    assert [one for one, _ in home.requests("POST")] == ["/a/whep/"]


async def test_a_clip_is_sent_to_a_server_that_answers_200(clip):
    said: list[str] = []
    async with answerer() as endpoint, origin(endpoint) as home:
        endpoint.status = 200
        sending = asyncio.ensure_future(send(clip_source(clip), 60, home.base, None, said.append))
        await until(lambda: said, 10)
        (connection,) = endpoint.connections
        await until(lambda: connection.connectionState == "connected", 5)
        await connection.close()
        with contextlib.suppress(Exception):
            await asyncio.wait_for(sending, 10)
    assert said[0].startswith("sending to")


@pytest.mark.parametrize("status", [200, 201])
async def test_a_page_is_no_session(status):
    async with answerer(lambda sdp: "<!doctype html>") as endpoint, origin(endpoint) as home:
        endpoint.status = status
        await refused(home.base, InputError, "cannot be used: it is not SDP")


@pytest.mark.parametrize("status", [202, 204, 206])
async def test_other_answers_are_no_session(status):
    async with answerer() as endpoint, origin(endpoint) as home:
        endpoint.status = status
        with pytest.raises(Exception, match=f"answers {status}"):
            await joined(home.base)


async def test_schemes_and_hosts_of_an_address_have_no_case():
    async with answerer() as endpoint, origin(endpoint) as home:
        await joined(home.base.replace("http://127.0.0.1", "HTTP://LocalHost"))
    assert Client("HTTP://SFU.Example/a", None).home == URL("http://sfu.example/a")


@pytest.mark.parametrize("end", ["", "/"])
async def test_janus_is_found_with_a_slash_at_the_end(end):
    paths: list[str] = []

    async def janus(request):
        paths.append(request.path)
        made = {"janus": "success", "data": {"id": 7}}
        return web.json_response(
            made if len(paths) < 3 else {"janus": "error", "error": {"reason": "no"}}
        )

    async with origin(janus) as home:
        url = f"janus+{home.base}/janus{end}?room=1"
        with pytest.raises(Exception, match="reports: no"):
            async with open_session(url, None, lambda *_: None, seconds=SECONDS):
                pass
    assert paths[:3] == [f"/janus{end}", "/janus/7", "/janus/7/7"]


def test_references_of_an_address_are_those_with_a_slash_at_its_end():
    assert peer_of("https://sfu.example/whep/") == peer_of("https://SFU.example/whep")
    assert peer_of("https://sfu.example/") == peer_of("https://sfu.example")
    assert peer_of("https://sfu.example/a/?x=1") == peer_of("https://sfu.example/a?x=1")
    assert peer_of("https://sfu.example/a/b") != peer_of("https://sfu.example/a")
    assert peer_of("https://sfu.example/a?x=/") != peer_of("https://sfu.example/a?x=")
