"""Tokens, their roles and rooms, against the real server; and where tokens come from."""

import asyncio

import pytest
from yarl import URL

from receiver.calls.access import (
    FAILURES,
    parse_token,
)
from receiver.calls.config import ServeConfig
from receiver.calls.responses import HEADERS
from receiver.calls.server import Server, listening
from tests.calls.http.clients import no_enhancer
from tests.calls.peer import SDP, Peer, bearer, serving

TOKENS = [
    "everything",
    "publish:pub",
    "watch,stats:wat",
    "stats:sta",
    "all@a/b:room",
    "publish@x:two",
    "watch@y:two",
]
"""Two of the last have the same secret."""
PUBLISH, END, VIEW, LEAVE, STATS = (
    ("POST", "/whip/x"),
    ("DELETE", "/whip/x/1"),
    ("POST", "/whep/x"),
    ("DELETE", "/whep/x/1"),
    ("GET", "/stats"),
)
ALLOWED = {
    "everything": {PUBLISH, END, VIEW, LEAVE, STATS},
    "pub": {PUBLISH, END},
    "wat": {VIEW, LEAVE, STATS},
    "sta": {STATS},
    "room": {STATS},
    "two": {PUBLISH, END},
}


@pytest.mark.parametrize("secret", ALLOWED)
async def test_roles_and_rooms_limit_a_token(generator, http, secret):
    async with serving(generator, tokens=TOKENS) as (_, base):
        for method, path in (PUBLISH, END, VIEW, LEAVE, STATS):
            asked = {**SDP, **bearer(secret)}
            response = await http.request(method, base + path, headers=asked)
            if (method, path) in ALLOWED[secret]:
                assert response.status in (200, 400, 404), (method, path)
                continue
            assert response.status == 403, (method, path)
            role = {"/whip": "publish", "/whep": "watch", "/stat": "stats"}[path[:5]]
            challenge = response.headers["WWW-Authenticate"]
            assert challenge.startswith('Bearer realm="receiver", error="insufficient_scope"')
            assert challenge.endswith(f'scope="{role}"')
            said = await response.text()
            assert said.startswith("this token may not ")
            assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("secret", "allowed"),
    [
        ("room", {"/whip/a%2Fb", "/whep/a%2fb", "/whep/%61%2Fb"}),
        ("two", {"/whip/x", "/whep/y"}),
    ],
)
async def test_a_room_is_the_one_of_the_decoded_path(generator, http, secret, allowed):
    """A body that is not an offer is answered 400 if the token is valid for the room."""
    others = {"/whip/a%252Fb", "/whip/A%2FB", "/whip/a", "/whep/x", "/whip/y", "/whip/a%2Fb%2F"}
    async with serving(generator, tokens=TOKENS) as (_, base):
        for path in allowed | others:
            url = URL(base + path, encoded=True)
            status = (await http.post(url, headers=SDP | bearer(secret))).status
            assert status == (400 if path in allowed else 403), path
        # Not one room whose name has a slash, but a path that does not exist.
        url = URL(base + "/whip/a/b", encoded=True)
        assert (await http.post(url, headers=SDP | bearer(secret))).status == 405


async def test_a_token_of_a_room_sees_only_that_rooms_figures(generator, http):
    tokens = ["stats@a:only-a", "stats:all", "stats@a:a-and-b", "stats@b:a-and-b"]
    async with serving(generator, tokens=[*tokens, "publish:pub"], rooms=2) as (_, base):
        peers = []
        http.headers.update(bearer("pub"))
        for name in "ab":
            peers.append(Peer(http, base))
            assert (await peers[-1].publish(name)).status == 201
        for secret, rooms in (("only-a", {"a"}), ("all", {"a", "b"}), ("a-and-b", {"a", "b"})):
            stats = await http.get(base + "/stats", headers=bearer(secret))
            assert set(await stats.json()) - {""} == rooms
            assert ("" in await stats.json()) is (secret == "all")  # of the whole server
            metrics = await (await http.get(base + "/metrics", headers=bearer(secret))).text()
            assert {name for name in "ab" if f'{{room="{name}"' in metrics} == rooms
            assert ("receiver_rooms_limit 2.0" in metrics) is (secret == "all")
        for peer in peers:
            await peer.close()


