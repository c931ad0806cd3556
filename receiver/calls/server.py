"""The server: WHIP in, WHEP out, one page, figures.

WHIP is RFC 9725; WHEP is the IETF draft draft-ietf-wish-whep. Answers carry all candidates of this
side; clients may trickle theirs.
"""

import asyncio
import contextlib
import gc
import ipaddress
import signal
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote, urlsplit

from aiohttp import web
from aiortc import RTCConfiguration, RTCSessionDescription
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from receiver.calls.access import SHORTEST_TOKEN, Access, AccessError, Attempts, Role, Token
from receiver.calls.listener import (
    LINGER_SECONDS,
    Limits,
    Listener,
    ThrottledLog,
    read_body,
    time_requests,
)
from receiver.calls.rooms import CONNECT_SECONDS, VIEWS, Room, Side, View
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.quality import Quality
from receiver.errors import InputError
from receiver.signalling.negotiation import ClosableConnection
from receiver.signalling.offers import OfferError, read_offer
from receiver.signalling.trickle import SDPFRAG, add_candidates, read_fragment

MAX_BODY = 64 * 1024
"""Bytes of a request's body; a browser's offer has a tenth of it."""
MAX_NAME = 256
"""Characters of a room's name."""
SMALL_OFFER = 8 * 1024
"""Bytes of an offer that is read in the event loop, in 4 ms at most."""
RETRY_AFTER = 30
"""Seconds after which a refused publisher should ask again."""

PAGE = {
    "/": ("index.html", "html"),
    "/page.js": ("page.js", "javascript"),
    "/page.css": ("page.css", "css"),
}
"""The page's paths, files and kinds of text; they are given without a token."""
HEALTH = "/healthz"
"""Answers `ok` to everybody, by whatever name it is asked: a container's health check."""
ROLES_OF_PATHS: dict[str, Role] = {
    "/whip/{name}{end}": "publish",
    "/whip/{name}/{session}{end}": "publish",
    "/whep/{name}{end}": "watch",
    "/whep/{name}/{session}{end}": "watch",
    "/stats": "stats",
    "/metrics": "stats",
}
"""The role that each path needs, whatever the method."""
END = "{end:/?}"
"""Of the path of an endpoint or a session: with a slash at its end it is the same."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""Headers of every response; the page's files may be stored, but have to be asked for again."""

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class ServeConfig:
    """How the server is reached.

    Attributes:
        host, port: to listen on. Without a token only loopback addresses are allowed.
        tokens: Bearer tokens, one of which every request has to carry but those for the page's
            own files and the health check.
        tls_cert, tls_key: PEM files; browsers give a camera to HTTPS or localhost pages alone.
        cors: whether pages of other origins may use the server.
        rooms: publishers at once.
        is_measured: whether that many is what this machine was measured to carry, rather than what
            somebody chose: a refused publisher is told.
        viewers: viewers a room.
        connect_seconds: in which a publisher or viewer must connect after its offer.
        ice: STUN and TURN servers; none by default, so nothing outside is asked.
        stock_transport: receive by aiortc's own transport, to compare with.
        limits: of HTTP clients.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    tokens: tuple[Token, ...] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None
    cors: bool = False
    rooms: int = 1
    is_measured: bool = False
    viewers: int = 16
    connect_seconds: float = CONNECT_SECONDS
    ice: RTCConfiguration = field(default_factory=lambda: RTCConfiguration(iceServers=[]))
    stock_transport: bool = False
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        """Raises InputError for an address that would be open to strangers, or half a TLS pair."""
        if not _is_loopback(self.host):
            if not self.tokens:
                raise InputError(
                    f"{self.host} can be reached from outside: give --token, or leave "
                    "--host 127.0.0.1"
                )
            shortest = min(token.length for token in self.tokens)
            if shortest < SHORTEST_TOKEN:
                raise InputError(
                    f"{self.host} can be reached from outside and a token has {shortest} "
                    f"characters: give --token at least {SHORTEST_TOKEN}"
                )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InputError("TLS needs both: give --tls-cert and --tls-key")

    @property
    def url(self) -> str:
        """Where the page is."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls_cert else 'http'}://{host}:{self.port}/"

    def ssl_context(self) -> ssl.SSLContext | None:
        """The TLS side, None without. Raises InputError for files that are no PEM pair."""
        if self.tls_cert is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self.tls_cert, self.tls_key)
        except (OSError, ssl.SSLError) as error:
            raise InputError(
                f"{self.tls_cert} and {self.tls_key} are no certificate and its key: {error}"
            ) from error
        return context


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _host_of(request: web.Request) -> str:
    """By which name the server was asked; empty where that is no name."""
    with contextlib.suppress(ValueError):
        return urlsplit(f"//{request.host}").hostname or ""
    return ""


