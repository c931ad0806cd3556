"""Configures the server: address, tokens, TLS and limits."""

import contextlib
import ipaddress
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from aiortc import RTCConfiguration

from receiver.calls.access import SHORTEST_TOKEN, Token
from receiver.calls.listener import (
    Limits,
)
from receiver.calls.rooms import CONNECT_SECONDS
from receiver.errors import InputError


@dataclass(frozen=True)
class ServeConfig:
    """Options of the server.

    Attributes:
        host, port: address to listen on. Without a token it must be a loopback address.
        tokens: Bearer tokens. Every request must carry one, except requests for the page's own
            files and for the health check.
        tls_cert, tls_key: PEM files. Browsers allow camera access only on HTTPS or localhost pages.
        cors: whether pages of other origins may use the server.
        rooms: maximum number of publishers at once.
        is_measured: whether `rooms` is the measured capacity of this machine rather than somebody's
            choice; the answer to a refused publisher says which.
        viewers: maximum number of viewers per room.
        connect_seconds: time from an offer within which its peer must connect.
        ice: STUN and TURN servers; none by default, so that no other machine is contacted.
        stock_transport: whether to receive with aiortc's own transport, for comparison.
        limits: limits of HTTP clients.
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
        """Raises InputError for an open address without a token, or half a pair of TLS files."""
        if not is_loopback(self.host):
            if not self.tokens:
                raise InputError(
                    f"{self.host} can be reached from outside: give --token, or use "
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
        """The address of the page."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls_cert else 'http'}://{host}:{self.port}/"

    def ssl_context(self) -> ssl.SSLContext | None:
        """Returns the TLS context, None without TLS. Raises InputError for invalid PEM files."""
        if self.tls_cert is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self.tls_cert, self.tls_key)
        except (OSError, ssl.SSLError) as error:
            raise InputError(
                f"{self.tls_cert} and {self.tls_key} are not a certificate and its key: {error}"
            ) from error
        return context


def is_loopback(host: str) -> bool:
    """Returns whether a host is `localhost` or a loopback address."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
