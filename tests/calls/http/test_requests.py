"""Requests that the real server refuses, each in one sentence."""

import asyncio
import gzip

import pytest

from receiver.calls.access import parse_token
from receiver.calls.config import ServeConfig
from receiver.calls.responses import MAX_NAME
from receiver.calls.server import MAX_BODY
from receiver.errors import InputError
from receiver.transport.connections import receive_h264
from tests.calls.offers.making import STALL, VIDEO, StallWatch, filled
from tests.calls.peer import SDP, Peer, serving

OFFER_VP8 = "\r\n".join(
    [
        "v=0", "o=- 1 1 IN IP4 0.0.0.0", "s=-", "t=0 0", "m=video 9 UDP/TLS/RTP/SAVPF 96",
        "c=IN IP4 0.0.0.0", "a=mid:0", "a=sendonly", "a=rtpmap:96 VP8/90000", "a=rtcp-mux",
        "a=setup:actpass", "a=ice-ufrag:abcd", "a=ice-pwd:abcdefghijklmnopqrstuv",
        "a=fingerprint:sha-256 " + ":".join(["AA"] * 32), "",
    ]
)  # fmt: skip


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ("", 400, "not an SDP offer"),
        ("hello", 400, "not an SDP offer"),
        ("v=0\r\nm=video x", 400, "not an SDP offer"),
        (OFFER_VP8, 422, "no H.264"),
        (OFFER_VP8.replace("m=video", "m=audio"), 422, "no video"),
        ("x" * (MAX_BODY + 1), 413, "exceeded"),
    ],
)
@pytest.mark.parametrize("path", ["/whip/room", "/whep/room"])
async def test_a_bad_offer_is_told_why(generator, http, path, body, status, sentence):
    async with serving(generator) as (server, base):
        response = await http.post(base + path, data=body, headers=SDP)
        assert response.status == status
        said = await response.text()
        assert sentence in said
        assert said.count("\n") == 1
        assert server.rooms == {}


async def test_other_requests_that_cannot_be_met(generator, http):
    async with serving(generator) as (_, base):
        assert (await http.post(base + "/whip/room", data="x")).status == 415
        assert (await http.get(base + "/whip/room")).status == 405
        assert (await http.get(base + "/nowhere")).status == 404
        assert (await http.delete(base + "/whip/room/abc")).status == 404
        viewer = Peer(http, base)
        response = await viewer.watch()
        assert response.status == 404
        assert "room is not being published" in await response.text()
        publisher, second = Peer(http, base), Peer(http, base)
        await publisher.publish()
        receive_h264(second.connection)
        response = await second.negotiate("/whip/room")
        assert response.status == 409
        response = await http.post(
            base + "/whip/other", data=second.connection.localDescription.sdp, headers=SDP
        )
        assert (response.status, response.headers["Retry-After"]) == (503, "30")
        assert await response.text() == (
            "this server accepts one call at a time, and no more can start now: try again later\n"
        )
        assert (await http.delete(base + "/whip/room/wrong")).status == 404
        await asyncio.gather(publisher.close(), second.close(), viewer.close())


async def test_odd_requests_are_told_what_is_wrong_with_them(generator, http):
    """Each was an HTTP 500."""
    async with serving(generator) as (server, base):
        for charset in ("undefined", "idna", "nosuch"):
            headers = {"Content-Type": f"application/sdp; charset={charset}"}
            response = await http.post(base + "/whip/a", data=b"v=0\xff", headers=headers)
            assert response.status in (400, 415)
        publisher = Peer(http, base)
        receive_h264(publisher.connection)
        response = await publisher.negotiate("/whip/née b%0A")
        assert (response.status, publisher.location[:22]) == (201, "/whip/n%C3%A9e%20b%0A/")
        assert (await http.delete(base + "/whip/n%C3%A9e%20b%0A/%C3%A9")).status == 404
        assert len(server.rooms) == 1
        await publisher.close()
    async with serving(generator, token="secret") as (_, base):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(base.rsplit(":", 1)[1]))
        writer.write(b"GET /stats HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer \xff\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
        writer.close()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("127.0.0.1:80", 200),
        ("[::1]:8080", 200),
        ("evil.example", 421),
        ("localhost.evil.example:8080", 421),
        ("", 421),
        ("[", 421),
    ],
)
async def test_a_name_that_was_made_to_resolve_to_this_machine_is_refused(
    generator, http, host, status
):
    """DNS rebinding: to the browser that page would be of the server's own origin."""
    async with serving(generator) as (_, base):
        response = await http.get(base + "/stats", headers={"Host": host})
        assert response.status == status
    async with serving(generator, token="secret") as (_, base):
        good = {"Host": host, "Authorization": "Bearer secret"}
        assert (await http.get(base + "/stats", headers=good)).status == 200


