"""Serves calls over HTTP: publishing (WHIP), watching (WHEP), a page and figures.

WHIP is RFC 9725; WHEP is the IETF draft draft-ietf-wish-whep. Answers contain all candidates of the
server; clients may trickle theirs.
"""

import asyncio
import contextlib
import gc
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from importlib.resources import files
from urllib.parse import urlsplit

from aiohttp import web
from aiortc import RTCSessionDescription
from prometheus_client.registry import Collector

from receiver.calls.access import Access, AccessError, Attempts, Role
from receiver.calls.config import ServeConfig, is_loopback
from receiver.calls.listener import (
    LINGER_SECONDS,
    Listener,
    ThrottledLog,
    read_body,
    time_requests,
)
from receiver.calls.metrics import (
    CONTENT_TYPE,
    RoomCollector,
    ServerCollector,
    render_metrics,
    room_stats,
)
from receiver.calls.responses import (
    END,
    HEADERS,
    Handler,
    allow,
    check_encoding,
    check_name,
    created,
    options,
    refusal,
    sdp_body,
    static,
)
from receiver.calls.rooms import Room, Side
from receiver.calls.viewers import VIEWS, View
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.quality import Quality
from receiver.errors import InputError
from receiver.signalling.negotiation import ClosableConnection
from receiver.signalling.offers import OfferError, read_offer
from receiver.signalling.trickle import SDPFRAG, add_candidates, read_fragment

MAX_BODY = 64 * 1024
"""Bytes of a request's body; a browser's offer is a tenth of that."""
SMALL_OFFER = 8 * 1024
"""Bytes up to which an offer is read in the event loop, in 4 ms at most."""
RETRY_AFTER = 30
"""Seconds after which a refused publisher should try again."""

PAGE = {
    "/": ("index.html", "html"),
    "/page.js": ("page.js", "javascript"),
    "/page.css": ("page.css", "css"),
}
"""Paths of the page, with file and media subtype; they need no token."""
HEALTH = "/healthz"
"""Path of a container's health check: answers `ok` without a token, under any host name."""
ROLES_OF_PATHS: dict[str, Role] = {
    "/whip/{name}{end}": "publish",
    "/whip/{name}/{session}{end}": "publish",
    "/whep/{name}{end}": "watch",
    "/whep/{name}/{session}{end}": "watch",
    "/stats": "stats",
    "/metrics": "stats",
}
"""Role that a path needs, for all methods."""


def _host_of(request: web.Request) -> str:
    """Returns the host name that a request was sent to; empty if it is invalid."""
    with contextlib.suppress(ValueError):
        return urlsplit(f"//{request.host}").hostname or ""
    return ""


