"""Makes offers, and measures what they do to the server."""

import asyncio
import contextlib
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from itertools import count, cycle
from pathlib import Path

import aiohttp
from aioice import Candidate, Connection
from aiortc.sdp import SessionDescription

from receiver.calls.server import MAX_BODY
from tests.calls.peer import SDP

STALL = 0.05 if sys.gettrace() is None else 0.15
"""Seconds of the event loop's own time that one offer may take in one go. Wall-clock time would
measure the machine's other work too. Measuring coverage takes time as well."""


SESSION = ["v=0", "o=- 1 1 IN IP4 0.0.0.0", "s=-", "t=0 0"]


def section(kind: str, mid: object) -> list[str]:
    """A media section that the server can answer."""
    codec = {
        "video": ["a=rtpmap:96 H264/90000", "a=fmtp:96 packetization-mode=1"],
        "audio": ["a=rtpmap:96 opus/48000/2"],
    }[kind]
    return [
        f"m={kind} 9 UDP/TLS/RTP/SAVPF 96", f"a=mid:{mid}", "a=sendrecv", *codec, "a=rtcp-mux",
        "a=setup:actpass", "a=ice-ufrag:abcd", "a=ice-pwd:abcdefghijklmnopqrstuv",
        "a=fingerprint:sha-256 " + ":".join(["AA"] * 32),
    ]  # fmt: skip


def channels(*more: str) -> list[str]:
    """A media section of data channels without a port."""
    return [
        "m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "a=mid:1", "a=setup:actpass",
        "a=ice-ufrag:abcd", "a=ice-pwd:abcdefghijklmnopqrstuv",
        "a=fingerprint:sha-256 " + ":".join(["AA"] * 32), *more,
    ]  # fmt: skip


VIDEO = SESSION + section("video", 0)


def numbered(line: str) -> Iterator[str]:
    return (line.format(n=n, port=n % 65535 + 1, address=f"10.{n % 250}.1.1") for n in count())


def hostile() -> dict[str, tuple[list[str], Iterable[str]]]:
    """Returns, by name, the first lines of an offer and more of them than it can have."""
    return {
        "candidates": (VIDEO, numbered("a=candidate:{n} 1 udp 1 {address} {port} typ host")),
        "TCP candidates": (VIDEO, numbered("a=candidate:{n} 1 tcp 1 {address} 9 typ host")),
        "mDNS names": (VIDEO, numbered("a=candidate:{n} 1 udp 1 n{n}.local {port} typ host")),
        "media sections": (VIDEO, (line for n in count(1) for line in section("audio", n))),
        "empty media sections": (VIDEO, cycle(["m=audio 9 A 0"])),
        "codecs": (VIDEO, numbered("a=rtpmap:{n} H264/90000")),
        "one codec": (VIDEO, cycle(["a=rtpmap:96 H264/90000"])),
        "feedback": (VIDEO, cycle(["a=rtpmap:96 H264/90000", "a=rtcp-fb:* nack"])),
        "feedback of a stranger": (VIDEO, cycle(["a=rtpmap:97 VP8/90000", "a=rtcp-fb:* a"])),
        "codecs with everything": (
            VIDEO,
            (
                line.format(n)
                for n in count()
                for line in ("a=rtpmap:{} H264/90000", "a=fmtp:{} profile-level-id=42e01f",
                             "a=rtcp-fb:{} nack", "a=rtcp-fb:{} nack pli", "a=rtcp-fb:* nack")
            ),
        ),
        "clock rates": (VIDEO, (f"a=rtpmap:{n} H264/" + "9" * 4000 for n in count())),
        "feedback of codecs": (
            [*VIDEO, *(f"a=rtpmap:{n} H264/90000" for n in range(128))],
            (f"a=rtcp-fb:{n} {what}" for what in cycle(["nack", "goog-remb"]) for n in range(128)),
        ),
        "retransmission": (
            [*VIDEO, *(f"a=rtpmap:{n} rtx/90000" for n in range(97, 128))],
            (f"a=fmtp:{n % 128} apt=96;apt=" + "9" * 3900 for n in count(97)),
        ),
        "parameters": (VIDEO, cycle(["a=fmtp:96 " + ";".join(f"a{n}=1" for n in range(600))])),
        "parameters of codecs": (VIDEO, cycle(["a=rtpmap:97 H264/90000", "a=fmtp:97 x"])),
        "SSRCs": (VIDEO, numbered("a=ssrc:{n} a:b")),
        "SSRC groups": (VIDEO, cycle(["a=ssrc-group:FID " + "1 " * 1900])),
        "extensions": (VIDEO, cycle(["a=extmap:1 urn:ietf:params:rtp-hdrext:sdes:mid"])),
        "fingerprints": (VIDEO, cycle(["a=fingerprint:sha-512 a"])),
        "ICE options": (VIDEO, cycle(["a=ice-options:a"])),
        "bundles": (SESSION, cycle(["a=group:BUNDLE " + "0 " * 2000])),
        "streams": ([*SESSION, "a=msid-semantic:WMS " + "s " * 1900], cycle(section("video", 0))),
        "unknown attributes": (VIDEO, cycle(["a=b"])),
        "directions": (VIDEO, cycle(["a=sendrecv"])),
        "a long line": (VIDEO, ["a=b:" + "c" * 60000]),
        "a long m-line": (SESSION, ["m=video 9 UDP/TLS/RTP/SAVPF" + " 96" * 20000]),
        "payload types": (
            SESSION,
            ["m=video 9 UDP/TLS/RTP/SAVPF" + " 96" * 1300, *section("video", 0)[1:]],
        ),
        "separators": (VIDEO, ["\x0b" * 60000]),
    }  # fmt: skip


