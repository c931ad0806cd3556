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
        if not is_loopback(self.host):
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


def is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
