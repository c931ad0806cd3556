"""What servers answer to `join` and `send`: the real client against a real server of fuzzed bytes.

The promise of all: nothing but a ReceiverError comes out, no task fails unseen, credentials and
DELETE reach the user's own origin alone, and an offer is sent six times at most.
"""

import asyncio
import contextlib
import json
import re
import socket
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_address
from typing import Any

from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.rtcicetransport import connection_kwargs

from receiver.errors import ReceiverError
from receiver.signalling.addresses import Reach, reach_of_address
from receiver.signalling.client import MOST_REDIRECTS, Client, SessionError
from receiver.signalling.links import ice_servers
from receiver.signalling.sessions import open_publishing, open_session
from receiver.stills.protocol import LABEL
from receiver.transport.connections import h264_codecs, prepare_aiortc, receive_h264

BETWEEN = b"\xfe\xedRTP\xfe"
"""Stands between the answers of one input, as in `bench.fuzz_targets`."""
SECONDS = 1.0
"""Longest wait of a client for these servers, which answer at once or hang up."""
SECRET = "the-token"
HERE = RTCConfiguration(iceServers=[])


class LoopbackLoop(asyncio.SelectorEventLoop):
    """An event loop whose names and connections lead to this machine alone."""

    async def getaddrinfo(self, host: Any, port: Any, **more: Any) -> Any:  # type: ignore[override]
        """Looks up numbers and localhost."""
        with contextlib.suppress(ValueError):
            ip_address(host)
            return await super().getaddrinfo(host, port, **more)
        if host == "localhost":
            return await super().getaddrinfo("127.0.0.1", port, **more)
        raise socket.gaierror(f"{host!r} is not looked up")

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connects to loopback addresses."""
        if not ip_address(address[0]).is_loopback:
            raise ConnectionRefusedError(f"{address[0]} is not connected to")
        await super().sock_connect(sock, address)

    async def create_datagram_endpoint(self, *args: Any, **more: Any) -> Any:
        """Makes a socket that sends nothing."""
        transport, protocol = await super().create_datagram_endpoint(*args, **more)
        setattr(transport, "sendto", lambda data, address=None: None)  # noqa: B010
        return transport, protocol


@dataclass
class Hostile:
    """A server that answers its requests one after the other from a list, and then hangs up.

    Attributes:
        seen: method and Authorization of what came.
        answers: to what is not OPTIONS or DELETE, in turn.
        options: the answer to OPTIONS.
    """

    port: int = 0
    seen: list[tuple[str, bool]] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)
    options: bytes = b"HTTP/1.1 204 x\r\n\r\n"

    async def listen(self) -> None:
        """Listens on a free port for as long as the process lives."""
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            body = await reader.readexactly(int(length[1]) if length else 0)
            method = head.split()[0].decode()
            self.seen.append((method, SECRET.encode() in head + body))
            if method in ("OPTIONS", "DELETE"):
                writer.write(self.options)
            elif self.answers:
                writer.write(self.answers.pop(0))
        with contextlib.suppress(ConnectionError):
            writer.close()


@dataclass
class World:
    """The user's server, a stranger's, and what failed unseen in the loop."""

    loop: asyncio.AbstractEventLoop
    home: Hostile
    other: Hostile
    failed: list[str]


@cache
def world() -> World:
    """One for all inputs."""
    loop, failed = LoopbackLoop(), []
    home, other = Hostile(), Hostile()
    loop.set_exception_handler(
        lambda _, context: failed.append(f"{context['message']}: {context.get('exception')!r}")
    )
    for server in (home, other):
        loop.run_until_complete(server.listen())
    return World(loop, home, other, failed)


def feed(work: Any, answers: list[bytes], options: bytes = b"HTTP/1.1 204 x\r\n\r\n") -> None:
    """Runs a client against both servers, which share the answers, and checks the promises."""
    here = world()
    shared = [_filled(one, here) for one in answers]
    for server in (here.home, here.other):
        server.seen.clear()
        server.answers, server.options = shared, _filled(options, here)
    here.failed.clear()
    with contextlib.suppress(ReceiverError):
        here.loop.run_until_complete(asyncio.wait_for(work, 20))
    here.loop.run_until_complete(asyncio.sleep(0))
    _check(not here.failed, f"nothing fails unseen: {here.failed[:1]}")
    _check(not any(secret for _, secret in here.other.seen), "credentials go to their own origin")
    methods = [method for method, _ in here.other.seen]
    _check(set(methods) <= {"POST"}, f"a stranger is sent offers alone, not {methods}")


def _check(holds: bool, promise: str) -> None:
    if not holds:
        raise AssertionError(promise)


def _filled(answer: bytes, here: World) -> bytes:
    """An answer with the servers' real addresses."""
    for name, server in ((b"@HOME@", here.home), (b"@OTHER@", here.other)):
        answer = answer.replace(name, b"127.0.0.1:%d" % server.port)
    return answer


