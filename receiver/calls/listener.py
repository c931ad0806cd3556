"""Accepts HTTP connections within limits that apply before a request is complete.

asyncio accepts every connection and logs a traceback for each one for which no file descriptor is
left, and aiohttp waits an hour for a header. So connections are accepted here, and only those
within the limits are passed to aiohttp's protocol.
"""

import asyncio
import contextlib
import ipaddress
import logging
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import Any, cast

from aiohttp import web

from receiver.calls.access import network_of
from receiver.waiting import BackgroundTasks

if sys.platform != "win32":
    import resource

HANDSHAKE_SECONDS = 10.0
"""Seconds for a TLS handshake."""
HEADER_SECONDS = 10.0
"""Seconds for a request's header, from the start of the connection or the header's first byte."""
BODY_SECONDS = 30.0
"""Seconds for a request's body."""
IDLE_SECONDS = 75.0
"""Seconds within which a client must read an answer and begin another request. Longer than the 60 s
after which common reverse proxies close their side, so that they never send to a connection that is
being closed."""
MOST_CONNECTIONS = 512
"""HTTP connections at once; fewer if the process may open fewer than four times as many files."""
MOST_PER_NETWORK = 32
"""HTTP connections at once from one IPv4 address or IPv6 /64, except loopback addresses."""
LINGER_SECONDS = 2.0
"""Seconds in which the rest of a body is read after the answer, so that the client can read it."""
LINES_A_MINUTE = 10
"""Log messages a minute that HTTP clients can cause."""
ACCEPT_PAUSE = 0.2
"""Seconds from a failed accept to the next, if no connection could be closed instead."""
BACKLOG = 512
"""Connections that wait in the kernel to be accepted; clients beyond them retry after a second."""


