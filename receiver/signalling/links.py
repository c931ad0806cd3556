"""Reads the ICE servers in an endpoint's Link headers (RFC 9725, section 4.6; RFC 8288)."""

import logging
import re
from dataclasses import dataclass

from aiortc import RTCIceServer

from receiver.signalling.client import Client, SessionError
from receiver.text import printable

MOST_LINKS = 16
"""Links of an answer."""
MOST_LINK_TEXT = 8 << 10
"""Characters of all Link headers of an answer."""
MOST_SECRET = 508
"""Characters of a TURN user or password (RFC 8489, section 14.3: fewer than 509 bytes)."""

logger = logging.getLogger(__name__)

_TARGET = re.compile(r"[\s,]*<([^<>\s]*)>")
_PARAMETER = re.compile(r'\s*;\s*([^\s=;,"]+)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]*)))?')
_END = re.compile(r"\s*(?:,|$)")
_ICE_URL = re.compile(  # RFC 7064 and 7065; some endpoints write stun://
    r"(stuns?|turns?):(?://)?([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?"
    r"(?:\?transport=([A-Za-z]{1,10}))?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Link:
    """A target and its parameters, with names in lower case."""

    target: str
    parameters: dict[str, str]


def read_links(headers: list[str]) -> list[Link]:
    """Returns the links of all Link headers. Raises ValueError if they are malformed or too many.

    Takes linear time: each expression is matched at one position only.
    """
    text = ", ".join(headers)
    if len(text) > MOST_LINK_TEXT:
        raise ValueError(f"more than {MOST_LINK_TEXT} characters")
    links: list[Link] = []
    at = 0
    while at < len(text.rstrip(", \t")):
        target = _TARGET.match(text, at)
        if target is None:
            raise ValueError("no <address>")
        at = target.end()
        parameters: dict[str, str] = {}
        while found := _PARAMETER.match(text, at):
            name, quoted, plain = found.groups()
            value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            parameters.setdefault(name.lower(), value or "")
            at = found.end()
        end = _END.match(text, at)
        if end is None:
            raise ValueError("a malformed parameter")
        at = end.end()
        links.append(Link(target[1], parameters))
        if len(links) > MOST_LINKS:
            raise ValueError(f"more than {MOST_LINKS} links")
    return links


async def ice_servers(client: Client, headers: list[str]) -> list[RTCIceServer]:
    """Returns the ICE servers in an endpoint's Link headers: one STUN and one TURN at most.

    aiortc does not use more. Omits servers at addresses that the endpoint may not name
    (`Client.may_reach`), and those with a protocol that aiortc does not support.

    Raises:
        SessionError: if they are malformed.
    """
    chosen: dict[str, RTCIceServer] = {}
    try:
        for link in read_links(headers):
            if "ice-server" in link.parameters.get("rel", "").lower().split():
                kind, server = await _server(client, link)
                if server is not None:
                    chosen.setdefault(kind, server)
    except ValueError as error:
        raise SessionError(f"a Link header of {client} is malformed: {error}") from error
    return list(chosen.values())


async def _server(client: Client, link: Link) -> tuple[str, RTCIceServer | None]:
    """Returns a server's kind, and the server or None if it cannot be used. Raises ValueError."""
    parts = _ICE_URL.fullmatch(link.target)
    port = int(parts[3] or 0) if parts else -1
    if parts is None or not 0 <= port < 65536 or parts[3] == "0":
        raise ValueError(f"{printable(link.target, 60)} is not a stun: or turn: address")
    scheme, host, transport = parts[1].lower(), parts[2].lower(), (parts[4] or "").lower()
    kind = scheme[:4]
    if kind == "stun" and transport:
        raise ValueError(f"{printable(link.target, 60)} is not a stun: address")
    secrets = [link.parameters.get(name) for name in ("username", "credential")]
    if kind == "turn" and not all(secret and len(secret) <= MOST_SECRET for secret in secrets):
        raise ValueError(f"{printable(link.target, 60)} has no username and credential")
    is_spoken = scheme != "stuns" and transport in ("", "udp", "tcp")
    is_password = link.parameters.get("credential-type", "password").lower() == "password"
    if not is_spoken or not is_password:
        return kind, None
    address = await client.address_of(host.strip("[]"))
    if address is None or ":" in address:
        logger.warning("%s names %s, which is not used", client, printable(link.target, 60))
        return kind, None
    place = host if scheme == "turns" else address  # TLS checks the name
    url = f"{scheme}:{place}" + (f":{port}" if port else "")
    url += f"?transport={transport}" if transport else ""
    return kind, RTCIceServer(url, *(secrets if kind == "turn" else ()))
