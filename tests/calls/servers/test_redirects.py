"""What `join` and `send` do with servers that answer wrongly: real requests to such servers."""

import socket

import pytest
from aiohttp import web
from yarl import URL

from receiver.errors import InputError
from receiver.signalling.addresses import Reach
from receiver.signalling.client import (
    MOST_REDIRECTS,
    Answer,
    Client,
    SessionError,
)
from tests.calls.servers.endpoints import (
    SECONDS,
    answerer,
    gone,
    joined,
    origin,
    raw,
    refused,
)

# Credentials, Location and redirects.


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("/session/1", "/session/1"),
        ("session/1", "/a/session/1"),
        ("{home}/session/1?x=y", "/session/1"),
        ("{home_with_user}/session/1", "/session/1"),
        ("//{other_host}/session/1", None),
        ("{other}/session/1", None),
        ("{home_by_name}/session/1", None),
        ("https://{home_host}/session/1", None),
        ("ftp://{home_host}/session/1", None),
        ("http://[", None),
        ("http://127.0.0.1:999999/x", None),
        ("", None),
    ],
)
async def test_only_a_session_at_the_users_origin_is_deleted(location, path, caplog):
    """And nothing at all reaches another one."""
    async with origin(gone) as other, answerer() as endpoint, origin(endpoint) as home:
        host, other_host = (one.base.removeprefix("http://") for one in (home, other))
        endpoint.headers["Location"] = location.format(
            home=home.base,
            home_host=host,
            home_with_user=home.base.replace("//", "//mallory:x@"),
            home_by_name=home.base.replace("127.0.0.1", "localhost"),
            other=other.base,
            other_host=other_host,
        )
        await joined(home.base + "/a/whep")
    assert home.requests("DELETE") == ([(path, "Bearer secret")] if path else [])
    assert not other.seen
    said = [one for one in caplog.messages if "is not deleted there" in one]
    assert len(said) == (path is None and location != "")


async def test_a_redirect_to_another_origin_gets_the_offer_and_no_token(caplog):
    async with answerer(Location="/session/1") as endpoint, origin(endpoint) as other:

        async def away(request: web.Request) -> web.Response:
            return web.Response(status=307, headers={"Location": f"{other.base}/whep"})

        async with origin(away) as home:
            await joined(home.base + "/whep")
    assert home.requests("POST") == [("/whep", "Bearer secret")]
    assert other.seen == [("POST", "/whep", None)]
    assert "is not deleted there" in caplog.text


async def test_a_redirect_to_another_origin_that_asks_for_the_token_is_told():
    async def unauthorised(request: web.Request) -> web.Response:
        return web.Response(status=401)

    async with origin(unauthorised) as other:

        async def away(request: web.Request) -> web.Response:
            return web.Response(status=308, headers={"Location": f"{other.base}/whep"})

        async with origin(away) as home:
            await refused(home.base, InputError, other.base, "asks for a token", "use that address")
    assert other.seen == [("POST", "/whep", None)]


async def test_a_user_and_password_go_to_the_users_origin_alone():
    async with origin(gone) as other:

        async def away(request: web.Request) -> web.Response:
            return web.Response(status=307, headers={"Location": f"{other.base}/whep"})

        async with origin(away) as home:
            url = home.base.replace("//", "//me:hidden@")
            error = await refused(url, SessionError, "answers 503", token=None)
            assert "hidden" not in str(error)
            await refused(url, InputError, "has a user, and there is a token")
    assert home.requests("POST") == [("/", "Basic bWU6aGlkZGVu")]
    assert other.seen == [("POST", "/whep", None)]


async def test_no_cookie_is_kept():
    """Cookies do not know ports: another origin of the same host would get them."""
    cookies: list[str | None] = []

    async def away(request: web.Request) -> web.Response:
        cookies.append(request.headers.get("Cookie"))
        headers = {"Location": "/again", "Set-Cookie": "session=1; Path=/"}
        return web.Response(status=307, headers=headers)

    async with origin(away) as home:
        await refused(home.base.replace("127.0.0.1", "localhost"), SessionError, "redirects more")
    assert cookies == [None] * (1 + MOST_REDIRECTS)