class Server:
    """The rooms and their HTTP endpoints."""

    def __init__(
        self,
        config: ServeConfig,
        make_enhancer: Callable[[], Enhancer],
        quality: Quality | None = None,
    ) -> None:
        """
        Args:
            config: address, tokens, TLS and limits.
            make_enhancer: returns a new enhancer; called in the event loop, once per room.
            quality: the quality control of these enhancers, for figures.
        """
        self.config = config
        self._quality = quality
        self.rooms: dict[str, Room] = {}
        self._make_enhancer = make_enhancer
        self._access = Access(config.tokens, Attempts())
        self._reading = asyncio.Lock()  # large offers are read one by one
        # Sessions of past rooms that never connected:
        self._ended: dict[Side, int] = {"publisher": 0, "viewer": 0}

    def app(self) -> web.Application:
        """Returns the aiohttp application; closing it ends all calls."""
        app = web.Application(middlewares=[time_requests, self._guard], client_max_size=MAX_BODY)
        for path, (name, kind) in PAGE.items():
            text = (files("receiver") / "page" / name).read_text()
            app.router.add_get(path, static(text, f"text/{kind}"))
        app.router.add_get(HEALTH, static("ok\n", "text/plain"))
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
        """Checks requests before they are handled, and answers errors in one sentence."""
        try:
            if request.method == "OPTIONS":
                return options(request)
            self._check(request)
            check_encoding(request)
            check_name(request)
            await read_body(request, self.config.limits.body_s)
            return await handler(request)
        except OfferError as error:
            return refusal(error.status, str(error))
        except AccessError as error:
            return refusal(error.status, str(error), error.headers)
        except web.HTTPMethodNotAllowed as error:
            sentence = f"{error.method} is not allowed here: use a method that Allow lists"
            return refusal(405, sentence, {"Allow": allow(error.allowed_methods)})
        except web.HTTPException as error:
            return refusal(error.status, error.text or error.reason)

    def _check(self, request: web.Request) -> None:
        """Raises AccessError for a request that is not allowed.

        Decides by the path of the matched route, never by the text of the request, so that the two
        cannot disagree.
        """
        resource = request.match_info.route.resource
        path = None if resource is None else resource.canonical
        if path == HEALTH:
            return
        if not self.config.tokens and not is_loopback(_host_of(request)):
            # DNS rebinding: a page can make its own name resolve to this machine.
            sentence = "this server only answers requests to localhost: open it by that name"
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
            return refusal(409, f"{name} is already being published: use another name")
        if len(self.rooms) >= self.config.rooms:
            response = refusal(503, self._why_full())
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
        return created("whip", name, room.publisher_id, answer)

    async def _offer(self, request: web.Request) -> RTCSessionDescription:
        """Returns the request's offer; a large one is read in a thread. Raises OfferError."""
        body = await sdp_body(request)
        if len(body) <= SMALL_OFFER:
            return read_offer(body)
        async with self._reading:
            return await asyncio.to_thread(read_offer, body)

    def _why_full(self) -> str:
        most = self.config.rooms
        calls = f"{most} calls" if most > 1 else "one call"
        if self.config.is_measured:
            why = f"this machine can enhance {calls} at 30 frames a second"
        else:
            why = f"this server accepts {calls} at a time"
        return f"{why}, and no more can start now: try again later"

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
            raise web.HTTPPreconditionFailed(text="If-Match lacks this session's ETag")
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
            return refusal(400, f"there is no view {view!r}: use restored or both")
        if room.viewer_count >= self.config.viewers:
            most = self.config.viewers
            response = refusal(503, f"a room has at most {most} viewers: try again later")
            response.headers["Retry-After"] = str(RETRY_AFTER)
            return response
        known: View = "both" if view == "both" else "restored"
        session, answer = await room.view(offer, known)
        return created("whep", room.name, session, answer)

    async def _leave(self, request: web.Request) -> web.Response:
        if not await self._room(request).leave(request.match_info["session"]):
            raise web.HTTPNotFound(text="there is no such session")
        return web.Response()

    async def _stats(self, request: web.Request) -> web.Response:
        more = {} if self._quality is None else {"quality": self._quality.snapshot()}
        rooms = self._rooms_seen(request)
        stats = {name: room_stats(room) | more for name, room in rooms.items()}
        if self._access.sees(request, ""):  # stands for the server: no room can have that name
            stats[""] = {"never_connected": self.never_connected()}
        return web.json_response(stats)

    def never_connected(self) -> dict[Side, int]:
        """Returns how many sessions were closed since the start because they did not connect."""
        counts = self._ended, *(room.never_connected for room in self.rooms.values())
        return {role: sum(count[role] for count in counts) for role in self._ended}

    async def _metrics(self, request: web.Request) -> web.Response:
        collectors: list[Collector] = [RoomCollector(self._rooms_seen(request))]
        if self._access.sees(request, ""):  # as in `_stats`
            rooms = self.config.rooms
            collectors.append(ServerCollector(rooms, self._quality, self.never_connected))
        return web.Response(
            body=render_metrics(*collectors), headers={"Content-Type": CONTENT_TYPE}
        )

    def _rooms_seen(self, request: web.Request) -> dict[str, Room]:
        """Returns the rooms whose figures the request's token allows."""
        return {name: room for name, room in self.rooms.items() if self._access.sees(request, name)}

    def _room(self, request: web.Request) -> Room:
        name = request.match_info["name"]
        if name not in self.rooms:
            raise web.HTTPNotFound(text=f"{name} is not being published: start the publisher first")
        return self.rooms[name]

    async def _forget(self, room: Room) -> None:
        await room.closed.wait()
        self.rooms.pop(room.name, None)
        for role, count in room.never_connected.items():
            self._ended[role] += count

    async def _close(self, app: web.Application) -> None:
        await asyncio.gather(*(room.close() for room in list(self.rooms.values())))


async def serve(server: Server, ready: Callable[[str], None]) -> None:
    """Serves until Ctrl-C or SIGTERM; every call is ended before it returns.

    Args:
        ready: called with the page's URL once it can be opened.

    Raises:
        InputError: if the server cannot listen on the address, or TLS files are invalid.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for how in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows
            loop.add_signal_handler(how, stop.set)
    async with listening(server) as url:
        # Imported modules are never garbage: each collection of them would block the event loop,
        # and with it the packets of every call, for 40 to 70 ms.
        gc.collect()
        gc.freeze()
        ready(url)
        await stop.wait()


@contextlib.asynccontextmanager
async def listening(server: Server) -> AsyncIterator[str]:
    """Serves within the context, whose value is the page's URL; leaving it ends every call.

    Port 0 is any free port. Raises InputError if the server cannot listen on the address, or TLS
    files are invalid.
    """
    config = server.config
    tls = config.ssl_context()
    runner = web.AppRunner(
        server.app(),
        shutdown_timeout=1.0,
        lingering_time=LINGER_SECONDS,
        logger=ThrottledLog(),
        auto_decompress=False,  # aiohttp would do it before the token is checked, in the event loop
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
                    f"cannot listen on {config.host}:{config.port}: {error.strerror}"
                ) from error
            yield replace(config, port=port).url
    finally:
        await runner.cleanup()
        await listener.close()
