"""Targets: answers of servers to `join` and `send`. The real client meets a server of fuzzed bytes.

All promise that only a ReceiverError is raised, that no task fails unnoticed, that credentials and
DELETE reach the user's own origin alone, and that an offer is sent six times at most.
"""

import asyncio
import contextlib
import json
from functools import cache

from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.rtcicetransport import connection_kwargs

from bench.fuzz.hostile import SECRET, feed, world
from bench.fuzz.target import BETWEEN, check
from receiver.signalling.addresses import Reach, reach_of_address
from receiver.signalling.client import MOST_REDIRECTS, Client, SessionError
from receiver.signalling.links import ice_servers
from receiver.signalling.sessions import open_publishing, open_session
from receiver.stills.protocol import LABEL
from receiver.transport.connections import h264_codecs, prepare_aiortc, receive_h264

ANSWER_SECONDS = 1.0
"""Longest wait for these servers, which answer at once or hang up."""
NO_ICE_SERVERS = RTCConfiguration(iceServers=[])


async def _join(token: str | None = SECRET, scheme: str = "", path: str = "/whep") -> None:
    url = f"{scheme}http://127.0.0.1:{world().home.port}{path}"
    async with open_session(url, token, lambda *_: None, seconds=ANSWER_SECONDS):
        await asyncio.sleep(0)


async def _publish() -> None:
    url = f"http://127.0.0.1:{world().home.port}/whip"
    async with open_publishing(url, SECRET, _prepare, seconds=ANSWER_SECONDS):
        await asyncio.sleep(0)


def _prepare(connection: RTCPeerConnection) -> None:
    video = connection.addTransceiver("video", direction="sendonly")
    video.setCodecPreferences(h264_codecs())
    connection.createDataChannel(LABEL)


def _watch(connection: RTCPeerConnection) -> None:
    receive_h264(connection)
    connection.addTransceiver("audio", direction="recvonly")


@cache
def descriptions() -> dict[str, str]:
    """Returns SDP of an honest server: answers to both kinds of offers, and an offer."""

    async def make() -> dict[str, str]:
        prepare_aiortc()
        made = {}
        for name, prepare in (("whep", _watch), ("whip", _prepare)):
            asking, answering = RTCPeerConnection(NO_ICE_SERVERS), RTCPeerConnection(NO_ICE_SERVERS)
            prepare(asking)
            await asking.setLocalDescription(await asking.createOffer())
            if name == "whep":
                for kind in ("video", "audio"):
                    answering.addTransceiver(kind, direction="sendonly")
            offer = RTCSessionDescription(asking.localDescription.sdp, "offer")
            await answering.setRemoteDescription(offer)
            await answering.setLocalDescription(await answering.createAnswer())
            made[name] = answering.localDescription.sdp
            await asking.close()
            await answering.close()
        offering = RTCPeerConnection(NO_ICE_SERVERS)
        for kind in ("audio", "video"):
            offering.addTransceiver(kind, direction="sendonly")
        await offering.setLocalDescription(await offering.createOffer())
        made["janus"] = offering.localDescription.sdp
        await offering.close()
        return made

    return world().loop.run_until_complete(make())


def answers_seeds() -> list[bytes]:
    """Returns answers to offers, after a letter: Join or Publish."""
    return [b"J" + descriptions()["whep"].encode(), b"P" + descriptions()["whip"].encode()]


def answers(data: bytes) -> None:
    """Promises that an SDP answer is used or refused, and that its session is ended."""
    body = data[1:]
    head = b"HTTP/1.1 201 Created\r\nLocation: /session\r\nContent-Length: %d\r\n\r\n" % len(body)
    feed(_publish() if data[:1] == b"P" else _join(), [head + body])
    check(world().home.seen[-1] == ("DELETE", True), "a session is ended")


def janus_seeds() -> list[bytes]:
    """Returns dialogues with Janus: answers in the order of requests, one during the call."""
    kinds = ("audio", "video")
    streams = [{"type": kind, "feed_mid": str(mid)} for mid, kind in enumerate(kinds)]
    people = [{"id": 5, "publisher": True, "display": "me"}]
    jsep = {"type": "offer", "sdp": descriptions()["janus"]}
    attached = {
        "janus": "event",
        "plugindata": {"plugin": "videoroom", "data": {"streams": streams}},
        "jsep": jsep,
    }
    screen = json.loads(json.dumps(attached))
    screen["plugindata"]["data"]["streams"].append({"type": "video", "feed_mid": "2"})
    made = {"janus": "success", "transaction": "x", "data": {"id": 1234567}}
    listed = {"janus": "success", "plugindata": {"data": {"participants": people}}}
    ack, said = {"janus": "ack"}, {"janus": "error", "error": {"code": 458, "reason": "No such"}}
    dialogues = [
        [made, made, listed, ack, attached, ack, {"janus": "keepalive"}],
        [made, made, listed, ack, screen, ack, made, ack, attached, ack, {"janus": "webrtcup"}],
        [made, made, listed, ack, {"janus": "event", "plugindata": {"data": {"error": "No"}}}],
        [made, said],
    ]
    return [BETWEEN.join(json.dumps(one).encode() for one in dialogue) for dialogue in dialogues]


