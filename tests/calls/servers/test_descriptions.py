"""Session descriptions of hostile servers, and calls with such servers."""

import asyncio
import logging
import re
import threading
from fractions import Fraction

import pytest
from aiohttp import web

from receiver.calls.join import Joined
from receiver.enhance.enhancer import Enhancer
from receiver.errors import InputError, ReceiverError
from receiver.media.encoding import Encoding
from receiver.media.files.recording import FileOutput
from receiver.sending.publishing import Sending, send
from receiver.sending.sources import clip_source
from receiver.signalling.sessions import open_publishing, open_session
from receiver.transport.data_channels import MAX_UNWANTED_CHANNELS
from tests.calls.peer import until
from tests.calls.servers.endpoints import (
    SECONDS,
    Answerer,
    answerer,
    origin,
    refused,
    replaced,
    without,
)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda sdp: "", "it is not SDP"),
        (lambda sdp: "v=0\r\n" * 2000, "more than 1000 lines"),
        (lambda sdp: sdp + "a=x:" + "y" * 5000, "or one of more than 4096"),
        (lambda sdp: sdp + "m=video 9 UDP/TLS/RTP/SAVPF 96\r\n" * 20, "more than 16 media"),
        (lambda sdp: sdp + sdp[sdp.index("m=video") :], "its media have no unique names"),
        (lambda sdp: sdp[: sdp.index("m=audio")], "bundles media that it does not have"),
        (lambda sdp: sdp.replace("m=video", "m=audio"), "its media are not those of the offer"),
        (without("mid"), "its media have no unique names"),
        (without("sendonly"), "its video is None, not sendonly or inactive"),
        (replaced("a=sendonly", "a=sendrecv"), "its video is sendrecv"),
        (replaced("a=sendonly", "a=recvonly"), "its video is recvonly"),
        (replaced("BUNDLE 0 1", "BUNDLE 7 0 1"), "bundles media that it does not have"),
        (without("ice-ufrag"), "lacks an ICE user or password"),
        (replaced("ice-pwd:.*", "ice-pwd:" + "p" * 3000), "lacks an ICE user or password"),
        (replaced("ice-pwd:.*", "ice-pwd:\u00e9\u00e9"), "lacks an ICE user or password"),
        (without("fingerprint"), "lacks a certificate's fingerprint"),
        (replaced("sha-[0-9]+", "md5"), "lacks a certificate's fingerprint"),
        (without("setup"), "it has no DTLS role: add a=setup:active or a=setup:passive"),
        (replaced("a=setup:active", "a=setup:actpass"), "it has the DTLS role 'actpass': use"),
        (replaced("a=setup:active", "a=setup:holdconn"), "it has the DTLS role 'holdconn': use"),
        (without("rtcp-mux"), "it has RTCP on a separate port"),
        (replaced("extmap:[0-9]+", "extmap:4000"), "has RTP extensions with ids outside"),
        (replaced("H264/90000", "H265/90000"), "it has no H.264"),
        (replaced("(opus|G722|PCM[AU])/", "speex/"), "it has no sound in Opus, G.722 or G.711"),
        (
            replaced("packetization-mode=1", "packetization-mode=0"),
            "it has H.264 only in packetization-mode 0: add packetization-mode=1",
        ),
        (without("fmtp"), "it has H.264 only in packetization-mode 0"),
        (
            replaced("profile-level-id=[0-9a-f]*", "profile-level-id=f4001f"),
            "it has H.264 only in unsupported profiles",
        ),
        (replaced("rtpmap:", "rtpmap:x"), "it is not SDP"),
        (replaced("m=video [0-9]+", "m=video 99999999999999999999 x"), "it is not SDP"),
    ],
)
async def test_an_answer_that_does_not_fit_is_reported(change, why):
    async with answerer(change) as endpoint, origin(endpoint) as home:
        await refused(home.base, InputError, "cannot be used", why)


USELESS = (
    "0 1 udp 1 224.0.0.251 5353 typ host",
    "0 1 udp 1 ff02::fb 5353 typ host",
    "0 1 udp 1 255.255.255.255 9 typ host",
    "0 1 udp 1 0.0.0.0 9 typ host",
    "0 1 udp 1 deadbeef.local 9 typ host",
    "0 1 udp 1 sfu.example 9 typ host",
    "0 1 udp 1 fe80::1%\u00e9 9 typ host",
    "0 1 udp 1 127.0.0.1 0 typ host",
    "0 1 udp 1 127.0.0.1 65536 typ host",
    "0 1 udp 1 127.0.0.1 -9 typ host",
    f"0 1 udp 1 127.0.0.1 {'9' * 3000} typ host",
    "0 2 udp 1 127.0.0.1 9 typ host",
    "0 1 tcp 1 127.0.0.1 9 typ host tcptype active",
    "0 1 udp x 127.0.0.1 9 typ host",
    "0 1 udp 1",
    "",
)