def most_connections() -> int:
    """Returns how many HTTP connections leave room for the sockets of calls."""
    if sys.platform == "win32":
        return MOST_CONNECTIONS
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if files < 0 else max(1, min(MOST_CONNECTIONS, files // 4))


@dataclass(frozen=True)
class Limits:
    """Limits of HTTP clients. Times are in seconds."""

    handshake_s: float = HANDSHAKE_SECONDS
    header_s: float = HEADER_SECONDS
    body_s: float = BODY_SECONDS
    idle_s: float = IDLE_SECONDS
    connections: int = field(default_factory=most_connections)
    per_network: int = MOST_PER_NETWORK


class ThrottledLog(logging.LoggerAdapter[logging.Logger]):
    """Writes at most `LINES_A_MINUTE` messages a minute, and counts the others."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(logging.getLogger(__name__), {})
        self._clock = clock
        self._began, self._written, self._omitted = -60.0, 0, 0

    def log(self, level: int, msg: object, *args: Any, **kwargs: Any) -> None:
        """Writes the message unless this minute had too many."""
        if not self.isEnabledFor(level):
            return
        now = self._clock()
        if now >= self._began + 60:
            self._began, self._written = now, 0
        if self._written >= LINES_A_MINUTE:
            self._omitted += 1
            return
        self._written += 1
        if self._omitted:
            msg, self._omitted = f"{msg} (and {self._omitted} messages before it)", 0
        super().log(level, msg, *args, **kwargs)

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        """Returns the message unchanged."""
        return msg, kwargs


class Connection(asyncio.Protocol):
    """An accepted connection: forwards everything to aiohttp's protocol, and limits the waits.

    Attributes:
        network: network of the client, as `network_of` returns it.
        waits_since: time since which it waits for its client; None while a request is handled.
    """

    def __init__(
        self,
        accepted: socket.socket,
        network: str,
        handler: asyncio.Protocol,
        limits: Limits,
        on_end: Callable[["Connection"], None],
    ) -> None:
        """Calls `on_end` when it has been closed, perhaps more than once."""
        self.network = network
        self.waits_since: float | None = time.monotonic()
        self._socket, self._handler, self._limits = accepted, handler, limits
        self._on_end = on_end
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._is_idle = False

    @property
    def is_established(self) -> bool:
        """Whether aiohttp handles it, which begins after the TLS handshake."""
        return self._transport is not None

    def wait(self, seconds: float | None) -> None:
        """Begins a wait for the client, of at most `seconds` if given."""
        self.work()
        self.waits_since = time.monotonic()
        if seconds is not None and self._transport is not None:
            self._deadline = asyncio.get_running_loop().call_later(seconds, self.close)

    def work(self) -> None:
        """Ends the wait for the client."""
        self.waits_since, self._is_idle = None, False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Ends the wait for the client while a request is handled in the context."""
        self.work()
        try:
            yield
        finally:
            self.wait(self._limits.idle_s)
            self._is_idle = True

    def close(self) -> None:
        """Closes the connection at once; data that the client has not read is lost."""
        self.work()
        if self._transport is not None:
            self._transport.abort()
        else:
            with contextlib.suppress(OSError):  # the client has closed it already
                self._socket.shutdown(socket.SHUT_RDWR)  # which ends the handshake
        self._on_end(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins the wait for a header."""
        self._transport = cast(asyncio.Transport, transport)
        self.wait(self._limits.header_s)
        self._handler.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Forwards bytes; the first ones of a further request start the time for its header."""
        if self._is_idle:
            self.wait(self._limits.header_s)
        self._handler.data_received(data)

    def eof_received(self) -> bool | None:
        """Forwards the end of the client's data."""
        return self._handler.eof_received()

    def pause_writing(self) -> None:
        """Forwards that the send buffer is full."""
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        """Forwards that the send buffer has space again."""
        self._handler.resume_writing()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forwards the end of the connection."""
        self.work()
        self._transport = None
        self._handler.connection_lost(cast(Exception | None, exc))
        self._on_end(self)


def connection_of(request: web.BaseRequest) -> Connection | None:
    """Returns the connection of a request.

    None if `Listener` did not accept the connection, or if it has ended.
    """
    protocol = None if request.transport is None else request.transport.get_protocol()
    return protocol if isinstance(protocol, Connection) else None


@web.middleware
async def time_requests(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Stops the connection's timer while a request is handled; must be the outermost middleware."""
    connection = connection_of(request)
    with contextlib.nullcontext() if connection is None else connection.working():
        return await handler(request)


async def read_body(request: web.Request, seconds: float) -> None:
    """Reads a request's body, which the request keeps, within `seconds`.

    Raises HTTP 400 for an incomplete body, 408 for a slow one and 413 for one that is too large.
    """
    if not request.can_read_body:
        return
    connection = connection_of(request)
    try:
        if connection is not None:
            connection.wait(None)
        async with asyncio.timeout(seconds):
            await request.read()
    except TimeoutError:
        sentence = f"the body did not arrive within {seconds:g} s: send it faster"
        raise web.HTTPRequestTimeout(text=sentence) from None
    except (ConnectionError, web.RequestPayloadError):
        raise web.HTTPBadRequest(text="the body is incomplete: send all of it") from None
    finally:
        if connection is not None:
            connection.work()


class Listener:
    """Accepts connections; if there are too many, closes those that have waited longest."""

    def __init__(
        self,
        limits: Limits,
        make_handler: Callable[[], asyncio.Protocol],
        tls: ssl.SSLContext | None,
    ) -> None:
        """Calls `make_handler` for the HTTP protocol of each connection."""
        self._log = ThrottledLog()
        self._limits, self._make_handler, self._tls = limits, make_handler, tls
        self._open: set[Connection] = set()
        self._tasks = BackgroundTasks()

    @contextlib.asynccontextmanager
    async def listening(self, host: str, port: int) -> AsyncIterator[int]:
        """Accepts connections within the context, whose value is the port. Raises OSError."""
        loop = asyncio.get_running_loop()
        bound = await loop.create_server(asyncio.Protocol, host, port, start_serving=False)
        sockets = [one.dup() for one in bound.sockets]
        bound.close()
        try:
            for one in sockets:
                one.setblocking(False)
                one.listen(BACKLOG)
            accepting = [loop.create_task(self._accept(one)) for one in sockets]
            try:
                yield int(sockets[0].getsockname()[1])
            finally:
                for task in accepting:
                    task.cancel()
                await asyncio.gather(*accepting, return_exceptions=True)
        finally:
            for one in sockets:
                one.close()

    async def close(self) -> None:
        """Closes all connections at once."""
        for connection in list(self._open):
            connection.close()
        await asyncio.gather(*self._tasks)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(listening)
            except ConnectionError:  # closed before it was accepted
                await asyncio.sleep(0)
            except OSError as error:  # no descriptor or memory is left
                self._log.warning("no connection can be accepted: %s", error.strerror)
                await asyncio.sleep(0 if self._close_longest(self._open) else ACCEPT_PAUSE)
            else:
                self._take(accepted, network_of(address[0]))
                await asyncio.sleep(0)  # sock_accept does not yield while connections are there

    def _take(self, accepted: socket.socket, network: str) -> None:
        crowd = self._crowd(network)
        if crowd:
            self._log.warning(
                "%d HTTP connections are too many: one more arrived from %s", len(crowd), network
            )
            if not self._close_longest(crowd):
                accepted.close()
                return
        limits, forget = self._limits, self._open.discard
        connection = Connection(accepted, network, self._make_handler(), limits, forget)
        self._open.add(connection)
        self._tasks.start(self._establish(accepted, connection))

    def _crowd(self, network: str) -> Collection[Connection]:
        """Returns the connections one of which must be closed before another is accepted."""
        same = [connection for connection in self._open if connection.network == network]
        if len(same) >= self._limits.per_network and not _is_loopback(network):
            return same
        return self._open if len(self._open) >= self._limits.connections else ()

    def _close_longest(self, crowd: Collection[Connection]) -> bool:
        """Closes the connection that has waited longest for a client; returns whether any did."""
        waiting = [(one.waits_since, id(one), one) for one in crowd if one.waits_since is not None]
        if waiting:
            min(waiting)[-1].close()
        return bool(waiting)

    async def _establish(self, accepted: socket.socket, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        seconds = None if self._tls is None else self._limits.handshake_s
        try:
            await loop.connect_accepted_socket(
                lambda: connection, accepted, ssl=self._tls, ssl_handshake_timeout=seconds
            )
        except OSError:  # TLS errors and time-outs are among them
            pass
        finally:
            if not connection.is_established:
                self._open.discard(connection)


def _is_loopback(network: str) -> bool:
    """Returns whether a network may be a reverse proxy, or all users of this machine."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_network(network).network_address.is_loopback
    return False
