"""Offers of hostile peers against the real server: how long they stall it, what they leave."""

import asyncio
import threading

import pytest

from receiver.calls.server import MAX_BODY
from receiver.signalling.offers import MAX_CANDIDATES, MAX_LINES, MAX_MEDIA
from tests.calls.offers.making import (
    STALL,
    VIDEO,
    StallWatch,
    candidates,
    channels,
    filled,
    hostile,
    post_silent,
    section,
)
from tests.calls.peer import SDP, serving


@pytest.mark.parametrize("path", ["/whip/room", "/whep/other"])
@pytest.mark.parametrize("most_lines", [MAX_LINES, MAX_BODY])
async def test_no_offer_stalls_the_server(generator, http, young_heap, path, most_lines):
    """The worst held the event loop for 9 s."""
    async with serving(generator, rooms=64) as (_, base):
        await post_silent(http, base + "/whip/other")
        for name, (lines, more) in hostile().items():
            offer = filled(lines, more, most_lines)
            async with StallWatch() as watch:
                where = base + path.replace("room", f"{len(name)}-{name[0]}-{name[-1]}")
                response = await http.post(where, data=offer, headers=SDP)
                said = await response.text()
                await asyncio.sleep(0.05)  # what is begun after the answer counts too
            assert response.status in (201, 400, 422, 503), name
            assert response.status == 201 or said.count("\n") == 1, name
            assert watch.worked < STALL, name


async def test_large_offers_are_read_in_a_thread(generator, http):
    def threads() -> list[str]:
        return [one.name for one in threading.enumerate() if one.name.startswith("asyncio")]

    async with serving(generator, rooms=2) as (_, base):
        await post_silent(http, base + "/whip/small")
        assert threads() == []
        offer = filled(VIDEO, ["a=b:" + "c" * 4000] * 3)
        assert (await http.post(base + "/whip/large", data=offer, headers=SDP)).status == 201
        assert len(threads()) == 1


async def test_a_slow_charset_is_not_used(generator, http, young_heap):
    """Punycode takes a time that grows with the square of a text's length."""
    async with serving(generator) as (_, base), StallWatch() as watch:
        headers = {"Content-Type": "application/sdp; charset=punycode"}
        response = await http.post(base + "/whip/a", data="a-" + "aaaa" * 16000, headers=headers)
        assert response.status == 400
        assert watch.worked < STALL


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (candidates(MAX_CANDIDATES + 1), "the offer has 33 candidates: offer at most 32"),
        (candidates(900, "n.local"), "the offer has 900 candidates: offer at most 32"),
        (["m=audio 9 A 0"] * MAX_MEDIA, "the offer has 17 media sections: offer at most 16"),
        (["a=b:" + "c" * 4093], "the offer has 4097 characters in one line: offer at most 4096"),
        (["a=b"] * 2000, f"the offer has {2000 + len(VIDEO)} lines: offer at most 2000"),
        (section("video", 1), "the offer has more than one video: offer one"),
        (section("audio", 1) + section("audio", 2), "the offer has more than one audio: offer one"),
        (channels(), "the offer has data channels without a port from 1 to 65535"),
        (channels("a=sctp-port:0"), "the offer has data channels without a port from 1 to 65535"),
        (
            channels("a=sctp-port:5000", "a=max-message-size:16383"),
            "the offer has data channels that refuse messages of 16384 bytes",
        ),
        (
            ["a=extmap:256 urn:ietf:params:rtp-hdrext:sdes:mid"],
            "the offer has RTP extensions with ids outside 1 to 255",
        ),
    ],
)
@pytest.mark.parametrize("path", ["/whip/room", "/whep/room"])
async def test_too_much_is_refused_in_one_sentence(generator, http, path, more, sentence):
    async with serving(generator) as (server, base):
        response = await http.post(base + path, data=filled(VIDEO, more), headers=SDP)
        assert (response.status, await response.text()) == (422, sentence + "\n")
        assert not server.rooms


async def test_as_much_as_is_allowed_is_answered(generator, http):
    more = ["a=b:" + "c" * 4092, *candidates(MAX_CANDIDATES), *candidates(40, transport="TCP")]
    async with serving(generator) as (_, base):
        response = await http.post(base + "/whip/room", data=filled(VIDEO, more), headers=SDP)
        assert response.status == 201


# Sessions that never become calls.
