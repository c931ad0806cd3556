"""Sessions with a Janus that answers wrongly."""

import asyncio

import pytest
from aiohttp import web

from receiver.errors import InputError
from receiver.signalling.client import (
    MOST_JSON,
    SessionError,
)
from receiver.signalling.sessions import open_session
from tests.calls.peer import until
from tests.calls.servers.endpoints import (
    fake_janus,
    gone,
    joined,
    origin,
    refused,
)

DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"create": {"data": {}}}, "is malformed: no id"),
        ({"create": {"data": [7]}}, "is malformed: no id"),
        ({"create": {"data": {"id": "../admin"}}}, "is malformed: no id"),
        ({"create": {"data": {"id": True}}}, "is malformed: no id"),
        ({"create": {"data": {"id": -1}}}, "is malformed: no id"),
        ({"create": {"data": {"id": 10**30}}}, "is malformed: no id"),
        ({"create": {"janus": "error"}}, "reports: an error without a reason"),
        ({"create": {"janus": "error", "error": {"reason": [[]]}}}, "an error without a reason"),
        ({"attach": "no JSON"}, "is malformed: Expecting value"),
        ({"attach": "[]"}, "is malformed: not an object"),
        ({"attach": DEEP}, "is malformed: nested too deeply"),
        ({"attach": '{"data": {"id": ' + "9" * 5000 + "}}"}, "is malformed: Exceeds the limit"),
        ({"attach": '"' + " " * MOST_JSON + '"'}, "is malformed: more than 1048576 bytes"),
        ({"listparticipants": {"plugindata": 5}}, "is malformed: no data of the plugin"),
        ({"listparticipants": {"plugindata": {"data": 5}}}, "no data of the plugin"),
        ({"listparticipants": {"x": 1}}, "is malformed: no list of participants"),
        ({"listparticipants": {"plugindata": {"data": {"participants": [5]}}}}, "has no publisher"),
        ({"listparticipants": {"plugindata": {"data": {"participants": [{"publisher": True}]}}}},
         "a publisher without an id"),
        ({"listparticipants": {"plugindata": {"data": {"error": {"a": 1}}}}}, "without a reason"),
        ({"join": {"plugindata": {"data": {"error": "No such feed"}}}}, "reports: No such feed"),
        ({"event": "no JSON"}, "is malformed: Expecting value"),
        ({"event": {"jsep": 5}}, "is malformed: no offer"),
        ({"event": {"jsep": {"sdp": 5}}}, "is malformed: no offer"),
        ({"event": {"jsep": {"sdp": "x" * 99_999}}}, "it is not SDP"),
        ({"event": {"jsep": {"sdp": "v=0" + "x" * 99_999}}}, "it has more than 64 KiB"),
        ({"event": {"jsep": {"sdp": "v=0\r\n"}}}, "does not offer one video"),
        ({"event": {"jsep": {}, "plugindata": {"data": {"streams": [5]}}}}, "no list of streams"),
        ({"event": {"janus": "ack"}}, "does not answer in time"),
        ({"start": {"janus": "error", "error": {"reason": "Over"}}}, "reports: Over"),
    ],
)  # fmt: skip
async def test_a_malformed_answer_of_janus_is_reported(wrong, words):
    async with fake_janus(**wrong) as (server, _, url):
        await refused(url, SessionError, words)
    assert ("destroy" in server.requests) == ("create" not in wrong)


async def test_a_janus_session_that_is_left_during_its_creation_is_ended():
    """Although its id arrives only after the user has left."""
    async with fake_janus() as (server, *_):
        answer = server.answer

        async def handler(request: web.Request) -> web.StreamResponse:
            message = await request.json()
            server.requests.append(message["janus"])
            await asyncio.sleep(0.3 if message["janus"] == "create" else 0)
            return server.said(answer(message["janus"]))

        async with origin(handler) as slow:
            joining = asyncio.ensure_future(joined(f"janus+{slow.base}/janus?room=1"))
            await until(lambda: slow.requests("POST"))
            joining.cancel()
            with pytest.raises(asyncio.CancelledError):
                await joining
    assert server.requests == ["create", "destroy"]
    assert [path for path, _ in slow.requests("POST")] == ["/janus", "/janus/7"]


async def test_no_pin_is_redirected():
    async with origin(gone) as other:

        async def away(request: web.Request) -> web.Response:
            return web.Response(status=307, headers={"Location": other.base})

        async with origin(away) as home:
            url = f"janus+{home.base}/janus?room=1"
            await refused(url, InputError, "is not a Janus server", token="1234")
    assert not other.seen


async def test_of_several_streams_of_a_feed_one_of_each_kind_is_received():
    kinds: list[str] = []
    async with fake_janus() as (server, _, url):
        server.feeds = [
            {"type": "video", "feed_mid": "a", "codec": "vp8"},
            {"type": "video", "feed_mid": "b", "codec": "h264", "active": False},
            {"type": "audio", "feed_mid": "c"},
            {"type": "video", "feed_mid": "e", "codec": "H264"},
            {"type": "video", "feed_mid": "f", "codec": "h264"},
            {"type": "audio", "feed_mid": "g"},
        ]
        joined: list[dict] = []
        attached = server.attached

        async def noting(body: dict) -> object:
            joined.append(body)
            return await attached(body)

        server.attached = noting
        async with open_session(url, "1234", lambda track, _: kinds.append(track.kind)):
            pass
    assert joined[-1]["streams"] == [{"feed": 5, "mid": "c"}, {"feed": 5, "mid": "e"}]
    assert [one["pin"] for one in joined] == ["1234", "1234"]
    assert sorted(kinds) == ["audio", "video"]
    assert server.requests.count("destroy") == 1


@pytest.mark.parametrize(
    ("poll", "words"),
    [
        ("no JSON", "is malformed: Expecting value"),
        ([], "is malformed: not an object"),
        (
            {"janus": "error", "error": {"code": 458, "reason": "No such session"}},
            "No such session",
        ),
        ({"janus": "timeout"}, "had timed out"),
    ],
)
async def test_a_session_lost_during_a_call_is_reported(poll, words):
    async with fake_janus() as (server, _, url):

        async def call() -> None:
            async with open_session(url, None, lambda *_: None) as connection:
                await until(lambda: connection.connectionState == "connected")
                server.wrong["poll"] = poll
                await until(lambda: connection.connectionState == "closed")

        with pytest.raises(SessionError, match=words):
            await call()


async def test_a_server_that_answers_polls_at_once_is_not_asked_without_pause():
    async with (
        fake_janus(poll={"janus": "keepalive"}) as (_, here, url),
        open_session(url, None, lambda *_: None) as connection,
    ):
        await until(lambda: connection.connectionState == "connected")
        before = len(here.requests("GET"))
        await asyncio.sleep(1)
        assert connection.connectionState == "connected"
    assert 2 < len(here.requests("GET")) - before < 15
