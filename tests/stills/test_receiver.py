"""The receiving side of stills: honest senders, and others."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

import receiver.stills.receiver
import receiver.stills.sender
from receiver.stills.picture import decode_still
from receiver.stills.protocol import CHUNK, MAX_BYTES
from receiver.stills.receiver import Still, StillReceiver
from receiver.stills.sender import StillSender
from tests.conftest import same_pixels
from tests.stills.channel import Channel, announcement


class Asking:
    """A receiver that has requested a still over a `Channel`, and what it received."""

    def __init__(self) -> None:
        self.channel = Channel()
        self.stills: list[tuple[av.VideoFrame, int]] = []
        self.failures: list[tuple[str, int]] = []
        self.threads: set[str] = set()
        self.receiver = StillReceiver(self.channel, self.take, self.fail)
        assert self.receiver.request(40_000, 1000)

    def take(self, still: Still) -> None:
        self.threads.add(threading.current_thread().name)
        self.stills.append((still.picture, still.size_bytes))

    def fail(self, reason: str, came: int) -> None:
        self.failures.append((reason, came))

    def answer(self, data: bytes, **changes) -> None:
        self.channel.say(**announcement(data, **changes))
        for start in range(0, len(data), CHUNK):
            self.channel.emit("message", data[start : start + CHUNK])

    async def done(self) -> None:
        async with asyncio.timeout(10):
            while self.receiver.waiting:
                await asyncio.sleep(0.01)


@pytest.fixture
async def asking() -> AsyncIterator[Asking]:
    one = Asking()
    yield one
    one.receiver.close()


async def test_a_requested_still_is_received(asking, webp):
    request = json.loads(asking.channel.sent[0])
    assert request == {"type": "request", "id": 1, "max_bytes": 40_000, "kbps": 1000}
    assert asking.receiver.waiting
    assert not asking.receiver.ready
    assert not asking.receiver.request(40_000, 1000)
    asking.answer(webp)
    await asking.done()
    assert asking.receiver.ready
    ((frame, size),) = asking.stills
    assert (frame.width, frame.height, size) == (640, 480, len(webp))
    assert float(frame.time) == 5.0
    assert same_pixels(frame, decode_still(webp, "image/webp"))
    assert asking.threads == {"stills_0"}
    counts = asking.receiver.counts
    assert (counts.requested, counts.received, counts.bytes) == (1, 1, len(webp))
    assert asking.receiver.request(40_000, 1000)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bytes": 40_001}, "bytes is 40001"),
        ({"bytes": 0}, "bytes is 0"),
        ({"bytes": True}, "bytes is True"),
        ({"bytes": "9"}, "bytes is '9'"),
        ({"mime": "image/png"}, "mime is 'image/png'"),
        ({"mime": ["x"]}, "mime is"),
        ({"width": 2049, "height": 2049}, "more than"),
        ({"width": 15}, "width is 15"),
        ({"height": 10**30}, "height is 1000"),
        ({"height": 480.0}, "height is 480.0"),
        ({"height": None}, "height is None"),
        ({"captured_ms": "now"}, "captured_ms is 'now'"),
        ({"captured_ms": -1}, "captured_ms is -1"),
        ({"width": 480, "height": 640}, "not the announced 480x640"),
        ({"mime": "image/jpeg"}, "not a valid image/jpeg"),
    ],
)
async def test_an_invalid_announcement_is_rejected(asking, webp, changes, words):
    asking.answer(webp, **changes)
    await asking.done()
    ((reason, _),) = asking.failures
    assert words in reason
    assert asking.stills == []
    assert asking.receiver.counts.rejected == 1
    assert asking.receiver.request(40_000, 1000)


async def test_more_bytes_than_announced_are_rejected(asking, webp):
    asking.channel.say(**announcement(webp, bytes=1000))
    asking.channel.emit("message", webp[:999])
    asking.channel.emit("message", webp[999:2000])
    assert asking.failures == [("more than the announced 1000 bytes arrived", 999)]
    asking.channel.emit("message", webp[:5000])
    assert asking.receiver.counts.ignored == 1
    assert asking.receiver.counts.bytes == 7000


async def test_a_chunk_that_is_too_large_is_rejected(asking, webp):
    data = webp + bytes(CHUNK)
    asking.channel.say(**announcement(data))
    asking.channel.emit("message", data[: CHUNK + 1])
    assert asking.receiver.counts.rejected == 1


@pytest.mark.parametrize(
    "message",
    [
        "", "{", "[]", "7", "null", "[" * 1000, "9" * 1000, "NaN", '{"type":"still","id":NaN}',
        "x" * 5000, '{"type":"dance","id":1}', '{"type":"still","id":2}', '{"type":"still"}',
        '{"type":"still","id":true}', '{"type":"refused","id":"1"}', '{"id":1}', b"stray", b"",
    ],
)  # fmt: skip
async def test_messages_without_a_request_are_ignored(asking, webp, message):
    asking.channel.emit("message", message)
    assert asking.receiver.counts.ignored == 1
    assert asking.receiver.waiting
    asking.answer(webp)
    await asking.done()
    assert len(asking.stills) == 1


async def test_a_refusal_ends_the_request(asking):
    asking.channel.say(type="refused", id=1, reason="no\ncamera" * 50)
    ((reason, came),) = asking.failures
    assert reason.startswith("the sender refuses: 'no\\ncamera")
    assert (len(reason) < 150, came, asking.receiver.counts.refused) == (True, 0, 1)
    assert not asking.receiver.waiting


@pytest.mark.parametrize("announced", [False, True])
async def test_a_request_times_out(monkeypatch, webp, announced):
    monkeypatch.setattr(receiver.stills.receiver, "ANSWER_SECONDS", 0.1)
    asking = Asking()
    if announced:
        asking.channel.say(**announcement(webp))
        asking.channel.emit("message", webp[:100])
    await asking.done()
    assert asking.failures == [("it did not arrive in time", 100 * announced)]
    assert asking.receiver.counts.timed_out == 1
    asking.receiver.close()


async def test_a_closing_channel_ends_the_request(asking):
    asking.channel.close()
    assert asking.failures == [("the channel closed", 0)]
    assert not asking.receiver.ready
    assert not asking.receiver.request(40_000, 1000)


async def test_no_callback_is_called_after_closing(asking, webp, monkeypatch):
    closed = threading.Event()

    def decode_after_closing(data, mime):
        closed.wait(10)
        return decode_still(data, mime)

    monkeypatch.setattr(receiver.stills.receiver, "decode_still", decode_after_closing)
    asking.answer(webp)
    asking.receiver.close()
    closed.set()
    asking.answer(webp)
    await asyncio.sleep(0.2)
    assert (asking.stills, asking.failures) == ([], [])
    assert not asking.receiver.waiting


async def test_an_exception_in_the_callback_rejects_the_still(webp):
    def fail(still: Still) -> None:
        raise KeyError("oops")

    channel = Channel()
    receiver = StillReceiver(channel, fail)
    receiver.request(40_000, 1000)
    channel.say(**announcement(webp))
    for start in range(0, len(webp), CHUNK):
        channel.emit("message", webp[start : start + CHUNK])
    async with asyncio.timeout(5):
        while receiver.waiting:
            await asyncio.sleep(0.01)
    assert receiver.counts.rejected == 1
    receiver.close()


@pytest.mark.parametrize(
    ("max_bytes", "kbps"), [(0, 100), (MAX_BYTES + 1, 100), (9, 7), (9, float("nan"))]
)
async def test_invalid_requests_are_errors(asking, max_bytes, kbps):
    with pytest.raises(ValueError, match="is not within"):
        asking.receiver.request(max_bytes, kbps)


NUMBERS = st.one_of(
    st.integers(-(10**20), 10**20), st.sampled_from([0, 1, 2, 640, 480]), st.floats(), st.none(),
    st.booleans(), st.text(max_size=5), st.lists(st.integers(), max_size=2),
)  # fmt: skip
FIELDS = ("bytes", "width", "height", "captured_ms", "max_bytes", "reason", "kbps")
OBJECTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["still", "refused", "request", "x"]), "id": st.just(1) | NUMBERS},
    optional=dict.fromkeys(FIELDS, NUMBERS)
    | {"mime": st.sampled_from(["image/webp", "image/jpeg"]) | NUMBERS},
).map(json.dumps)  # fmt: skip
GOOD = st.integers(1, 40_000).map(lambda size: json.dumps(announcement(b"", bytes=size)))
MESSAGES = st.lists(
    OBJECTS | GOOD | st.text(max_size=50) | st.binary(max_size=200)
    | st.integers(1, 2 * CHUNK).map(bytes),
    max_size=20,
)  # fmt: skip


@given(MESSAGES)
def test_random_messages_neither_raise_nor_fill_the_memory(messages):
    async def run() -> None:
        asking = Asking()
        requests = Channel()
        sender = StillSender(requests, lambda: None)
        for message in messages:
            asking.channel.emit("message", message)
            requests.emit("message", message)
            asked = asking.receiver._request
            assert asked is None or len(asked.data) <= 40_000
        counts = asking.receiver.counts
        assert counts.refused + counts.rejected + asking.receiver.waiting == 1
        asking.receiver.close()
        sender.close()
        await asyncio.sleep(0)

    asyncio.run(run())