@pytest.mark.parametrize(
    ("headers", "status", "error"),
    [
        ([], 401, None),
        ([b"Bearer"], 401, None),
        ([b"Bearer "], 401, None),
        ([b"Basic c2VjcmV0"], 401, None),
        ([b"secret"], 401, None),
        ([b"Bearer wrong"], 401, "invalid_token"),
        ([b"Bearer Secret"], 401, "invalid_token"),
        ([b"Bearer secret,"], 401, "invalid_token"),
        ([b"Bearer secret", b"Bearer wrong"], 400, None),
        ([b"Bearer secret", b"Bearer secret"], 400, None),
        ([b"Bearer \xff"], 401, "invalid_token"),
        ([b"Bearer secret"], 200, None),
        ([b"bearer secret"], 200, None),
        ([b"BEARER   secret  "], 200, None),
        (["Bearer pässwörd 漢字".encode()], 200, None),
        (["Bearer pässwörd".encode("latin-1")], 401, "invalid_token"),
    ],
)
async def test_the_authorization_header_is_read_as_the_standard_says(headers, status, error):
    tokens = tuple(parse_token(text) for text in ("secret", "pässwörd 漢字"))
    server = Server(ServeConfig(port=0, tokens=tokens), no_enhancer)
    async with listening(server) as url:
        port = int(url.rsplit(":", 1)[1].strip("/"))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        lines = b"".join(b"Authorization: " + value + b"\r\n" for value in headers)
        writer.write(b"GET /stats HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + lines + b"\r\n")
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    assert answer.split(b" ", 2)[1] == str(status).encode()
    if status == 401:
        challenge = 'Bearer realm="receiver"' + (f', error="{error}"' if error else "")
        assert f"\r\nWWW-Authenticate: {challenge}\r\n".encode() in answer


async def test_wrong_tokens_are_limited_and_the_right_one_gets_in(generator, http):
    async with serving(generator, token="secret") as (_, base):
        for _ in range(FAILURES):
            assert (await http.get(base + "/stats", headers=bearer("no"))).status == 401
        for path in ("/stats", "/whip/a"):
            response = await http.get(base + path, headers=bearer("no"))
            assert response.status == 429
            assert 50 <= int(response.headers["Retry-After"]) <= 60
            assert "too many wrong tokens" in await response.text()
        assert (await http.get(base + "/stats")).status == 401  # without a token nothing is tried
        assert (await http.get(base + "/")).status == 200
        assert (await http.get(base + "/stats", headers=bearer("secret"))).status == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("//whip/a", 401),
        ("/whip//a", 401),
        ("/./stats", 401),
        ("/page.js/../stats", 401),
        ("/%73tats", 401),
        ("/stats/", 401),
        ("/stats%2F", 401),
        ("/healthz/../stats", 401),
        ("/healthz/", 401),
        ("/healthz?x=/stats", 200),
        ("/nowhere", 401),
        ("/page.js", 200),
        ("/page%2Ejs", 200),
        ("http://a/stats", 401),
        ("http://a/healthz", 200),
        ("*", 401),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "PUT"])
async def test_no_spelling_of_a_path_gets_around_the_token(method, path, status):
    """The path goes over the wire as it is: clients would tidy it."""
    server = Server(ServeConfig(port=0, tokens=(parse_token("secret"),)), no_enhancer)
    async with listening(server) as url:
        port = int(url.rsplit(":", 1)[1].strip("/"))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    got = int(answer.split(b" ", 2)[1])
    if method in ("GET", "HEAD"):
        assert got in (status, 400)
    else:
        assert got in (400, 401)


async def test_the_health_check_needs_no_token_and_reveals_nothing(generator, http):
    for config in ({}, {"token": "secret"}):
        async with serving(generator, **config) as (_, base):
            for host in ("127.0.0.1", "receiver.example", "", "["):
                response = await http.get(base + "/healthz", headers={"Host": host})
                assert (response.status, await response.text()) == (200, "ok\n")
                assert response.content_type == "text/plain"
            assert (await http.head(base + "/healthz")).status == 200


async def test_options_needs_no_token_and_reveals_no_rooms(generator, http):
    async with serving(generator, token="secret") as (_, base):
        for path in ("/whip/a", "/whep/a", "/stats", "/nowhere"):
            response = await http.options(base + path)
            assert (response.status, await response.read()) == (204, b"")
            assert response.headers["Accept-Post"] == "application/sdp"


async def test_every_answer_has_the_headers_that_protect_a_browser(generator, http):
    async with serving(generator, token="secret") as (_, base):
        right = bearer("secret")
        asked = [
            ("GET", "/", {}, 200),
            ("GET", "/page.js", {}, 200),
            ("GET", "/healthz", {}, 200),
            ("GET", "/stats", {}, 401),
            ("GET", "/stats", right, 200),
            ("GET", "/nowhere", right, 404),
            ("PUT", "/stats", right, 405),
            ("POST", "/whip/a", right, 415),
            ("OPTIONS", "/whip/a", {}, 204),
        ]
        for method, path, headers, status in asked:
            response = await http.request(method, base + path, headers=headers)
            assert response.status == status
            for name in HEADERS:
                expected = HEADERS[name]
                if name == "Cache-Control" and path in ("/", "/page.js", "/healthz"):
                    expected = "no-cache"
                assert response.headers.getall(name) == [expected], (method, path)
        policy = HEADERS["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert HEADERS["X-Content-Type-Options"] == "nosniff"
        assert HEADERS["Referrer-Policy"] == "no-referrer"


async def test_a_fault_of_the_server_has_those_headers_too(http):
    server = Server(ServeConfig(port=0, cors=True), no_enhancer)

    async def fails(request):
        raise RuntimeError("a fault of the server")

    server._stats = fails
    async with listening(server) as url:
        response = await http.get(url + "stats")
        assert response.status == 500
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Access-Control-Allow-Origin"] == "*"
