"""Sends HTTP requests to a server that is not trusted.

Credentials are sent only to the origin that the user named. Answers are bounded in size and time.
Only offers follow redirects, within rules.
"""

import asyncio
import base64
import json
import re
import socket
import time
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import aiohttp
from aiohttp.abc import ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from receiver.errors import InputError, ReceiverError
from receiver.signalling.addresses import Reach, reach_of_address, reach_of_name
from receiver.text import printable

SETUP_SECONDS = 15.0
"""Longest wait for the server at any step."""
LEAVE_SECONDS = 1.0
"""Longest wait for the server after the user has left."""
MOST_REDIRECTS = 5
"""Redirects that an offer follows (307 and 308, RFC 9110, sections 15.4.8 and 15.4.9)."""
MOST_SDP = 64 << 10
"""Bytes of an SDP answer, after decompression."""
MOST_JSON = 1 << 20
"""Bytes of a JSON answer, after decompression."""
MOST_RETRY = 300.0
"""Longest wait before another attempt, in seconds, that a server can request."""
GZIP_OR_ZLIB = 47
"""zlib's window bits that accept both formats, by their headers."""
TOKEN = re.compile(r"[\x21-\x7e]+")
"""Tokens that an Authorization header can carry."""

Result = TypeVar("Result")


class SessionError(ReceiverError):
    """A session that cannot be opened now, or that was lost.

    Attributes:
        retry_after: seconds after which another attempt makes sense.
        unreachable: whether there was no answer at all.
    """

    def __init__(
        self, sentence: str, retry_after: float = 0.0, *, unreachable: bool = False
    ) -> None:
        super().__init__(sentence)
        self.retry_after, self.unreachable = retry_after, unreachable


@dataclass(frozen=True)
class Answer:
    """An HTTP answer.

    Attributes:
        url: URL that answered.
        reason: reason phrase of the status line, printable.
        links: values of all Link headers.
        body: first bytes of the body, decompressed.
        whole: whether `body` is complete.
    """

    url: URL
    status: int
    reason: str
    headers: Mapping[str, str]
    links: list[str]
    body: bytes
    whole: bool

    @property
    def text(self) -> str:
        """The body read as UTF-8, the encoding of SDP (RFC 8866, section 9) and JSON (RFC 8259)."""
        return self.body.decode(errors="replace")

    @property
    def said(self) -> str:
        """The first line of the body, or the reason phrase, as printable text."""
        lines = self.text.strip().splitlines()
        return (printable(lines[0]) if lines else "") or self.reason

    def json(self) -> dict[str, Any]:
        """Returns the body's JSON object. Raises ValueError if it is invalid or too large."""
        if not self.whole:
            raise ValueError(f"more than {len(self.body)} bytes")
        try:
            value = json.loads(self.body)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        if not isinstance(value, dict):
            raise ValueError("not an object")
        return value

    def retry_after(self) -> float:
        """Returns the seconds of Retry-After (RFC 9110, section 10.2.3); 0 if absent or invalid."""
        value = self.headers.get("Retry-After", "").strip()
        if re.fullmatch(r"[0-9]{1,9}", value):
            return min(float(value), MOST_RETRY)
        try:
            date = parsedate_to_datetime(value).timestamp()
        except (TypeError, ValueError, OverflowError, OSError):
            return 0.0
        return min(max(0.0, date - time.time()), MOST_RETRY)


