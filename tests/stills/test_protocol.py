"""Stills over a data channel: pictures in and out, honest peers, and others."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator
from fractions import Fraction
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest
from aiortc import RTCPeerConnection
from av.video.reformatter import ColorRange, Colorspace
from hypothesis import given
from hypothesis import strategies as st
from pyee.asyncio import AsyncIOEventEmitter

import receiver.stills.receiver
import receiver.stills.sender
from receiver.enhance.faces.alignment import extract_crop, psnr_db
from receiver.media.planes import planes
from receiver.stills.picture import MAX_STILL_PIXELS, StillError, decode_still, encode_still
from receiver.stills.protocol import CHUNK, LABEL, MAX_BYTES, MAX_TEXT
from receiver.stills.receiver import Still, StillReceiver
from receiver.stills.sender import StillSender
from receiver.transport.data_channels import guard_channels
from tests.calls.peer import HERE
from tests.conftest import plain_frame, same_pixels

WHOLE = np.array([[1.0, 0.0, -200.0], [0.0, 1.0, -100.0]])
"""A crop out of the middle of the portrait."""
RED = (200, 40, 60)


class Channel(AsyncIOEventEmitter):
    """A data channel whose other side is the test."""

    readyState = "open"  # noqa: N815
    bufferedAmount = 0  # noqa: N815

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[str | bytes] = []

    def send(self, message: str | bytes) -> None:
        self.sent.append(message)

    def close(self) -> None:
        self.readyState = "closed"
        self.emit("close")

    def say(self, **message) -> None:
        self.emit("message", json.dumps(message))


@pytest.fixture
def webp(portrait) -> bytes:
    return encode_still(portrait[0], 40_000)[0]


def announcement(data: bytes, **changes) -> dict:
    return {
        "type": "still", "id": 1, "bytes": len(data), "mime": "image/webp",
        "width": 640, "height": 480, "captured_ms": 5000,
    } | changes  # fmt: skip


class Asking:
    """A receiver that has asked for a still over a channel of the test's, and what came of it."""

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


@pytest.mark.parametrize(("max_bytes", "db"), [(60_000, 38), (12_000, 33), (3_000, 0)])
def test_a_still_fits_and_looks_like_the_frame(portrait, max_bytes, db):
    data, mime = encode_still(portrait[0], max_bytes)
    assert mime == "image/webp"
    assert len(data) <= max_bytes
    still = decode_still(data, mime)
    assert (still.format.name, still.color_range) == ("yuv420p", ColorRange.MPEG)
    if db:
        assert (still.width, still.height) == (640, 480)
        assert psnr_db(extract_crop(still, WHOLE), extract_crop(portrait[0], WHOLE)) > db
    else:
        assert still.width < 640
        assert still.width / still.height == pytest.approx(4 / 3, rel=0.01)


def test_the_frame_itself_is_left_alone(portrait):
    frame = portrait[3]
    frame.pts = 77
    before = frame.to_ndarray()
    encode_still(frame, 20_000)
    assert frame.pts == 77
    assert np.array_equal(frame.to_ndarray(), before)


def test_what_fits_nowhere_is_told(portrait):
    with pytest.raises(StillError, match="fits into 20 bytes"):
        encode_still(portrait[0], 20)


def plain(kind: str, **options) -> av.VideoFrame:
    picture = np.full((64, 96, 3), RED, np.uint8)
    frame = av.VideoFrame.from_ndarray(picture, "rgb24")
    return frame.reformat(format=kind, **options)


def rgb_of(frame: av.VideoFrame) -> np.ndarray:
    """The middle of a frame as the enhancer sees it."""
    return extract_crop(frame, np.array([[1.0, 0, 80], [0, 1.0, 96]]))[:, 128, 128] * 255


@pytest.mark.parametrize(
    ("kind", "space", "levels"),
    [
        ("yuv420p", Colorspace.ITU709, ColorRange.MPEG),
        ("yuv420p", Colorspace.ITU601, ColorRange.MPEG),
        ("yuv420p", Colorspace.ITU601, ColorRange.JPEG),
        ("yuvj420p", Colorspace.ITU601, ColorRange.JPEG),
        ("yuv444p", Colorspace.ITU709, ColorRange.JPEG),
    ],
)
def test_colours_survive_whatever_the_camera_gives(kind, space, levels):
    frame = plain(kind, dst_colorspace=space, dst_color_range=levels)
    frame.colorspace, frame.color_range = space, levels
    still = decode_still(*encode_still(frame, 50_000))
    assert np.abs(rgb_of(still) - RED).max() < 5


