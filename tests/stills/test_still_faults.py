"""Stills that cannot be used or made."""

import asyncio
from collections.abc import Callable

from receiver.calls.requester import Requester
from receiver.stills.picture import encode_still
from receiver.stills.protocol import LABEL
from receiver.stills.sender import StillSender
from tests.enhance.test_faults import raising, told
from tests.stills.channel import Channel, announcement


async def ended(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def test_an_unusable_still_does_not_stop_the_next(enhancer, portrait, caplog):
    failing = [True, False]
    enhancer.add_still = raising(enhancer.add_still, lambda: failing.pop(0))
    channel, requester = Channel(), Requester(enhancer)
    channel.label = LABEL
    assert requester.take_channel(channel)
    data = encode_still(portrait[0], 40_000)[0]
    for number in (1, 2):
        assert requester.stills.request(40_000, 1000)
        channel.say(**announcement(data, id=number))
        for start in range(0, len(data), 16384):
            channel.emit("message", data[start : start + 16384])
        await ended(lambda: not requester.stills.waiting)
    assert (requester.stills.counts.rejected, requester.stills.counts.received) == (1, 1)
    assert len(enhancer.face_stage._stills) == 1
    assert told(caplog, "a still could not be used") == 1
    requester.close()


async def test_a_sender_that_cannot_make_a_still_refuses_it_and_continues(portrait):
    failing = [True, False]
    channel = Channel()
    sender = StillSender(channel, raising(lambda: portrait[0], lambda: failing.pop(0)))
    for number in (1, 2):
        channel.say(type="request", id=number, max_bytes=40_000, kbps=10_000)
        await ended(lambda done=number: sender.sent + sender.refused == done)
    assert (sender.refused, sender.sent) == (1, 1)
    assert "it could not be made" in channel.sent[0]
    sender.close()
