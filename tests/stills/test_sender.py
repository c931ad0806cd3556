"""The sending side of stills: its answers and its limits."""

import asyncio
import json

import pytest

import receiver.stills.receiver
import receiver.stills.sender
from receiver.stills.protocol import CHUNK, MAX_BYTES, MAX_TEXT
from receiver.stills.sender import StillSender
from tests.stills.channel import Channel, plain


async def answers(requests: list[dict], take=None, **channel_has) -> list[dict]:
    """Returns a sender's text messages in answer to requests that arrive at once."""
    channel = Channel()
    vars(channel).update(channel_has)
    frame = plain("yuv420p")
    sender = StillSender(channel, take or (lambda: frame))
    for request in requests:
        channel.say(**({"type": "request", "max_bytes": 5000, "kbps": 1000} | request))
    await asyncio.sleep(0.3)
    sender.close()
    return [json.loads(message) for message in channel.sent if isinstance(message, str)]


async def test_one_still_is_sent_at_a_time():
    first, second = await answers([{"id": 1}, {"id": 2}])
    assert (first["type"], first["id"]) == ("refused", 2)
    assert "another still is being sent" in first["reason"]
    assert (second["type"], second["id"], second["mime"]) == ("still", 1, "image/webp")
    assert (second["width"], second["height"]) == (96, 64)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"max_bytes": 0}, "max_bytes is 0"),
        ({"max_bytes": MAX_BYTES + 1}, "max_bytes is"),
        ({"max_bytes": 1.5}, "max_bytes is 1.5"),
        ({"kbps": "fast"}, "kbps is 'fast'"),
        ({"kbps": 0}, "kbps is 0"),
        ({"kbps": 10**400}, "kbps is"),
        ({"max_bytes": 20}, "fits into 20 bytes"),
    ],
)
async def test_an_invalid_request_is_refused(request_, words):
    (said,) = await answers([{"id": 3} | request_])
    assert (said["type"], said["id"]) == ("refused", 3)
    assert words in said["reason"]
    assert len(json.dumps(said)) < MAX_TEXT


async def test_requests_without_a_valid_id_get_no_answer():
    assert await answers([{"id": -1}, {"id": "1"}, {"id": True}, {}, {"type": "x", "id": 1}]) == []


async def test_stills_a_minute_are_limited(monkeypatch):
    monkeypatch.setattr(receiver.stills.sender, "STILLS_A_MINUTE", 2)
    channel = Channel()
    sender = StillSender(channel, lambda: plain("yuv420p"))
    for number in range(3):
        channel.say(type="request", id=number, max_bytes=5000, kbps=1000)
        await asyncio.sleep(0.3)
    sender.close()
    last = json.loads(channel.sent[-1])
    assert (last["type"], last["id"]) == ("refused", 2)
    assert last["reason"].startswith("the limit is 2 stills a minute")
    assert (sender.sent, sender.refused) == (2, 1)


async def test_a_full_channel_is_given_up(monkeypatch):
    monkeypatch.setattr(receiver.stills.sender, "ANSWER_SECONDS", 0.1)
    channel = Channel()
    channel.bufferedAmount = CHUNK + 1
    sender = StillSender(channel, lambda: plain("yuv420p"))
    channel.say(type="request", id=1, max_bytes=5000, kbps=1000)
    await asyncio.sleep(0.5)
    assert [type(message) for message in channel.sent] == [str]
    assert sender.sent == 0
    sender.close()