@pytest.mark.parametrize("sampling", [0x111111, 0x211111, 0x221111])
@pytest.mark.parametrize("progressive", [0, 1])
def test_jpeg_is_full_range(sampling, progressive):
    bgr = np.full((64, 96, 3), RED[::-1], np.uint8)
    options = [
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        sampling,
        cv2.IMWRITE_JPEG_PROGRESSIVE,
        progressive,
    ]
    data = cv2.imencode(".jpg", bgr, options)[1].tobytes()
    still = decode_still(data, "image/jpeg")
    assert (still.format.name, still.color_range) == ("yuvj420p", ColorRange.JPEG)
    assert np.abs(rgb_of(still) - RED).max() < 4


def test_other_kinds_of_pictures_keep_their_colours():
    grey = cv2.imencode(".jpg", np.full((64, 96), 200, np.uint8))[1].tobytes()
    assert np.abs(rgb_of(decode_still(grey, "image/jpeg")) - 200).max() < 3
    bgr = np.full((64, 96, 3), RED[::-1], np.uint8)
    lossless = cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()
    assert np.abs(rgb_of(decode_still(lossless, "image/webp")) - RED).max() < 5
    with_alpha = np.dstack([bgr, np.full((64, 96), 128, np.uint8)])
    data = cv2.imencode(".webp", with_alpha, [cv2.IMWRITE_WEBP_QUALITY, 90])[1].tobytes()
    assert decode_still(data, "image/webp").format.name == "yuv420p"


def animation() -> bytes:
    codec = av.CodecContext.create("libwebp_anim", "w")
    codec.width, codec.height, codec.pix_fmt = 64, 64, "yuv420p"
    codec.time_base = Fraction(1, 30)
    packets = []
    for index in range(3):
        frame = plain_frame(64, 64, level=90 + 20 * index)
        frame.pts, frame.time_base = index, codec.time_base
        packets += codec.encode(frame)
    return b"".join(map(bytes, packets + codec.encode(None)))


@pytest.mark.parametrize("kind", [".webp", ".jpg"])
def test_a_picture_of_immense_size_is_refused_before_memory_is_taken(kind):
    lossless = [cv2.IMWRITE_WEBP_QUALITY, 101] if kind == ".webp" else []
    data = cv2.imencode(kind, np.zeros((9000, 9000, 3), np.uint8), lossless)[1].tobytes()
    mime = {".webp": "image/webp", ".jpg": "image/jpeg"}[kind]
    began = time.perf_counter()
    with pytest.raises(StillError, match="is not a valid"):
        decode_still(data, mime)
    assert time.perf_counter() - began < 0.2


