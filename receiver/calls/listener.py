"""Accepts HTTP connections within limits that hold before a request is complete.

asyncio accepts whatever comes, writes a traceback for each connection that it has no descriptor
for, and aiohttp waits an hour for a header. So connections are accepted here, and aiohttp's
protocol is given those that are within the limits.
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
"""Seconds for a request's header, from the connection's start or the header's first byte."""
BODY_SECONDS = 30.0
"""Seconds for a request's body."""
IDLE_SECONDS = 75.0
"""Seconds in which an answer is to be read and another request begun: longer than the 60 s after
which common reverse proxies close their side, so that they never send to a connection that ends."""
MOST_CONNECTIONS = 512
"""HTTP connections at once; fewer if the process may open fewer than four times as many files."""
MOST_PER_NETWORK = 32
"""HTTP connections at once from one IPv4 address or IPv6 /64, but for loopback addresses."""
LINGER_SECONDS = 2.0
"""Seconds in which the rest of a body is read after the answer, so that the client reads that."""
LINES_A_MINUTE = 10
"""Messages that HTTP clients can cause in the log, a minute."""
ACCEPT_PAUSE = 0.2
"""Seconds from an accept that failed to the next, if no connection could be closed for it."""
BACKLOG = 512
"""Connections that wait in the kernel to be accepted; more than these try again after a second."""


def most_connections() -> int:
    """Returns how many HTTP connections leave room for the sockets of calls."""
    if sys.platform == "win32":
        return MOST_CONNECTIONS
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if files < 0 else max(1, min(MOST_CONNECTIONS, files // 4))


@dataclass(frozen=True)
class Limits:
    """What an HTTP client can take of the server. Times are in seconds."""

    handshake_s: float = HANDSHAKE_SECONDS
    header_s: float = HEADER_SECONDS
    body_s: float = BODY_SECONDS
    idle_s: float = IDLE_SECONDS
    connections: int = field(default_factory=most_connections)
    per_network: int = MOST_PER_NETWORK


class ThrottledLog(logging.LoggerAdapter[logging.Logger]):
    """A logger that writes at most `LINES_A_MINUTE` messages a minute and counts the others."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(logging.getLogger(__name__), {})
        self._clock = clock
        self._began, self._written, self._omitted = -60.0, 0, 0

    def log(self, level: int, msg: object, *args: Any, **kwargs: Any) -> None:
        """Writes the message unless there were too many in this minute."""
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
        """Leaves the message as it is."""
        return msg, kwargs


class Connection(asyncio.Protocol):
    """An accepted connection: hands everything to aiohttp's protocol and limits its waiting.

    Attributes:
        network: the client's, as `network_of` names it.
        waits_since: when it began to wait for its client, None while a request is handled.
    """

    def __init__(
        self,
        accepted: socket.socket,
        network: str,
        handler: asyncio.Protocol,
        limits: Limits,
        on_end: Callable[["Connection"], None],
    ) -> None:
        """`on_end` is called once it is closed, perhaps more than once."""
        self.network = network
        self.waits_since: float | None = time.monotonic()
        self._socket, self._handler, self._limits = accepted, handler, limits
        self._on_end = on_end
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._is_idle = False

    @property
    def is_established(self) -> bool:
        """Whether aiohttp has it: not before the end of a TLS handshake."""
        return self._transport is not None

    def wait(self, seconds: float | None) -> None:
        """Notes that it waits for its client, at most `seconds` if given."""
        self.work()
        self.waits_since = time.monotonic()
        if seconds is not None and self._transport is not None:
            self._deadline = asyncio.get_running_loop().call_later(seconds, self.close)

    def work(self) -> None:
        """Notes that it does not wait for its client."""
        self.waits_since, self._is_idle = None, False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Notes that a request is handled."""
        self.work()
        try:
            yield
        finally:
            self.wait(self._limits.idle_s)
            self._is_idle = True

    def close(self) -> None:
        """Closes it at once; data that the client has not taken is lost."""
        self.work()
        if self._transport is not None:
            self._transport.abort()
        else:
            with contextlib.suppress(OSError):  # the client was quicker
                self._socket.shutdown(socket.SHUT_RDWR)  # which ends the handshake
        self._on_end(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins to wait for a header."""
        self._transport = cast(asyncio.Transport, transport)
        self.wait(self._limits.header_s)
        self._handler.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Hands on bytes; the first of a further request begin the time for its header."""
        if self._is_idle:
            self.wait(self._limits.header_s)
        self._handler.data_received(data)

    def eof_received(self) -> bool | None:
        """Hands on the client's end."""
        return self._handler.eof_received()

    def pause_writing(self) -> None:
        """Hands on that the client does not take what is sent."""
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        """Hands on that it does again."""
        self._handler.resume_writing()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Hands on the end."""
        self.work()
        self._transport = None
        self._handler.connection_lost(cast(Exception | None, exc))
        self._on_end(self)


def connection_of(request: web.BaseRequest) -> Connection | None:
    """Returns the connection that a request came over, None for one that `Listener` did not accept.

    It is None, too, for one that has ended.
    """
    protocol = None if request.transport is None else request.transport.get_protocol()
    return protocol if isinstance(protocol, Connection) else None


@web.middleware
async def time_requests(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Stops the connection's time while a request is handled. It is the outermost middleware."""
    connection = connection_of(request)
    with contextlib.nullcontext() if connection is None else connection.working():
        return await handler(request)


async def read_body(request: web.Request, seconds: float) -> None:
    """Reads a request's body, which the request keeps, within `seconds`.

    Raises HTTP 400 for a body that breaks off, 408 for a slow and 413 for a large one.
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
        raise web.HTTPBadRequest(text="the body broke off: send all of it") from None
    finally:
        if connection is not None:
            connection.work()


class Listener:
    """Accepts connections and closes those that wait longest when there are too many."""

    def __init__(
        self,
        limits: Limits,
        make_handler: Callable[[], asyncio.Protocol],
        tls: ssl.SSLContext | None,
    ) -> None:
        """`make_handler` makes the HTTP protocol of one connection."""
        self._log = ThrottledLog()
        self._limits, self._make_handler, self._tls = limits, make_handler, tls
        self._open: set[Connection] = set()
        self._tasks = BackgroundTasks()

    @contextlib.asynccontextmanager
    async def listening(self, host: str, port: int) -> AsyncIterator[int]:
        """Accepts connections within the context; gives the port. Raises OSError if it cannot."""
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
            except ConnectionError:  # it was gone before it was accepted
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
                "%d HTTP connections are too many, one more came from %s", len(crowd), network
            )
            if not self._close_longest(crowd):
                accepted.close()
                return
        limits, forget = self._limits, self._open.discard
        connection = Connection(accepted, network, self._make_handler(), limits, forget)
        self._open.add(connection)
        self._tasks.start(self._establish(accepted, connection))

    def _crowd(self, network: str) -> Collection[Connection]:
        """Returns the connections of which one has to go before another is taken."""
        same = [connection for connection in self._open if connection.network == network]
        if len(same) >= self._limits.per_network and not _is_loopback(network):
            return same
        return self._open if len(self._open) >= self._limits.connections else ()

    def _close_longest(self, crowd: Collection[Connection]) -> bool:
        """Closes the one that has waited longest for its client; returns whether one waits."""
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
    """Whether a reverse proxy or all users of this machine may stand behind one address."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_network(network).network_address.is_loopback
    return False