async def test_without_the_token_there_is_only_the_page(generator, http):
    async with serving(generator, token="secret") as (_, base):
        for path in ("/", "/page.js", "/page.css"):
            assert (await http.get(base + path)).status == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            response = await http.get(base + "/stats", headers=headers)
            assert response.status == 401
            assert response.headers["WWW-Authenticate"].startswith('Bearer realm="receiver"')
            assert (await http.post(base + "/whip/a", headers=headers)).status == 401
        good = {"Authorization": "Bearer secret"}
        assert (await http.get(base + "/stats", headers=good)).status == 200


async def test_other_origins_are_shut_out_unless_let_in(generator, http):
    async with serving(generator) as (_, base):
        response = await http.options(base + "/whip/a")
        assert "Access-Control-Allow-Origin" not in response.headers
        assert response.headers["Accept-Post"] == "application/sdp"
    async with serving(generator, cors=True) as (_, base):
        response = await http.options(base + "/whip/a")
        assert response.headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_an_open_address_needs_a_token(host):
    with pytest.raises(InputError, match="give --token"):
        ServeConfig(host=host)
    short, long = (parse_token(f"publish:{'x' * length}") for length in (15, 16))
    with pytest.raises(InputError, match="has 15 characters: give --token at least 16"):
        ServeConfig(host=host, tokens=(long, short))
    assert ServeConfig(host=host, tokens=(long,)).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_a_loopback_address_needs_none(host):
    assert ServeConfig(host=host).tokens == ()
    assert ServeConfig(host=host, tokens=(parse_token("x"),)).host == host


def test_half_a_tls_pair_is_refused(tmp_path):
    with pytest.raises(InputError, match="TLS needs both"):
        ServeConfig(tls_cert=tmp_path / "cert.pem")
    (tmp_path / "cert.pem").write_text("no certificate")
    config = ServeConfig(tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "cert.pem")
    with pytest.raises(InputError, match="are not a certificate and its key"):
        config.ssl_context()


async def test_compressed_bodies_are_refused_and_not_decompressed(generator, http, young_heap):
    """Before the token was checked, 400 kB of them held the event loop for a quarter second."""
    body = gzip.compress(bytes(400_000_000))
    headers = SDP | {"Content-Encoding": "gzip"}
    async with serving(generator, token="secret") as (_, base):
        for token, status in (("no", 401), ("secret", 415)):
            async with StallWatch() as watch:
                sent = headers | {"Authorization": f"Bearer {token}"}
                answer = await http.post(base + "/whip/r", data=body, headers=sent)
                assert answer.status == status
                await asyncio.sleep(0.05)  # what is begun after the answer counts too
            assert watch.worked < STALL
        assert await answer.text() == "send the body without a Content-Encoding\n"


@pytest.mark.parametrize(
    ("encoding", "status"),
    [("identity", 201), ("Identity", 201), ("gzip", 415), ("GZIP", 415), ("deflate", 415),
     ("br", 415), ("zstd", 415), ("identity, gzip", 415)],
)  # fmt: skip
async def test_bodies_have_no_encoding(generator, encoding, status):
    async with serving(generator) as (_, base):
        line, _ = await post(base, "/whip/r", f"Content-Encoding: {encoding}")
        assert line.split()[1] == str(status)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/whip/.", "a room cannot be called '.': use another name\n"),
        ("/whip/..", "a room cannot be called '..': use another name\n"),
        ("/whip/%2e", "a room cannot be called '.': use another name\n"),
        ("/whip/.%2E", "a room cannot be called '..': use another name\n"),
        ("/whep/..", "a room cannot be called '..': use another name\n"),
        ("/whip/...", None),
        ("/whip/" + "a" * MAX_NAME, None),
        ("/whip/" + "%C3%A9" * MAX_NAME, None),
        (
            "/whip/" + "a" * (MAX_NAME + 1),
            "a room's name has at most 256 characters: use a shorter one\n",
        ),
    ],
)
async def test_a_rooms_name_can_stand_in_a_url(generator, path, sentence):
    async with serving(generator) as (server, base):
        line, said = await post(base, path, "Accept: */*")
        assert line.split()[1] == ("201" if sentence is None else "400")
        assert sentence in (None, said)
        assert len(server.rooms) == (sentence is None)


async def post(base, path, header):
    """Posts an offer to a path as it is written; returns the answer's first line and its text."""
    offer = filled(VIDEO, [])
    reader, writer = await asyncio.open_connection("127.0.0.1", int(base.rsplit(":", 1)[1]))
    writer.write(
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{header}\r\n"
        f"Content-Type: application/sdp\r\nContent-Length: {len(offer)}\r\n\r\n".encode()
        + offer
    )
    answer = (await asyncio.wait_for(reader.read(), 10)).decode()
    writer.close()
    return answer.split("\r\n", 1)[0], answer.split("\r\n\r\n", 1)[1]