async def _join(token: str | None = SECRET, scheme: str = "", path: str = "/whep") -> None:
    url = f"{scheme}http://127.0.0.1:{world().home.port}{path}"
    async with open_session(url, token, lambda *_: None, seconds=SECONDS):
        await asyncio.sleep(0)


async def _publish() -> None:
    url = f"http://127.0.0.1:{world().home.port}/whip"
    async with open_publishing(url, SECRET, _prepare, seconds=SECONDS):
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
    """What an honest server says: answers to both kinds of offers, and an offer of its own."""

    async def make() -> dict[str, str]:
        prepare_aiortc()
        made = {}
        for name, prepare in (("whep", _watch), ("whip", _prepare)):
            asking, answering = RTCPeerConnection(HERE), RTCPeerConnection(HERE)
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
        offering = RTCPeerConnection(HERE)
        for kind in ("audio", "video"):
            offering.addTransceiver(kind, direction="sendonly")
        await offering.setLocalDescription(await offering.createOffer())
        made["janus"] = offering.localDescription.sdp
        await offering.close()
        return made

    return world().loop.run_until_complete(make())


def answers_seeds() -> list[bytes]:
    """Answers to offers, after a letter that tells which: Join or Publish."""
    return [b"J" + descriptions()["whep"].encode(), b"P" + descriptions()["whip"].encode()]


def answers(data: bytes) -> None:
    """Whatever SDP is answered, it is used or refused, and its session is ended."""
    body = data[1:]
    head = b"HTTP/1.1 201 Created\r\nLocation: /session\r\nContent-Length: %d\r\n\r\n" % len(body)
    feed(_publish() if data[:1] == b"P" else _join(), [head + body])
    _check(world().home.seen[-1] == ("DELETE", True), "a session is ended")


def janus_seeds() -> list[bytes]:
    """A dialogue with Janus: answers in the order of the requests, and one while the call is on."""
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
    """Whatever Janus says, and whenever, the call goes on or ends with a sentence."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    said = [head % len(part) + part for part in data.split(BETWEEN)]
    feed(_join("1234", "janus+", "/janus?room=1"), said)


def links_seeds() -> list[bytes]:
    """Values of Link headers, in lines."""
    return [
        b'<stun:127.0.0.1:3478>; rel="ice-server"',
        b'<turn:127.0.0.1?transport=udp>; rel="ice-server"; username="u:1"; credential="c\\"2";'
        b' credential-type="password"\r\n</a.css>; rel=preload; as=style',
        b"<stun:localhost>; rel=ice-server, <stuns:[::1]:5349>;rel=ice-server\r\n<stun:10.0.0.1>;"
        b"rel=ice-server",
        b'<turns:8.8.8.8:443?transport=tcp>; rel="a ice-server"; username=u; credential=c',
    ]


def links(data: bytes) -> None:
    """Whatever Link headers come, aiortc can use what is taken from them, and none leads nearer."""
    lines = b"".join(b"Link: " + line + b"\r\n" for line in data.split(b"\r\n") if line)
    feed(_take_servers(), [], b"HTTP/1.1 204 x\r\n" + lines + b"\r\n")


async def _take_servers() -> None:
    near = Client(f"http://127.0.0.1:{world().home.port}/", SECRET, SECONDS)
    far = Client("http://sfu.example/", SECRET, SECONDS)
    async with near.opened(), far.opened():
        found = (await near.ask("OPTIONS", near.home, most=0)).links
        for client in (near, far):
            with contextlib.suppress(SessionError):
                for server in await ice_servers(client, found):
                    kwargs = connection_kwargs([server])
                    address = (kwargs.get("stun_server") or kwargs["turn_server"])[0]
                    reach = reach_of_address(address)
                    _check(reach <= client.reach or client is near, f"{address} is not reached")
                    _check(client is near or reach is Reach.PUBLIC, f"{address} is public")


def redirects_seeds() -> list[bytes]:
    """HTTP answers to offers: redirects here and there, refusals and sessions."""
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
    """Whatever HTTP is answered, it leads no credentials away, and nowhere a sixth time."""
    feed(_join(), data.split(BETWEEN))
    here = world()
    posts = [
        method for one in (here.home, here.other) for method, _ in one.seen if method == "POST"
    ]
    _check(len(posts) <= 1 + MOST_REDIRECTS, f"{len(posts)} offers were sent")