def janus(data: bytes) -> None:
    """Promises that the call continues or ends with a sentence, whatever Janus answers and when."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    said = [head % len(part) + part for part in data.split(BETWEEN)]
    feed(_join("1234", "janus+", "/janus?room=1"), said)


def links_seeds() -> list[bytes]:
    """Returns values of Link headers, a line each."""
    return [
        b'<stun:127.0.0.1:3478>; rel="ice-server"',
        b'<turn:127.0.0.1?transport=udp>; rel="ice-server"; username="u:1"; credential="c\\"2";'
        b' credential-type="password"\r\n</a.css>; rel=preload; as=style',
        b"<stun:localhost>; rel=ice-server, <stuns:[::1]:5349>;rel=ice-server\r\n<stun:10.0.0.1>;"
        b"rel=ice-server",
        b'<turns:8.8.8.8:443?transport=tcp>; rel="a ice-server"; username=u; credential=c',
    ]


def links(data: bytes) -> None:
    """Promises that aiortc can use every ICE server taken from Link headers, and that none is in a
    nearer network than the server that named it.
    """
    lines = b"".join(b"Link: " + line + b"\r\n" for line in data.split(b"\r\n") if line)
    feed(_take_servers(), [], b"HTTP/1.1 204 x\r\n" + lines + b"\r\n")


async def _take_servers() -> None:
    near = Client(f"http://127.0.0.1:{world().home.port}/", SECRET, ANSWER_SECONDS)
    far = Client("http://sfu.example/", SECRET, ANSWER_SECONDS)
    async with near.opened(), far.opened():
        found = (await near.ask("OPTIONS", near.home, most=0)).links
        for client in (near, far):
            with contextlib.suppress(SessionError):
                for server in await ice_servers(client, found):
                    kwargs = connection_kwargs([server])
                    address = (kwargs.get("stun_server") or kwargs["turn_server"])[0]
                    reach = reach_of_address(address)
                    check(reach <= client.reach or client is near, f"{address} is not reached")
                    check(client is near or reach is Reach.PUBLIC, f"{address} is public")


def redirects_seeds() -> list[bytes]:
    """Returns HTTP answers to offers: redirects to both servers, refusals and sessions."""
    head = b"HTTP/1.1 %d Moved\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n"
    sdp = descriptions()["whep"].encode()
    made = b"HTTP/1.1 201 Created\r\nLocation: %s\r\nContent-Length: %d\r\n\r\n%s"
    places = [
        b"/a",
        b"http://@OTHER@/b",
        b"//@HOME@/c",
        b"http://u:p@@HOME@/d",
        b"https://@OTHER@/",
    ]
    hops = [head % (status, place) for status in (307, 308) for place in places]
    busy = b"HTTP/1.1 503 Busy\r\nRetry-After: 9\r\nContent-Encoding: gzip\r\n\r\nno room"
    dated = busy.replace(b": 9", b": Fri, 31 Dec 2026 23:59:59 GMT")
    sessions = [made % (place, len(sdp), sdp) for place in (b"/s", b"http://@OTHER@/s", b"?x")]
    sessions.append(sessions[0].replace(b"201 Created", b"200 OK"))
    return [BETWEEN.join([*hops[at : at + 2], one]) for at, one in enumerate(sessions)] + [
        BETWEEN.join(hops[:4] + hops[:4]),
        BETWEEN.join([hops[0], busy]),
        BETWEEN.join([hops[1], dated]),
        head % (302, b"http://@OTHER@/"),
    ]


def redirects(data: bytes) -> None:
    """Promises that redirects lead no credentials away, and that their number is bounded."""
    feed(_join(), data.split(BETWEEN))
    here = world()
    posts = [
        method for one in (here.home, here.other) for method, _ in one.seen if method == "POST"
    ]
    check(len(posts) <= 1 + MOST_REDIRECTS, f"{len(posts)} offers were sent")