def filled(lines: list[str], more: Iterable[str], most_lines: int = MAX_BODY) -> bytes:
    """Returns an offer of `lines` and as many of `more` as fit into a body."""
    offer, size = list(lines), sum(len(line) + 2 for line in lines)
    for line in more:
        size += len(line) + 2
        if size > MAX_BODY or len(offer) == most_lines:
            break
        offer.append(line)
    return ("\r\n".join(offer) + "\r\n").encode()


class StallWatch:
    """Measures the longest work of the event loop without a pause, in seconds of a core."""

    def __init__(self) -> None:
        self.worked = 0.0

    async def __aenter__(self) -> "StallWatch":
        self._task = asyncio.ensure_future(self._watch())
        await asyncio.sleep(0.01)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    async def _watch(self) -> None:
        while True:
            worked = time.thread_time()
            await asyncio.sleep(0.001)
            self.worked = max(self.worked, time.thread_time() - worked)


async def post_silent(http: aiohttp.ClientSession, url: str) -> None:
    offer = filled(VIDEO, [])
    assert (await http.post(url, data=offer, headers=SDP)).status == 201


def candidates(number: int, address: str = "10.0.0.1", transport: str = "udp") -> list[str]:
    return [
        f"a=candidate:{n} 1 {transport} {n} {address} {5000 + n} typ host" for n in range(number)
    ]


@contextlib.contextmanager
def listening_sockets(number: int) -> Iterator[list[socket.socket]]:
    """UDP sockets on the loopback address that can receive packets of the server."""
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            for _ in range(number)
        ]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
            one.setblocking(False)
        yield sockets


def packets(sockets: list[socket.socket]) -> int:
    """Returns how many packets arrived since the last call."""
    number = 0
    for one in sockets:
        with contextlib.suppress(BlockingIOError):
            while one.recv(2048):
                number += 1
    return number


def own_udp_ports() -> set[int]:
    """Local ports of this process's UDP sockets."""
    links = (Path(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd"))
    inodes = set()
    for link in links:
        with contextlib.suppress(FileNotFoundError):
            inodes.add(os.readlink(link))
    ports = set()
    for table in ("udp", "udp6"):
        for row in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            words = row.split()
            if f"socket:[{words[9]}]" in inodes:
                ports.add(int(words[1].rpartition(":")[2], 16))
    return ports


async def ice_peer(http: aiohttp.ClientSession, url: str) -> tuple[int, Connection]:
    """Offers a video with a separate ICE agent; returns the answer's status, and the agent."""
    ice = Connection(ice_controlling=True)
    await ice.gather_candidates()
    offer = filled(VIDEO, []).decode()
    offer = offer.replace("ice-ufrag:abcd", f"ice-ufrag:{ice.local_username}")
    offer = re.sub("ice-pwd:.*", f"ice-pwd:{ice.local_password}\r", offer)
    offer += "".join(f"a=candidate:{one.to_sdp()}\r\n" for one in ice.local_candidates)
    response = await http.post(url, data=offer, headers=SDP)
    media = SessionDescription.parse(await response.text()).media[0]
    ice.remote_username, ice.remote_password = media.ice.usernameFragment, media.ice.password
    for line in re.findall("a=candidate:(.*)", await response.text()):
        await ice.add_remote_candidate(Candidate.from_sdp(line))
    await ice.add_remote_candidate(None)
    return response.status, ice


def held() -> tuple[int, set[str], int]:
    """Returns what a session may leave behind: open files, threads' names, tasks."""
    files = len(os.listdir("/proc/self/fd"))
    threads = {
        one.name
        for one in threading.enumerate()
        if not one.name.startswith(("asyncio", "recognition"))
    }
    return files, threads, len(asyncio.all_tasks())