class Server:
    """The rooms and their HTTP side."""

    def __init__(
        self,
        config: ServeConfig,
        make_enhancer: Callable[[], Enhancer],
        quality: Quality | None = None,
    ) -> None:
        """`make_enhancer` is called once a room. `quality` is that of all of them, for figures."""
        self.config = config
        self._quality = quality
        self.rooms: dict[str, Room] = {}
        self._make_enhancer = make_enhancer
        self._access = Access(config.tokens, Attempts())
        self._reading = asyncio.Lock()  # large offers are read one by one
        self._ended: dict[Side, int] = {"publisher": 0, "viewer": 0}  # never connected, past rooms

    def app(self) -> web.Application:
        """The aiohttp application; closing it ends all calls."""
        app = web.Application(middlewares=[time_requests, self._guard], client_max_size=MAX_BODY)
        for path, (name, kind) in PAGE.items():
            text = (files("receiver") / "page" / name).read_text()
            app.router.add_get(path, _static(text, f"text/{kind}"))
        app.router.add_get(HEALTH, _static("ok\n", "text/plain"))
        app.router.add_post("/whip/{name}" + END, self._publish)
        app.router.add_delete("/whip/{name}/{session}" + END, self._unpublish)
        app.router.add_patch("/whip/{name}/{session}" + END, partial(self._trickle, "publisher"))
        app.router.add_post("/whep/{name}" + END, self._view)
        app.router.add_delete("/whep/{name}/{session}" + END, self._leave)
        app.router.add_patch("/whep/{name}/{session}" + END, partial(self._trickle, "viewer"))
        app.router.add_get("/stats", self._stats)
        app.router.add_get("/metrics", self._metrics)
        app.on_response_prepare.append(self._add_headers)
        app.on_shutdown.append(self._close)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Lets a request through that may be, and answers errors in one sentence."""
        try:
            if request.method == "OPTIONS":
                return _options(request)
            self._check(request)
            _check_encoding(request)
            _check_name(request)
            await read_body(request, self.config.limits.body_s)
            return await handler(request)
        except OfferError as error:
            return _refusal(error.status, str(error))
        except AccessError as error:
            return _refusal(error.status, str(error), error.headers)
        except web.HTTPMethodNotAllowed as error:
            sentence = f"{error.method} is not for this address: use one of those in Allow"
            return _refusal(405, sentence, {"Allow": _methods(error.allowed_methods)})
        except web.HTTPException as error:
            return _refusal(error.status, error.text or error.reason)

    def _check(self, request: web.Request) -> None:
        """Raises AccessError for a request that is not allowed.

        By the route's own path, never the request's text: both cannot be read differently then.
        """
        resource = request.match_info.route.resource
        path = None if resource is None else resource.canonical
        if path == HEALTH:
            return
        if not self.config.tokens and not _is_loopback(_host_of(request)):
            # A page can make its own name resolve to this machine: then it would be no stranger.
            sentence = "this server answers to localhost alone: open it by that name"
            raise AccessError(421, sentence, {})
        if path not in PAGE:
            role = ROLES_OF_PATHS.get(path or "")
            self._access.check(request, role, request.match_info.get("name"))

    async def _add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        if self.config.cors:
            response.headers["Access-Control-Allow-Origin"] = "*"
            response.headers["Access-Control-Allow-Methods"] = "GET, POST, PATCH, DELETE, OPTIONS"
            response.headers["Access-Control-Allow-Headers"] = (
                "Authorization, Content-Type, If-Match"
            )
            response.headers["Access-Control-Expose-Headers"] = "Allow, ETag, Location"

    async def _publish(self, request: web.Request) -> web.Response:
        offer = await self._offer(request)
        name = request.match_info["name"]
        if name in self.rooms:
            return _refusal(409, f"{name} is being published already: use another name")
        if len(self.rooms) >= self.config.rooms:
            response = _refusal(503, self._why_full())
            response.headers["Retry-After"] = str(RETRY_AFTER)
            return response
        config = self.config
        room = Room(
            name,
            self._make_enhancer(),
            config.ice,
            stock_transport=config.stock_transport,
            connect_seconds=config.connect_seconds,
        )
        self.rooms[name] = room
        try:
            answer = await room.publish(offer)
        except BaseException:
            del self.rooms[name]
            await room.close()
            raise
        forgetting = asyncio.ensure_future(self._forget(room))
        forgetting.add_done_callback(lambda task: task.exception())
        return _created("whip", name, room.publisher_id, answer)

    async def _offer(self, request: web.Request) -> RTCSessionDescription:
        """Reads the request's offer, a large one in a thread. Raises OfferError."""
        body = await _sdp_body(request)
        if len(body) <= SMALL_OFFER:
            return read_offer(body)
        async with self._reading:
            return await asyncio.to_thread(read_offer, body)

    def _why_full(self) -> str:
        most = self.config.rooms
        calls = f"{most} calls" if most > 1 else "one call"
        if self.config.is_measured:
            why = f"this machine was measured to carry {calls} at 30 frames a second"
        else:
            why = f"{calls} at once is all that this server was told to take"
        return f"{why}, and that many are under way: try again later"

    async def _unpublish(self, request: web.Request) -> web.Response:
        self._session(request, "publisher")
        await self._room(request).close()
        return web.Response()

    async def _trickle(self, role: Side, request: web.Request) -> web.Response:
        """Adds candidates of a client (RFC 9725, section 4.3.2)."""
        connection = self._session(request, role)
        if request.content_type != SDPFRAG:
            raise web.HTTPUnsupportedMediaType(text=f"send candidates as Content-Type: {SDPFRAG}")
        fragment = read_fragment(await request.read())
        if request.if_match is None:
            raise web.HTTPPreconditionRequired(text="send the session's ETag as If-Match")
        tags = {tag.value for tag in request.if_match if not tag.is_weak}
        if not tags & {"*", request.match_info["session"]}:
            raise web.HTTPPreconditionFailed(text="If-Match has another ETag than this session")
        await add_candidates(connection, fragment)
        return web.Response(status=204)

    def _session(self, request: web.Request, role: Side) -> ClosableConnection:
        connection = self._room(request).connection(role, request.match_info["session"])
        if connection is None:
            raise web.HTTPNotFound(text="there is no such session")
        return connection

    async def _view(self, request: web.Request) -> web.Response:
        offer = await self._offer(request)
        room = self._room(request)
        view = request.query.get("view", "restored")
        if view not in VIEWS:
            return _refusal(400, f"there is no view {view!r}: use restored or both")
        if room.viewer_count >= self.config.viewers:
            response = _refusal(503, f"{room.viewer_count} viewers are all that this server takes")
            response.headers["Retry-After"] = str(RETRY_AFTER)
            return response
        known: View = "both" if view == "both" else "restored"
        session, answer = await room.view(offer, known)
        return _created("whep", room.name, session, answer)

    async def _leave(self, request: web.Request) -> web.Response:
        if not await self._room(request).leave(request.match_info["session"]):
            raise web.HTTPNotFound(text="there is no such session")
        return web.Response()

    async def _stats(self, request: web.Request) -> web.Response:
        more = {} if self._quality is None else {"quality": self._quality.snapshot()}
        rooms = self._rooms_seen(request)
        stats = {name: room_stats(room) | more for name, room in rooms.items()}
        if self._access.sees(request, ""):  # no room can have that name: it stands for the server
            stats[""] = {"never_connected": self.never_connected()}
        return web.json_response(stats)

    def never_connected(self) -> dict[Side, int]:
        """Counts the sessions since the start that were closed because they did not connect."""
        counts = self._ended, *(room.never_connected for room in self.rooms.values())
        return {role: sum(count[role] for count in counts) for role in self._ended}

    async def _metrics(self, request: web.Request) -> web.Response:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_RoomCollector(self._rooms_seen(request)))
        if self._access.sees(request, ""):  # as in `_stats`
            registry.register(
                _ServerCollector(self.config.rooms, self._quality, self.never_connected)
            )
        return web.Response(
            body=generate_latest(registry),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    def _rooms_seen(self, request: web.Request) -> dict[str, Room]:
        """Returns the rooms whose figures the request's token allows."""
        return {name: room for name, room in self.rooms.items() if self._access.sees(request, name)}

    def _room(self, request: web.Request) -> Room:
        name = request.match_info["name"]
        if name not in self.rooms:
            raise web.HTTPNotFound(text=f"nobody publishes {name}: start the publisher first")
        return self.rooms[name]

    async def _forget(self, room: Room) -> None:
        await room.closed.wait()
        self.rooms.pop(room.name, None)
        for role, count in room.never_connected.items():
            self._ended[role] += count

    async def _close(self, app: web.Application) -> None:
        await asyncio.gather(*(room.close() for room in list(self.rooms.values())))


def room_stats(room: Room) -> dict[str, Any]:
    """Everything that is known of a room, ready for JSON."""
    channel = room.requester.stills
    stills = None if channel is None else asdict(channel.counts)
    return room.stats.snapshot() | {
        "viewers": room.viewer_count,
        "never_connected": room.never_connected["viewer"],
        "refused_tracks": room.refused_tracks,
        "qp": room.qp,
        "stills": stills,
        "transport": room.receiver and room.receiver.transport_stats(),
    }


class _RoomCollector(Collector):
    """The rooms' figures as Prometheus asks for them."""

    def __init__(self, rooms: dict[str, Room]) -> None:
        self._rooms = rooms

    def collect(self) -> Iterator[Metric]:
        frames = GaugeMetricFamily(
            "receiver_frames", "Frames since the call's start.", labels=["room", "what"]
        )
        seconds = GaugeMetricFamily(
            "receiver_stage_seconds", "Time a stage.", labels=["room", "stage", "quantile"]
        )
        faults = GaugeMetricFamily(
            "receiver_faults", "Failures that the call went on without.", labels=["room", "what"]
        )
        stills = GaugeMetricFamily(
            "receiver_stills", "Stills asked of the publisher, and bytes.", labels=["room", "what"]
        )
        transport = GaugeMetricFamily(
            "receiver_transport",
            "Of the publisher's video: packets asked for, recovered and late, holes, kbit/s told.",
            labels=["room", "what"],
        )
        now = {
            name: GaugeMetricFamily(f"receiver_{name}", about, labels=["room"])
            for name, about in (
                ("fps", "Frames a second that leave."),
                ("keyframes", "Keyframes held."),
                ("viewers", "Viewers."),
                ("healthy", "1 where nothing fails now, else 0."),
            )
        }
        for room in list(self._rooms.values()):
            stats = room_stats(room)
            for what, count in stats["frames"].items():
                frames.add_metric([room.name, what], count)
            for what, count in stats["faults"].items():
                faults.add_metric([room.name, what], count)
            for stage, times in stats["stages_ms"].items():
                seconds.add_metric([room.name, stage, "0.5"], times["median"] / 1e3)
                seconds.add_metric([room.name, stage, "0.95"], times["p95"] / 1e3)
            for what, count in (stats["stills"] or {}).items():
                stills.add_metric([room.name, what], count)
            for what, value in (stats["transport"] or {}).items():
                if value is not None:
                    transport.add_metric([room.name, what], value)
            for name, metric in now.items():
                metric.add_metric([room.name], stats[name])
        yield from (frames, seconds, faults, stills, transport, *now.values())


class _ServerCollector(Collector):
    """What is the same for all rooms."""

    def __init__(
        self,
        capacity: int,
        quality: Quality | None,
        never_connected: Callable[[], dict[Side, int]],
    ) -> None:
        self._capacity, self._quality = capacity, quality
        self._never_connected = never_connected

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("receiver_capacity", "Calls at once.", value=self._capacity)
        about = "Sessions that were closed because they did not connect."
        sessions = CounterMetricFamily("receiver_never_connected", about, labels=["role"])
        for role, count in self._never_connected().items():
            sessions.add_metric([role], count)
        yield sessions
        if self._quality is not None:
            about = "1 for the quality that all calls have now."
            level = GaugeMetricFamily("receiver_quality", about, labels=["level"])
            level.add_metric([self._quality.level.name], 1)
            yield level
            yield GaugeMetricFamily(
                "receiver_quality_changes",
                "Changes of it since the start.",
                value=self._quality.changes,
            )


def _check_encoding(request: web.Request) -> None:
    """Raises HTTP 415 for a body that is compressed (RFC 9110, section 8.4)."""
    encodings = ",".join(request.headers.getall("Content-Encoding", ())).lower().split(",")
    if not {encoding.strip() for encoding in encodings} <= {"", "identity"}:
        raise web.HTTPUnsupportedMediaType(text="send the body without a Content-Encoding")


def _check_name(request: web.Request) -> None:
    """Raises HTTP 400 for a room whose name no URL can have, or a long one.

    Clients take `.` and `..`, escaped or not, out of a path (RFC 3986, section 5.2.4): the URL of
    such a room's session would be another one's.
    """
    name = request.match_info.get("name", "")
    if name in (".", ".."):
        raise web.HTTPBadRequest(text=f"a room cannot be called {name!r}: use another name")
    if len(name) > MAX_NAME:
        sentence = f"a room's name has {MAX_NAME} characters at most: use a shorter one"
        raise web.HTTPBadRequest(text=sentence)


async def _sdp_body(request: web.Request) -> bytes:
    """Raises HTTP 415 for another content type, 413 for too large a body."""
    if request.content_type != "application/sdp":
        raise web.HTTPUnsupportedMediaType(text="send the offer as Content-Type: application/sdp")
    return await request.read()


def _created(protocol: str, name: str, session: str, sdp: str) -> web.Response:
    """RFC 9725, section 4.2. A session has one ICE session all its life, so it names both."""
    location = f"/{protocol}/{quote(name, safe='')}/{session}"
    headers = {"Location": location, "ETag": f'"{session}"'}
    return web.Response(status=201, text=sdp, content_type="application/sdp", headers=headers)


def _options(request: web.Request) -> web.Response:
    """What an address takes (RFC 9110, section 9.3.7); it is the same for every room."""
    headers = {"Accept-Post": "application/sdp"}
    why_not = request.match_info.http_exception
    if isinstance(why_not, web.HTTPMethodNotAllowed):
        headers["Allow"] = _methods(why_not.allowed_methods)
        if "PATCH" in why_not.allowed_methods:
            headers["Accept-Patch"] = SDPFRAG  # RFC 5789, section 3.1
    return web.Response(status=204, headers=headers)


def _methods(methods: Iterable[str]) -> str:
    """The value of Allow: OPTIONS is answered everywhere."""
    return ", ".join(sorted({*methods, "OPTIONS"}))


def _refusal(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(status=status, text=sentence + "\n", headers=headers)


def _static(text: str, kind: str) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(text=text, content_type=kind, headers={"Cache-Control": "no-cache"})

    return handler


async def serve(server: Server, ready: Callable[[str], None]) -> None:
    """Serves until Ctrl-C or SIGTERM; every call is ended before it returns.

    Args:
        ready: is given the page's URL once it can be opened.

    Raises:
        InputError: if the address cannot be listened on, or TLS files are unusable.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for how in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows
            loop.add_signal_handler(how, stop.set)
    async with listening(server) as url:
        # What was imported stays for good: collecting it again and again would hold up the event
        # loop, and with it every call's packets, for 40 to 70 ms each time.
        gc.collect()
        gc.freeze()
        ready(url)
        await stop.wait()


@contextlib.asynccontextmanager
async def listening(server: Server) -> AsyncIterator[str]:
    """The server at its address, which it gives; leaving the context ends every call.

    Port 0 is any that is free. Raises InputError if the address cannot be listened on, or TLS
    files are unusable.
    """
    config = server.config
    tls = config.ssl_context()
    runner = web.AppRunner(
        server.app(),
        shutdown_timeout=1.0,
        lingering_time=LINGER_SECONDS,
        logger=ThrottledLog(),
        auto_decompress=False,  # it is done before the token is checked, and in the event loop
    )
    await runner.setup()
    make_handler = runner.server
    assert make_handler is not None  # since setup
    listener = Listener(config.limits, make_handler, tls)
    try:
        async with contextlib.AsyncExitStack() as stack:
            try:
                listen = listener.listening(config.host, config.port)
                port = await stack.enter_async_context(listen)
            except OSError as error:
                raise InputError(
                    f"{config.host}:{config.port} cannot be listened on: {error.strerror}"
                ) from error
            yield replace(config, port=port).url
    finally:
        await runner.cleanup()
        await listener.close()
