"""Decides what a request may do: tokens, their roles and rooms, and a limit of failed attempts.

A token is written `SECRET`, or `ROLES[@ROOM]:SECRET`:

    SECRET                          may do everything
    publish:SECRET                  may publish to any room, and end what it published
    watch,stats@studio:SECRET       may watch the room studio and read its figures
    all@studio:SECRET               may do everything in the room studio
    all:publish:SECRET              may do everything; its secret is `publish:SECRET`

ROLES is a list of `publish`, `watch` and `stats` separated by commas, or `all`. ROOM is written as
in the URL, with `:` and `%` percent-encoded. Text that begins with a role and one of `:`, `@` and
`,` is read in the long form; everything else is a secret. Clients send only the secret.
"""

import hashlib
import hmac
import ipaddress
import math
import os
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, get_args
from urllib.parse import unquote

from aiohttp import web

from receiver.errors import InputError

Role: TypeAlias = Literal["publish", "watch", "stats"]
ROLES: frozenset[Role] = frozenset(get_args(Role))

SHORTEST_TOKEN = 16
"""Minimum number of characters of a secret on an address that other machines can reach."""
TOKEN_VARIABLE = "RECEIVER_TOKEN"
"""The environment variable that holds a token if no option gives one."""
LARGEST_TOKEN_FILE = 64 * 1024
"""Bytes of a token file."""
FAILURES = 10
"""Wrong tokens from one network within `FAILURE_SECONDS` that are answered 401; more are 429."""
FAILURE_SECONDS = 60.0
"""Seconds from a network's first wrong token until its count starts again."""
MOST_NETWORKS = 4096
"""Networks whose wrong tokens are counted; the oldest count is dropped first."""

_DOING = {"publish": "publish to", "watch": "watch", "stats": "read figures"}


class AccessError(Exception):
    """A request that is refused: `status` and `headers` of the response, and its sentence."""

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str]) -> None:
        super().__init__(sentence)
        self.status, self.headers = status, headers


@dataclass(frozen=True)
class Grant:
    """What a token allows: `roles`, in all rooms or only in `room`."""

    roles: frozenset[Role] = ROLES
    room: str | None = None

    def allows(self, role: Role, room: str | None) -> bool:
        """Returns whether `role` is allowed in `room`; None stands for any room."""
        return role in self.roles and (room is None or self.room in (None, room))


@dataclass(frozen=True)
class Token:
    """A grant, and the SHA-256 and length of the secret that proves it."""

    grant: Grant
    digest: bytes = field(repr=False)
    length: int = field(repr=False)


def parse_token(text: str) -> Token:
    """Reads `SECRET` or `ROLES[@ROOM]:SECRET`.

    Raises InputError for an unknown role, an empty room, or a secret that no header can carry.
    """
    grant, secret = Grant(), text
    if re.match(rf"(all|{'|'.join(get_args(Role))})[:@,]", text):
        scope, colon, secret = text.partition(":")
        names, at, room = scope.partition("@")
        if not colon:
            raise InputError(
                f"a token begins with {names.split(',')[0]} but has no ':' before its secret: "
                "write ROLES[@ROOM]:SECRET, or all:SECRET for a secret that begins so"
            )
        if at and not room:
            raise InputError(f"a token for {names} has an empty room: write {names}@ROOM:SECRET")
        grant = Grant(_roles(names), unquote(room) if at else None)
    check_secret(secret)
    return Token(grant, _digest(secret), len(secret))


def _roles(names: str) -> frozenset[Role]:
    roles: set[Role] = set()
    for name in names.split(","):
        if name not in ("all", *ROLES):
            raise InputError(f"{name!r} is not a role of a token: use publish, watch, stats or all")
        roles.update(role for role in ROLES if name in ("all", role))
    return frozenset(roles)


def check_secret(secret: str) -> None:
    """Raises InputError for a secret that an Authorization header cannot carry."""
    if not secret:
        raise InputError("the token is empty: give --token some characters")
    if not secret.isprintable() or secret != secret.strip():
        raise InputError(
            "the token has control characters, or spaces at its ends, which no header carries: "
            "use others"
        )


def server_tokens(
    flags: Sequence[str],
    file: Path | None,
    say: Callable[[str], None],
    environment: Mapping[str, str] = os.environ,
) -> tuple[Token, ...]:
    """Returns the tokens of a server: from the options, otherwise from the environment.

    Args:
        flags: values of `--token`.
        file: value of `--token-file`, which holds one token per line.
        say: called with one sentence if other users can read the file.

    Raises InputError for a file that cannot be read or an invalid token.
    """
    return tuple(parse_token(text) for text in _texts(flags, file, say, environment))


def client_token(
    flag: str | None,
    file: Path | None,
    say: Callable[[str], None],
    environment: Mapping[str, str] = os.environ,
) -> str | None:
    """Returns the token that `join` and `send` use, exactly as written; None if there is none.

    Arguments and errors as for `server_tokens`; a file with several tokens is an InputError.
    """
    texts = _texts([] if flag is None else [flag], file, say, environment)
    if len(texts) > 1:
        raise InputError(f"{file} has {len(texts)} tokens, but one is needed: keep one line")
    for text in texts:
        check_secret(text)
    return texts[0] if texts else None


def _texts(
    flags: Sequence[str],
    file: Path | None,
    say: Callable[[str], None],
    environment: Mapping[str, str],
) -> list[str]:
    if flags or file is not None:
        return [*flags, *(_lines(file, say) if file is not None else ())]
    if TOKEN_VARIABLE not in environment:
        return []
    if not environment[TOKEN_VARIABLE]:
        # An empty variable may be a forgotten value: it must not open the server.
        raise InputError(f"{TOKEN_VARIABLE} is empty: unset it, or give it a token")
    return [environment[TOKEN_VARIABLE]]