async def test_unusable_candidates_are_omitted(caplog):
    """Of the others 32 are used; a call is established with one of them."""
    caplog.set_level(logging.INFO, "aioice")
    own: list[str] = []

    def change(sdp: str) -> str:
        own.extend(re.findall("a=candidate:.*\r\n", sdp))
        many = [f"a=candidate:0 1 udp 1 127.0.0.1 {20000 + n} typ host\r\n" for n in range(400)]
        useless = [f"a=candidate:{one}\r\n" for one in USELESS]
        return sdp.replace(own[0], "".join([*useless, own[0], *many]), 1)

    async with (
        answerer(change) as endpoint,
        origin(endpoint) as home,
        open_session(home.base, None, lambda *_: None) as connection,
    ):
        await until(lambda: connection.connectionState == "connected")
        transport = connection.getTransceivers()[0].receiver.transport.transport
        known = transport.getRemoteCandidates()
    assert {one.ip for one in known} <= {"127.0.0.1", *(line.split()[4] for line in own)}
    places = [one.port for one in known if one.ip == "127.0.0.1"]
    assert 25 < len(places) < 32
    assert set(places) <= set(range(20000, 20032))
    assert "mdns" not in caplog.text


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (replaced("a=recvonly", "a=sendonly"), "its video is sendonly, not recvonly or inactive"),
        (without("sctp-port"), "has data channels without a port"),
        (replaced("sctp-port:.*", "sctp-port:0"), "has data channels without a port"),
        (replaced("message-size:.*", "message-size:-1"), "refuse messages of 16384 bytes"),
        (replaced("message-size:.*", "message-size:9"), "refuse messages of 16384 bytes"),
    ],
)
async def test_an_answer_that_does_not_fit_the_media_sent_is_reported(clip, change, why):
    call = Sending(clip_source(clip), Encoding(kbps=60))
    async with answerer(change) as endpoint, origin(endpoint) as home:
        with pytest.raises(InputError, match=why):
            async with open_publishing(home.base, None, call.prepare, seconds=SECONDS):
                pass
    call.close()


async def test_a_server_that_opens_channel_after_channel_is_left(clip):
    """Messages on them would fill the memory."""
    said: list[str] = []
    async with answerer(Location="/session") as endpoint, origin(endpoint) as home:
        sending = asyncio.ensure_future(send(clip_source(clip), 60, home.base, None, said.append))
        await until(lambda: said)
        for number in range(2 * MAX_UNWANTED_CHANNELS):
            endpoint.connections[0].createDataChannel(str(number))
        with pytest.raises(ReceiverError, match="ended the call"):
            await asyncio.wait_for(sending, 10)
    assert len(home.requests("DELETE")) == 1


async def test_an_answer_without_a_connection_ends_in_time(generator, tmp_path):
    """Although it never ends its candidates: it leaves once it has answered."""
    said: list[str] = []
    endpoint = Answerer(without("end-of-candidates"), Location="/session")

    async def answers(request: web.Request) -> web.StreamResponse:
        answer = await endpoint(request)
        await endpoint.close()
        return answer

    file = FileOutput(tmp_path / "call.mp4", Fraction(30), has_sound=True)
    async with origin(answers) as home:
        call = Joined(
            home.base, None, Enhancer(generator), say=said.append, shows=[], file=file, seconds=1
        )
        running = asyncio.ensure_future(call.run())
        await until(lambda: len(home.requests("DELETE")) == 2)
        tasks = len(asyncio.all_tasks())
        await until(lambda: len(home.requests("DELETE")) == 4, 30)
        assert len(asyncio.all_tasks()) <= tasks + 2  # of the fourth, which is being left
        call.stop()
        await asyncio.wait_for(running, 3)
    assert "answers, but no connection is possible" in said[0]
    assert call.sessions == 0
    await asyncio.to_thread(file.close)


async def test_a_call_that_is_left_while_it_connects_leaves_nothing():
    """At any step: aiortc's own connection would send consent checks forever."""
    threads = threading.active_count()
    async with answerer(Location="/session") as endpoint, origin(endpoint) as home:
        for milliseconds in range(50):
            async with open_session(home.base, None, lambda *_: None):
                await asyncio.sleep(milliseconds / 1000)
        assert len(home.requests("DELETE")) == 50
        owners = [task.get_coro().cr_frame.f_locals.get("self") for task in asyncio.all_tasks()]
        assert not [one for one in owners if getattr(one, "ice_controlling", False)]  # the client's
    await until(lambda: threading.active_count() <= threads, 3)
