"""Hostile servers on this machine, and the promises that a client keeps against them."""

import asyncio
import contextlib
import re
import socket
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_address
from typing import Any

from bench.fuzz.target import check
from receiver.errors import ReceiverError

SECRET = "the-token"


class LoopbackLoop(asyncio.SelectorEventLoop):
    """An event loop whose look-ups and connections stay on this machine."""

    async def getaddrinfo(self, host: Any, port: Any, **more: Any) -> Any:
        """Resolves IP addresses and localhost."""
        with contextlib.suppress(ValueError):
            ip_address(host)
            return await super().getaddrinfo(host, port, **more)
        if host == "localhost":
            return await super().getaddrinfo("127.0.0.1", port, **more)
        raise socket.gaierror(f"{host!r} is not resolved")

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connects to loopback addresses only."""
        if not ip_address(address[0]).is_loopback:
            raise ConnectionRefusedError(f"{address[0]} is not a loopback address")
        await super().sock_connect(sock, address)

    async def create_datagram_endpoint(self, *args: Any, **more: Any) -> Any:
        """Returns a socket that sends nothing."""
        transport, protocol = await super().create_datagram_endpoint(*args, **more)
        setattr(transport, "sendto", lambda data, address=None: None)  # noqa: B010
        return transport, protocol


@dataclass
class HostileServer:
    """A server that answers requests from a list, and hangs up when the list is empty.

    Attributes:
        seen: method of each request, and whether it contained the token.
        answers: for requests other than OPTIONS and DELETE, in turn.
        options: the answer to OPTIONS and DELETE.
    """

    port: int = 0
    seen: list[tuple[str, bool]] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)
    options: bytes = b"HTTP/1.1 204 x\r\n\r\n"

    async def listen(self) -> None:
        """Listens on a free port until the process ends."""
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
    """The user's server, a stranger's server, and unnoticed failures of the loop."""

    loop: asyncio.AbstractEventLoop
    home: HostileServer
    other: HostileServer
    failed: list[str]


@cache
def world() -> World:
    """Returns the world of all inputs."""
    loop, failed = LoopbackLoop(), []
    home, other = HostileServer(), HostileServer()
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
    check(not here.failed, f"no task fails unnoticed: {here.failed[:1]}")
    check(
        not any(secret for _, secret in here.other.seen), "credentials reach their own origin alone"
    )
    methods = [method for method, _ in here.other.seen]
    check(set(methods) <= {"POST"}, f"a stranger receives offers alone, not {methods}")


def _filled(answer: bytes, here: World) -> bytes:
    """Returns an answer with the servers' real addresses."""
    for name, server in ((b"@HOME@", here.home), (b"@OTHER@", here.other)):
        answer = answer.replace(name, b"127.0.0.1:%d" % server.port)
    return answer
