"""ICE servers in Link headers of endpoints: which are used, and which packets are sent."""

import asyncio
import time

import pytest

from receiver.errors import InputError
from receiver.signalling.client import (
    Client,
    SessionError,
)
from receiver.signalling.links import ice_servers
from receiver.signalling.sessions import open_session
from tests.calls.servers.endpoints import (
    SECONDS,
    created,
    raw,
    refused,
)


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ('<stun:127.0.0.1:9>; rel="ice-server"', ["stun:127.0.0.1:9"]),
        ('<stun://127.0.0.1>; rel="ICE-server other"', ["stun:127.0.0.1"]),
        ('<turn:localhost:9?transport=tcp>; rel=ice-server; username="a\\"b"; credential=c',
         ["turn:127.0.0.1:9?transport=tcp"]),
        ("</x.css>; rel=preload; as=style, <stun:127.0.0.1>; rel=ice-server", ["stun:127.0.0.1"]),
        ("<stun:127.0.0.1>; rel=ice-server, <stun:127.0.0.2>; rel=ice-server", ["stun:127.0.0.1"]),
        ("<stuns:127.0.0.1>; rel=ice-server", []),
        ("<stun:[::1]:9>; rel=ice-server", []),
        ("<stun:224.0.0.1>; rel=ice-server", []),
        ("<stun:no-such-name.invalid>; rel=ice-server", []),
        ('<turn:127.0.0.1>; rel=ice-server; username=a; credential=b; credential-type="oauth"', []),
        ("<TURN:127.0.0.1>; REL=ice-server; UserName=a; credential=b; credential-type=Password",
         ["turn:127.0.0.1"]),
        ("<stun:127.0.0.1>; rel=other", []),
        ("", []),
    ],
)  # fmt: skip
async def test_ice_servers_are_taken_from_links(link, expected):
    options = f"HTTP/1.1 204 x\r\nLink: {link}\r\n\r\n".encode()
    async with raw(options, bytes) as base, Client(base, None, SECONDS).opened() as client:
        answer = await client.ask("OPTIONS", client.home, most=0)
        assert [one.urls for one in await ice_servers(client, answer.links)] == expected


@pytest.mark.parametrize(
    "link",
    [
        "stun:127.0.0.1; rel=ice-server",
        '<>; rel="ice-server"',
        "<stun:>; rel=ice-server",
        "<http://127.0.0.1>; rel=ice-server",
        "<stun:127.0.0.1:99999>; rel=ice-server",
        f"<stun:127.0.0.1:{'9' * 5000}>; rel=ice-server",
        "<stun:127.0.0.1:0>; rel=ice-server",
        "<stun:127.0.0.1?transport=udp>; rel=ice-server",
        "<stun:a b>; rel=ice-server",
        "<stun:127.0.0.1>; rel=ice-server; x=\"",
        "<stun:127.0.0.1> rel=ice-server",
        "<turn:127.0.0.1>; rel=ice-server",
        f"<turn:127.0.0.1>; rel=ice-server; username={'u' * 600}; credential=c",
        "<stun:127.0.0.1>; rel=ice-server," * 17,
        "<" + " " * 8000,
        "<stun:x>" + "; " * 4000,
        "<stun:x>; a=" + '"' * 4000,
        "<stun:\x1b[31m>; rel=ice-server",
    ],
)  # fmt: skip
async def test_a_malformed_link_is_told(link):
    options = f"HTTP/1.1 204 x\r\nLink: {link}\r\n\r\n".encode()
    async with raw(options, lambda: created(b"v=0")) as base:
        await refused(base, SessionError, "Link header of", "is malformed")


async def test_links_of_many_headers_take_no_time():
    """128 headers of 8 KiB, of a kind that takes aiohttp's own reader minutes."""
    lines = b"".join(b"Link: <a>;" + b" " * 8000 + b"x\r\n" for _ in range(100))
    async with raw(b"HTTP/1.1 204 x\r\n" + lines + b"\r\n", lambda: created(b"v=0")) as base:
        began = time.process_time()
        await refused(base, SessionError, "is malformed: more than 8192 characters")
        assert time.process_time() - began < 1


async def test_no_stun_packet_goes_where_an_endpoint_far_away_must_not_lead(caplog):
    """A loopback STUN server is asked by a loopback endpoint's clients only."""
    packets: list[bytes] = []

    class Stun(asyncio.DatagramProtocol):
        def datagram_received(self, data, addr):
            packets.append(data)

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        Stun, local_addr=("127.0.0.1", 0)
    )
    port = transport.get_extra_info("sockname")[1]
    names = (
        "127.0.0.1",
        "localhost",
        "127.1",
        "0x7f000001",
        "2130706433",
        "0.0.0.0",
        "a.localhost",
    )
    far = Client("http://sfu.example/whep", None, SECONDS)
    async with far.opened() as client:
        for name in names:
            link = f"<stun:{name}:{port}>; rel=ice-server"
            assert await ice_servers(client, [link]) == [], name
    assert len([one for one in caplog.messages if "which is not used" in one]) == len(names)
    options = f"HTTP/1.1 204 x\r\nLink: <stun:localhost:{port}>; rel=ice-server\r\n\r\n".encode()
    async with raw(options, lambda: created(b"v=0")) as base:
        with pytest.raises(InputError, match="cannot be used"):
            async with open_session(base, None, lambda *_: None, seconds=SECONDS):
                pass
    transport.close()
    assert packets
