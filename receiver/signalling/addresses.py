"""Classifies addresses by reach, so that a server on the internet cannot name local addresses."""

from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

NAT64 = IPv6Network("64:ff9b::/96")
"""IPv6 addresses that stand for an IPv4 address (RFC 6052, section 2.1)."""
COMPATIBLE = IPv6Network("::/96")
"""Deprecated addresses that do so too (RFC 4291, section 2.5.5.1), except :: and ::1."""
BROADCAST = IPv4Address("255.255.255.255")


class Reach(IntEnum):
    """The reach of an address. A server may name addresses up to its own reach.

    PUBLIC is the internet, PRIVATE everything that is not routed there (private, link-local,
    shared and reserved networks), LOOPBACK this machine, NOWHERE addresses on which no server can
    listen (multicast, broadcast).
    """

    PUBLIC = 0
    PRIVATE = 1
    LOOPBACK = 2
    NOWHERE = 3


def reach_of_address(text: str) -> Reach:
    """Returns the reach of an IPv4 or IPv6 address; NOWHERE if `text` is neither."""
    try:
        address = ip_address(text)
    except ValueError:
        return Reach.NOWHERE
    if isinstance(address, IPv6Address):
        address = _inner(address) or address
    if address.is_loopback or address.is_unspecified:  # Linux connects 0.0.0.0 to itself
        return Reach.LOOPBACK
    if address.is_multicast or address == BROADCAST:
        return Reach.NOWHERE
    local = isinstance(address, IPv6Address) and address.is_site_local
    return Reach.PUBLIC if address.is_global and not local else Reach.PRIVATE


def reach_of_name(host: str) -> Reach | None:
    """Returns the reach of a host that needs no look-up; None for all other names.

    No look-up is needed for addresses, `localhost` (RFC 6761, section 6.3) and `.local` names
    (RFC 6762).
    """
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return Reach.LOOPBACK
    if name == "local" or name.endswith(".local"):
        return Reach.PRIVATE
    try:
        ip_address(host)
    except ValueError:
        return None
    return reach_of_address(host)


def _inner(address: IPv6Address) -> IPv4Address | None:
    """Returns the IPv4 address that an IPv6 address stands for; None if there is none."""
    inner = address.ipv4_mapped or address.sixtofour
    if inner is None and (address in NAT64 or (address in COMPATIBLE and int(address) > 1)):
        inner = IPv4Address(int(address) & 0xFFFFFFFF)
    return inner