@pytest.mark.parametrize(
    ("make", "mime"),
    [
        (lambda webp: b"", "image/webp"),
        (lambda webp: b"no picture", "image/webp"),
        (lambda webp: webp[: len(webp) // 2], "image/webp"),
        (lambda webp: webp, "image/jpeg"),
        (lambda webp: webp, "image/png"),
        (lambda webp: animation(), "image/webp"),
        (lambda webp: cv2.imencode(".webp", np.zeros((8, 99, 3), np.uint8))[1].tobytes(),
         "image/webp"),
    ],
)  # fmt: skip
def test_what_is_no_still_is_told_in_a_sentence(webp, make, mime):
    with pytest.raises(StillError) as caught:
        decode_still(make(webp), mime)
    assert "\n" not in str(caught.value)


@given(st.data())
def test_mutated_pictures_raise_nothing_else(portrait, data):
    kind, mime = data.draw(
        st.sampled_from([(".webp", "image/webp"), (".jpg", "image/jpeg")]), label="kind"
    )
    small = portrait[0].reformat(96, 64).to_ndarray(format="bgr24")
    picture = bytearray(cv2.imencode(kind, small)[1].tobytes())
    places = st.tuples(st.integers(0, len(picture) - 1), st.integers(0, 255))
    for place, value in data.draw(st.lists(places, max_size=20), label="changes"):
        picture[place] = value
    with contextlib.suppress(StillError):
        still = decode_still(bytes(picture[: data.draw(st.integers(0, len(picture)))]), mime)
        assert still.width * still.height <= MAX_STILL_PIXELS
        assert len(planes(still)) == 3


async def test_a_still_is_asked_for_and_comes(asking, webp):
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
async def test_an_announcement_that_does_not_hold_is_rejected(asking, webp, changes, words):
    asking.answer(webp, **changes)
    await asking.done()
    ((reason, _),) = asking.failures
    assert words in reason
    assert asking.stills == []
    assert asking.receiver.counts.rejected == 1
    assert asking.receiver.request(40_000, 1000)


async def test_more_than_was_announced_is_rejected(asking, webp):
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
async def test_what_nobody_asked_for_is_ignored(asking, webp, message):
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
async def test_nobody_waits_for_ever(monkeypatch, webp, announced):
    monkeypatch.setattr(receiver.stills.receiver, "ANSWER_SECONDS", 0.1)
    asking = Asking()
    if announced:
        asking.channel.say(**announcement(webp))
        asking.channel.emit("message", webp[:100])
    await asking.done()
    assert asking.failures == [("it did not arrive in time", 100 * announced)]
    assert asking.receiver.counts.timed_out == 1
    asking.receiver.close()


async def test_a_channel_that_closes_ends_the_request(asking):
    asking.channel.close()
    assert asking.failures == [("the channel closed", 0)]
    assert not asking.receiver.ready
    assert not asking.receiver.request(40_000, 1000)


async def test_after_closing_nothing_is_called_back(asking, webp, monkeypatch):
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


async def test_what_the_user_does_wrong_with_a_still_breaks_nothing(webp):
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
async def test_senseless_requests_are_errors(asking, max_bytes, kbps):
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
def test_whatever_comes_nothing_raises_and_nothing_grows(messages):
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


async def connected(first: RTCPeerConnection, second: RTCPeerConnection, on_channel) -> None:
    """Offer and answer between two connections that have a data channel."""
    await first.setLocalDescription(await first.createOffer())
    await second.setRemoteDescription(first.localDescription)
    await second.setLocalDescription(await second.createAnswer())
    guard_channels(second, on_channel, lambda: asyncio.ensure_future(second.close()))
    await first.setRemoteDescription(second.localDescription)


class Call:
    """A sender and a receiver of stills, and a real connection between them."""

    def __init__(self, take) -> None:
        self.sending, self.receiving = RTCPeerConnection(HERE), RTCPeerConnection(HERE)
        self.channel = self.sending.createDataChannel(LABEL)
        self.sender = StillSender(self.channel, take)
        self.receiver: StillReceiver | None = None
        self.stills: list[tuple[av.VideoFrame, int]] = []
        self.failures: list[tuple[str, int]] = []

    def take(self, channel) -> bool:
        if channel.label != LABEL:
            return False
        self.receiver = StillReceiver(
            channel,
            lambda still: self.stills.append((still.picture, still.size_bytes)),
            lambda *failure: self.failures.append(failure),
        )
        return True

    async def __aenter__(self) -> "Call":
        await connected(self.sending, self.receiving, self.take)
        async with asyncio.timeout(10):
            while self.receiver is None:
                await asyncio.sleep(0.01)
        return self

    async def ask(self, max_bytes: int, kbps: float) -> None:
        async with asyncio.timeout(15):
            while not self.receiver.request(max_bytes, kbps):
                await asyncio.sleep(0.01)
            while self.receiver.waiting:
                await asyncio.sleep(0.01)

    async def __aexit__(self, *error) -> None:
        self.sender.close()
        self.receiver.close()
        await self.sending.close()
        await self.receiving.close()


async def test_two_connections_at_the_pace_that_was_asked_for(portrait):
    async with Call(lambda: portrait[7]) as call:
        began = time.monotonic()
        await call.ask(12_000, 80)
        ((frame, size),) = call.stills
        assert (frame.width, frame.height) == (640, 480)
        assert size <= 12_000
        assert psnr_db(extract_crop(frame, WHOLE), extract_crop(portrait[7], WHOLE)) > 33
        assert time.monotonic() - began > 0.75 * size * 8 / 80_000
        await call.ask(40_000, 5000)
        assert len(call.stills) == 2
        assert call.receiver.counts.bytes == size + call.stills[1][1]
        assert (call.sender.sent, call.sender.refused) == (2, 0)


async def test_before_there_is_a_picture_it_is_refused():
    async with Call(lambda: None) as call:
        await call.ask(12_000, 80)
        assert call.failures == [("the sender refuses: 'there is no frame yet'", 0)]


async def test_a_connection_that_ends_in_mid_still(portrait):
    async with Call(lambda: portrait[7]) as call:
        asking = asyncio.ensure_future(call.ask(30_000, 20))
        await asyncio.sleep(0.7)
        await call.sending.close()
        await asking
        assert [reason for reason, _ in call.failures] == ["the channel closed"]
        assert call.sender.sent == 0


async def until(condition) -> None:
    async with asyncio.timeout(15):
        while not condition():
            await asyncio.sleep(0.02)


async def test_strange_channels_are_closed_and_too_many_end_the_call():
    async with Call(lambda: None) as call:
        other = call.sending.createDataChannel("chat")
        await until(lambda: other.readyState == "closed")
        assert call.receiver.request(1000, 100)
        for number in range(20):
            call.sending.createDataChannel(f"chat {number}")
        await until(lambda: call.receiving.connectionState == "closed")


async def test_a_message_without_an_end_ends_the_call(monkeypatch):
    async with Call(lambda: None) as call:
        await until(lambda: call.channel.readyState == "open")
        sctp = call.sending.sctp
        sctp._remote_max_message_size = 0
        transmit = sctp._send_chunk

        async def endless(chunk) -> None:
            chunk.flags &= ~0x01  # the last fragment is none
            await transmit(chunk)

        monkeypatch.setattr(sctp, "_send_chunk", endless)
        for _ in range(5):
            call.channel.send(bytes(1_000_000))
        await until(lambda: call.receiving.connectionState == "closed")
        streams = call.receiving.sctp._inbound_streams.values()
        assert sum(len(chunk.user_data) for one in streams for chunk in one.reassembly) < 3_000_000


async def answers(requests: list[dict], take=None, **channel_has) -> list[dict]:
    """What a sender says to requests that come at once."""
    channel = Channel()
    vars(channel).update(channel_has)
    frame = plain("yuv420p")
    sender = StillSender(channel, take or (lambda: frame))
    for request in requests:
        channel.say(**({"type": "request", "max_bytes": 5000, "kbps": 1000} | request))
    await asyncio.sleep(0.3)
    sender.close()
    return [json.loads(message) for message in channel.sent if isinstance(message, str)]


async def test_one_still_at_a_time():
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
async def test_a_request_that_cannot_be_met_is_refused(request_, words):
    (said,) = await answers([{"id": 3} | request_])
    assert (said["type"], said["id"]) == ("refused", 3)
    assert words in said["reason"]
    assert len(json.dumps(said)) < MAX_TEXT


async def test_requests_without_a_usable_id_get_no_answer():
    assert await answers([{"id": -1}, {"id": "1"}, {"id": True}, {}, {"type": "x", "id": 1}]) == []


async def test_no_more_than_thirty_a_minute(monkeypatch):
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


async def test_a_full_channel_is_not_filled_further(monkeypatch):
    monkeypatch.setattr(receiver.stills.sender, "ANSWER_SECONDS", 0.1)
    channel = Channel()
    channel.bufferedAmount = CHUNK + 1
    sender = StillSender(channel, lambda: plain("yuv420p"))
    channel.say(type="request", id=1, max_bytes=5000, kbps=1000)
    await asyncio.sleep(0.5)
    assert [type(message) for message in channel.sent] == [str]
    assert sender.sent == 0
    sender.close()


def test_a_connection_without_channels_needs_no_guard():
    guard_channels(SimpleNamespace(sctp=None), lambda _: False, lambda: None)