class Client:
    """Sends requests to one server, the `home` that the user named.

    Attributes:
        home: the user's URL, without user and password.
        seconds: longest wait for an answer.
        reach: reach of the address from which `home` answered first; PUBLIC before that.
    """

    def __init__(self, url: str, token: str | None, seconds: float = SETUP_SECONDS) -> None:
        """Use it inside `opened`. Raises InputError for an invalid URL or token.

        Args:
            url: http(s)://…; a user and password in it are sent as Basic authentication (RFC 7617).
            token: Bearer token (RFC 6750).
        """
        given = _parse(url)
        self.home, self.seconds, self.reach = given.with_user(None), seconds, Reach.PUBLIC
        self._answered = False
        self._authorization = _authorization(given, token)
        self._http: aiohttp.ClientSession | None = None
        self._resolver: _Resolver | None = None

    def __str__(self) -> str:
        return shown(str(self.home))

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["Client"]:
        """Allows requests within the context."""
        self._resolver = _Resolver(self)
        # Each name is looked up once, so that it cannot change its address in between. Each answer
        # has its own connection, so that surplus bytes of one answer cannot become the next.
        connector = aiohttp.TCPConnector(
            resolver=self._resolver, ttl_dns_cache=None, force_close=True
        )
        async with aiohttp.ClientSession(
            connector=connector,
            response_class=_Response,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        ) as self._http:
            yield self

    def is_home(self, url: URL) -> bool:
        """Returns whether `url` has the origin that the user named (RFC 6454, section 4)."""
        return _origin(url) == _origin(self.home)

    def may_name(self, host: str) -> bool:
        """Returns whether `home` may name this host; a name that needs a look-up passes."""
        reach = reach_of_name(host)
        return host == self.home.raw_host or reach is None or reach <= self.reach

    def may_reach(self, host: str, address: str) -> bool:
        """Returns whether a host that `home` named may have this address."""
        return host == self.home.raw_host or reach_of_address(address) <= self.reach

    async def address_of(self, host: str) -> str | None:
        """Returns an IPv4 address of a host that `home` named; None if there is no allowed one.

        aioice looks up names by itself. Given the address instead, it cannot get another one from a
        second look-up.
        """
        if not self.may_name(host):
            return None
        try:
            async with asyncio.timeout(self.seconds):
                found = await self._open(self._resolver).resolve(host, family=socket.AF_INET)
        except (OSError, ValueError):
            return None
        return found[0]["host"]

    async def ask(
        self,
        method: str,
        url: URL,
        *,
        most: int,
        headers: Mapping[str, str] | None = None,
        data: str | None = None,
        message: Any = None,
        seconds: float | None = None,
    ) -> Answer:
        """Sends one request, without following redirects.

        Args:
            most: bytes of the answer's body to read.
            message: sent as JSON.
            seconds: longest wait for the whole answer, by default `self.seconds`.

        Raises:
            SessionError: if there is no valid HTTP answer in time.
        """
        sent = {"Accept-Encoding": "identity", **(headers or {})}
        if self._authorization is not None and self.is_home(url):
            sent["Authorization"] = self._authorization
        timeout = aiohttp.ClientTimeout(total=seconds or self.seconds)
        try:
            async with self._open(self._http).request(
                method,
                url,
                headers=sent,
                data=data,
                json=message,
                allow_redirects=False,
                timeout=timeout,
            ) as response:
                self._note(url, response)
                body, whole = await _read(response, most)
        # aiohttp does not convert errors of names (UnicodeError) and of bodies.
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            why = printable(error) or "no reply in time"
            raise SessionError(f"{_name(url)} does not answer: {why}", unreachable=True) from error
        return Answer(
            url,
            response.status,
            printable(response.reason or ""),
            response.headers,
            response.headers.getall("Link", []),
            body,
            whole,
        )

    async def offer(self, sdp: str) -> Answer:
        """Posts an SDP offer to `home`, and follows redirects (RFC 9725, section 4.5).

        Another origin receives the offer, as load balancing requires, but no credentials.

        Raises:
            SessionError: if there is no answer in time, or a redirect cannot be followed.
        """
        url = self.home
        kind = {"Content-Type": "application/sdp"}
        try:
            async with asyncio.timeout(self.seconds):
                for _ in range(1 + MOST_REDIRECTS):
                    answer = await self.ask("POST", url, most=MOST_SDP, headers=kind, data=sdp)
                    if answer.status not in (307, 308):
                        return answer
                    url = self._next(answer)
        except TimeoutError as error:
            raise SessionError(f"{self} does not answer in time", unreachable=True) from error
        raise SessionError(f"{self} redirects more than {MOST_REDIRECTS} times")

    def location(self, answer: Answer) -> URL | None:
        """Returns an answer's Location, without user and password; None if it is invalid."""
        text = answer.headers.get("Location", "")
        try:
            url = answer.url.join(URL(text)) if text else None
        except ValueError:
            return None
        if url is None or url.scheme not in ("http", "https") or not url.raw_host:
            return None
        return url.with_user(None).with_fragment(None)

    def _next(self, answer: Answer) -> URL:
        """Returns the target of a redirect. Raises SessionError if it must not be followed."""
        url = self.location(answer)
        if url is None or url.raw_host is None:
            raise SessionError(f"{self} redirects ({answer.status}) to no valid http(s):// address")
        if answer.url.scheme == "https" and url.scheme == "http":
            raise SessionError(f"{self} redirects from https to {_name(url)}, which is not secure")
        if not self.may_name(url.raw_host):
            raise SessionError(f"{self} redirects to {_name(url)}, which is more local than itself")
        return url

    def _note(self, url: URL, response: aiohttp.ClientResponse) -> None:
        """Stores the reach of the address from which `home` answers first."""
        if self._answered or not self.is_home(url) or not isinstance(response, _Response):
            return
        reach = reach_of_address(response.peer)
        self._answered, self.reach = True, Reach.PUBLIC if reach is Reach.NOWHERE else reach

    def _open(self, part: Result | None) -> Result:
        if part is None:
            raise RuntimeError("use a client inside `opened`")
        return part