def _lines(path: Path, say: Callable[[str], None]) -> list[str]:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(LARGEST_TOKEN_FILE + 1).decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: write one token per line") from error
    if len(text.encode()) > LARGEST_TOKEN_FILE:
        raise InputError(f"{path} has more than {LARGEST_TOKEN_FILE} bytes: is it a token file?")
    lines = [line.strip() for line in text.split("\n")]
    if not any(lines):
        raise InputError(f"{path} has no token: write one per line")
    if os.name == "posix" and mode & 0o066:
        # Not refused: secrets that are mounted into containers are readable by all users in them.
        say(f"{path} can be read or changed by other users of this computer: chmod 600 {path}")
    return [line for line in lines if line]


def network_of(address: str | None) -> str:
    """Returns the network that counts as one client: an IPv4 address, or the /64 of an IPv6 one."""
    try:
        ip = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:  # a Unix socket has no address
        return ""
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is None:
            return str(ipaddress.ip_network((int(ip), 64), strict=False))
        ip = ip.ipv4_mapped
    return str(ip)


class Attempts:
    """Counts wrong tokens by network, in bounded memory."""

    def __init__(
        self,
        most: int = FAILURES,
        seconds: float = FAILURE_SECONDS,
        networks: int = MOST_NETWORKS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Allows `most` wrong tokens in `seconds` from one network; counts at most `networks`."""
        self._most, self._seconds, self._networks = most, seconds, networks
        self._clock = clock
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._counts)

    def failed(self, network: str) -> float:
        """Counts a wrong token; returns the seconds to wait, 0 within the limit."""
        now = self._clock()
        began, count = self._counts.get(network, (now, 0))
        if now >= began + self._seconds:
            began, count = now, 0
            self._counts.pop(network)  # moves it to the end: counts are ordered by their start
        self._counts[network] = began, count + 1
        if len(self._counts) > self._networks:
            self._counts.popitem(last=False)
        return began + self._seconds - now if count >= self._most else 0.0


class Access:
    """Decides on requests by their Authorization header (RFC 6750).

    A correct token is accepted however many wrong ones arrived from the same address: others may
    share it (NAT, a reverse proxy). So the limit does not slow down random guesses; only the length
    of the secret protects against them.
    """

    def __init__(self, tokens: Sequence[Token], attempts: Attempts) -> None:
        """Without tokens everything is allowed."""
        self._tokens, self._attempts = tuple(tokens), attempts

    def check(self, request: web.Request, role: Role | None, room: str | None) -> None:
        """Raises AccessError unless the request may act as `role` in `room`.

        If `role` is None, any token is enough. Statuses: 400 for more than one Authorization
        header, 401 without a valid token, 403 for a token of another role or room, 429 for too
        many wrong tokens from one network (RFC 6750, section 3.1; RFC 6585, section 4).
        """
        grants = self._grants(request)
        if grants:
            if role is not None and not any(grant.allows(role, room) for grant in grants):
                raise _insufficient(role, room)
            return
        values = request.headers.getall("Authorization", [])
        if len(values) > 1:
            raise _challenge(400, "more than one Authorization header: send one", "invalid_request")
        if not values or _credentials(values[0]) is None:
            raise _challenge(401, "a Bearer token is required: send it in the Authorization header")
        wait = self._attempts.failed(network_of(request.remote))
        if wait:
            sentence = "too many wrong tokens from this address: try again later"
            raise AccessError(429, sentence, {"Retry-After": str(math.ceil(wait))})
        raise _challenge(401, "the token is not valid: use another", "invalid_token")

    def sees(self, request: web.Request, room: str) -> bool:
        """Returns whether the request may read the figures of `room`."""
        return any(grant.allows("stats", room) for grant in self._grants(request))

    def _grants(self, request: web.Request) -> list[Grant]:
        """Returns the grants of all tokens with the request's secret, in constant time."""
        if not self._tokens:
            return [Grant()]
        values = request.headers.getall("Authorization", [])
        given = _credentials(values[0]) if len(values) == 1 else None
        digest = _digest(given or "")
        # A list, not a generator: every token is compared.
        same = [hmac.compare_digest(token.digest, digest) for token in self._tokens]
        return [token.grant for token, is_same in zip(self._tokens, same, strict=True) if is_same]


def _credentials(authorization: str) -> str | None:
    """Returns the token of a Bearer header, None for another scheme (RFC 9110, section 11.1)."""
    scheme, _, credentials = authorization.partition(" ")
    return credentials.strip(" ") or None if scheme.lower() == "bearer" else None


def _digest(secret: str) -> bytes:
    # Headers and arguments that are not UTF-8 contain surrogates.
    return hashlib.sha256(secret.encode(errors="surrogateescape")).digest()


def _challenge(status: int, sentence: str, error: str | None = None, **more: str) -> AccessError:
    """Builds a refusal with a WWW-Authenticate header (RFC 6750, section 3)."""
    parameters = {"realm": "receiver"} | ({"error": error} if error else {}) | more
    challenge = ", ".join(f'{name}="{value}"' for name, value in parameters.items())
    return AccessError(status, sentence, {"WWW-Authenticate": f"Bearer {challenge}"})


def _insufficient(role: Role, room: str | None) -> AccessError:
    doing = _DOING[role] if room is None else f"{_DOING[role]} {room}"
    sentence = f"this token may not {doing}: use one with the role {role}"
    if room is not None:
        sentence += " for that room"
    return _challenge(403, sentence, "insufficient_scope", scope=role)