@pytest.mark.parametrize("status", [307, 308])
async def test_redirects_are_followed_five_times(status):
    async def around(request: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Location": f"/{len(here.seen)}"})

    async with origin(around) as here:
        await refused(here.base + "/whep", SessionError, "redirects more than 5 times")
    assert len(here.requests("POST")) == 1 + MOST_REDIRECTS
    assert {token for _, token in here.requests("POST")} == {"Bearer secret"}


@pytest.mark.parametrize(
    ("status", "location", "error", "words"),
    [
        (301, "/x", InputError, "redirects with 301 to /x"),
        (302, "/x\x1b[31m", InputError, "redirects with 302 to /x"),
        (303, "", InputError, "redirects with 303 to nowhere"),
        (307, "", SessionError, "redirects (307) to no valid http(s):// address"),
        (308, "http://[", SessionError, "redirects (308) to no valid http(s):// address"),
        (308, "http:///x", SessionError, "redirects more than 5 times"),
        (307, "file:///etc/passwd", SessionError, "to no valid http(s):// address"),
        (307, "janus+http://127.0.0.1/", SessionError, "to no valid http(s):// address"),
        (307, f"http://{'a' * 70}.example/", SessionError, "does not answer"),
        (307, "http://224.0.0.1/", SessionError, "is more local than itself"),
        (300, "/x", SessionError, "answers 300"),
        (304, "/x", SessionError, "answers 304"),
    ],
)
async def test_other_redirects_are_not_followed(status, location, error, words):
    async def away(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={"Location": location} if location else {})

    async with raw(b"", lambda: redirect(status, location)) as base:
        await refused(base, error, words)


def redirect(status: int, location: str) -> bytes:
    line = f"Location: {location}\r\n" if location else ""
    return f"HTTP/1.1 {status} Moved\r\n{line}Content-Length: 0\r\n\r\n".encode()


async def test_no_redirect_leads_from_https_to_http(tls, monkeypatch):
    server, client = tls
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", client)
    async with origin(gone) as plain:

        async def down(request: web.Request) -> web.Response:
            return web.Response(status=307, headers={"Location": f"{plain.base}/whep"})

        async with origin(down, ssl=server) as home:
            await refused(home.base, SessionError, "redirects from https to http://127.0.0.1")
    assert home.requests("POST") == [("/", "Bearer secret")]
    assert not plain.seen


async def test_options_and_delete_are_not_redirected():
    async with origin(gone) as other, answerer(Location="/session") as endpoint:

        async def handler(request: web.Request) -> web.StreamResponse:
            if request.method == "DELETE":
                return web.Response(status=307, headers={"Location": other.base})
            return await endpoint(request)

        async with origin(handler) as home:
            await joined(home.base)
    assert home.requests("DELETE") == [("/session", "Bearer secret")]
    assert not other.seen


async def test_an_endpoint_far_away_leads_nowhere_near():
    """Neither by an address nor by a name of one."""
    for place in ("127.0.0.1:9", "localhost:9", "10.0.0.1", "[::ffff:127.0.0.1]", "printer.local"):
        async with Client("http://sfu.example/whep", None, SECONDS).opened() as client:
            moved = Answer(client.home, 307, "", {"Location": f"//{place}/x"}, [], b"", True)
            with pytest.raises(SessionError, match="is more local than itself"):
                client._next(moved)


async def test_a_name_far_away_that_has_an_address_nearby_is_not_reached(monkeypatch):
    """Whoever owns a name says what address it has."""
    look_up = socket.getaddrinfo

    def answers(host: str, *more, **named):
        return look_up("127.0.0.1" if host == "near.example" else host, *more, **named)

    monkeypatch.setattr("socket.getaddrinfo", answers)
    async with origin(gone) as near:
        by_name = near.base.replace("127.0.0.1", "near.example")
        async with Client("http://sfu.example/whep", None, SECONDS).opened() as client:
            assert client.may_name("near.example")
            with pytest.raises(SessionError, match="does not answer"):
                await client.ask("POST", URL(by_name), most=9)
            assert await client.address_of("near.example") is None
        assert not near.seen
        async with Client(by_name, None, SECONDS).opened() as client:  # the user's own choice
            assert (await client.ask("POST", client.home, most=9)).status == 503
            assert client.reach is Reach.LOOPBACK


# Answers that are too large, too slow, or none.


# Link headers.


# Session descriptions.


# Janus.


# Commands: Ctrl-C, and what is kept.