class _Response(aiohttp.ClientResponse):
    """An answer that keeps its peer's address; aiohttp drops it once the answer has been read."""

    peer = ""

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        name = connection.transport.get_extra_info("peername") if connection.transport else None
        self.peer = str(name[0]) if name else ""
        return await super().start(connection)


class _Resolver(ThreadedResolver):
    """Omits the addresses of a host that `home` may not name."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self._client = client

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Returns at least one address. Raises OSError if there is none."""
        found = await super().resolve(host, port, family)
        allowed = [one for one in found if self._client.may_reach(host, one["host"])]
        if not allowed:
            raise OSError(f"{host} has no address that {self._client} may name")
        return allowed


def shown(url: str) -> str:
    """Returns a URL as printable text, without user and password."""
    return printable(re.sub(r"(?<=//)[^/?#]*@", "", url))


def _name(url: URL) -> str:
    return shown(str(url))


def _parse(url: str) -> URL:
    try:
        parsed = URL(url)
    except ValueError as error:
        raise InputError(f"{shown(url)} is not a valid address: {printable(error)}") from error
    if not parsed.raw_host:
        raise InputError(f"{shown(url)} does not answer: it has no host, check the address")
    return parsed


def _authorization(url: URL, token: str | None) -> str | None:
    """Returns the Authorization header for a URL and a token; None without any."""
    if token and url.user is not None:
        raise InputError(f"{_name(url)} has a user, and there is a token: give one of them")
    if token:
        if not TOKEN.fullmatch(token):
            raise InputError("--token has an invalid character: check for line ends")
        return f"Bearer {token}"
    if url.user is None:
        return None
    both = f"{url.user}:{url.password or ''}"
    return f"Basic {base64.b64encode(both.encode()).decode()}"


def _origin(url: URL) -> tuple[str, str | None, int | None]:
    return url.scheme, url.raw_host, url.port


async def _read(response: aiohttp.ClientResponse, most: int) -> tuple[bytes, bool]:
    """Returns the body's first `most` bytes, decompressed, and whether that is all of it.

    Reads nothing if `most` is 0. Requests ask servers not to compress; gzip and zlib are decoded
    anyway, a body in another encoding counts as empty.
    """
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    body, is_plain = bytearray(), encoding == "identity"
    unpack = zlib.decompressobj(GZIP_OR_ZLIB)
    async for chunk in response.content.iter_any() if most else _nothing():
        room = most + 1 - len(body)
        try:
            body += chunk[:room] if is_plain else unpack.decompress(chunk, room)
        except zlib.error:
            return b"", True
        if len(body) > most:
            return bytes(body[:most]), False
    return bytes(body), True


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""
