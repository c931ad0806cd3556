"""What is asked of a sender, and when."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import av
import pytest

from keyframes import Budget, ReferenceNeed
from keyframes.requests import I_FRAME_BYTES, TIME_OUT
from receiver.calls.requester import STILL_KBPS, Requester, StillPace
from receiver.enhance.stage import EnhancedFrame, Outcome
from receiver.media.frame import DecodedFrame
from receiver.stats import Stats
from receiver.stills.protocol import LABEL
from receiver.transport.aiortc_hooks import request_keyframe
from tests.conftest import plain_frame


class Receiver:
    """Of aiortc's receiver what a PLI needs: streams with packets, and where it goes."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    async def getStats(self):  # noqa: N802
        streams = {1: 10, 2: 5000, 3: 70}  # 3: retransmissions
        report = {
            f"in{ssrc}": SimpleNamespace(type="inbound-rtp", ssrc=ssrc, packetsReceived=packets)
            for ssrc, packets in streams.items()
        }
        return report | {"out": SimpleNamespace(type="remote-outbound-rtp", ssrc=9)}

    async def _send_rtcp_pli(self, ssrc: int) -> None:
        self.asked.append(ssrc)


class Channel:
    """A data channel that takes no messages yet."""

    label, readyState = LABEL, "connecting"  # noqa: N815

    def on(self, event, use) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def frame() -> DecodedFrame:
    return DecodedFrame(plain_frame(), is_keyframe=False, qp=34.0, size_bytes=500)


class Needing(Requester):
    """Considers frames whose face lacks `need`."""

    need: ReferenceNeed | None = None

    def consider_frame(self, frame: DecodedFrame, outcome: Outcome = "restored") -> None:
        processed = outcome == "restored"
        need = self.need if processed else None
        self.consider(EnhancedFrame(frame.video, frame, outcome, reference_need=need))


async def settled(requester: Requester) -> None:
    await asyncio.gather(*requester._tasks)


def requester_for(need: ReferenceNeed | None, **more) -> tuple[Needing, Receiver, Stats]:
    enhancer = SimpleNamespace(stats=Stats("cpu"))
    requester, receiver = Needing(enhancer, **more), Receiver()
    requester.need = need
    requester.listen_to(receiver)
    return requester, receiver, enhancer.stats


async def test_a_pli_goes_to_the_stream_with_the_most_packets():
    receiver = Receiver()
    await request_keyframe(receiver)
    assert receiver.asked == [2]


async def test_without_stills_a_key_frame_is_asked_for_once_and_judged(frame):
    requester, receiver, _ = requester_for(ReferenceNeed(None, 34.0))
    for _ in range(5):
        requester.consider_frame(frame)
    await settled(requester)
    assert receiver.asked == [2]
    assert requester._policy._outstanding.max_bytes == I_FRAME_BYTES
    # It came, worse than what was there: as real-time encoders do. That counts as a failure.
    requester.need = ReferenceNeed(None, 39.0)
    requester.consider_frame(replace(frame, is_keyframe=True, size_bytes=9000))
    assert requester._policy._failures == 1
    assert requester._policy._spent == 9000


async def test_a_better_key_frame_is_an_answer(frame):
    requester, _, _ = requester_for(ReferenceNeed(None, 36.0))
    requester.consider_frame(frame)
    requester.need = ReferenceNeed(None, 29.0)
    requester.consider_frame(replace(frame, is_keyframe=True, size_bytes=14_000))
    assert requester._policy._failures == 0
    assert requester._policy._spent == 14_000
    await settled(requester)


@pytest.mark.parametrize(("qp", "failures"), [(29.0, 0), (39.0, 1)])
async def test_a_key_frame_that_was_skipped_is_judged_by_the_next_frame(frame, qp, failures):
    requester, _, _ = requester_for(ReferenceNeed(None, 36.0))
    requester.consider_frame(frame)
    keyframe = replace(frame, is_keyframe=True, size_bytes=14_000)
    requester.consider_frame(keyframe, outcome="passed: late")
    requester.consider_frame(frame, outcome="passed: failed")
    assert requester._policy._outstanding is not None  # the key frame is not judged yet
    assert requester._policy._spent == 0
    requester.need = ReferenceNeed(None, qp)
    requester.consider_frame(frame)
    assert requester._policy._failures == failures
    assert requester._policy._spent == 14_000
    await settled(requester)


async def test_what_became_of_stills_reaches_the_policy(frame):
    requester, _, stats = requester_for(ReferenceNeed(None, 36.0))
    for verdict, useless in (("nobody's", 1), ("worse", 2), ("still", 0), ("worse", 1)):
        stats.admitted[verdict] += 1
        for _ in range(3):  # each is counted once
            requester.consider_frame(frame)
        assert requester._policy._useless == useless
    await settled(requester)


async def test_any_key_frame_tells_how_large_the_next_one_may_be(frame):
    requester, receiver, _ = requester_for(ReferenceNeed(None, 36.0))
    requester.consider_frame(replace(frame, is_keyframe=True, size_bytes=60_000))
    assert requester._policy._outstanding.max_bytes == 60_000
    assert requester._policy._spent == 0  # nobody had asked for it
    await settled(requester)
    assert receiver.asked == [2]


async def test_a_key_frame_larger_than_the_budget_is_not_asked_for(frame):
    requester, receiver, _ = requester_for(ReferenceNeed(None, 36.0))
    for _ in range(5):
        requester.consider_frame(replace(frame, is_keyframe=True, size_bytes=200_000))
    await settled(requester)
    assert receiver.asked == []


async def test_a_key_frame_long_after_the_request_is_no_answer(frame):
    requester, _, _ = requester_for(ReferenceNeed(None, 36.0))
    requester.consider_frame(frame)
    requester._keyframe_asked -= TIME_OUT
    requester._policy._asked -= TIME_OUT
    requester.consider_frame(replace(frame, is_keyframe=True, size_bytes=9_000))
    assert requester._policy._spent == I_FRAME_BYTES  # as reserved, and charged once
    await settled(requester)


async def test_who_offers_stills_is_asked_for_no_key_frames(frame):
    requester, receiver, _ = requester_for(ReferenceNeed(None, 34.0))
    assert requester.take_channel(Channel())
    assert not requester.take_channel(Channel())  # one is enough
    for _ in range(5):
        requester.consider_frame(frame)
    await settled(requester)
    assert receiver.asked == []
    requester.close()


async def test_channels_of_another_name_are_not_taken():
    requester, _, _ = requester_for(None)
    other = Channel()
    other.label = "chat"
    assert not requester.take_channel(other)


async def test_damage_is_repaired_once_a_second_whatever_the_budget(frame):
    requester, receiver, _ = requester_for(None, budget=Budget(requests=0))
    for _ in range(10):
        requester.consider_frame(replace(frame, damaged=True))
    await settled(requester)
    assert receiver.asked == [2]
    requester._repaired -= 1.0
    requester.consider_frame(replace(frame, damaged=True))
    await settled(requester)
    assert receiver.asked == [2, 2]
    assert requester.keyframes_requested == 2


async def test_a_face_that_lacks_nothing_costs_nothing(frame):
    for need in (None, ReferenceNeed(3.0, 34.0), ReferenceNeed(None, 24.0)):
        requester, receiver, _ = requester_for(need)
        for _ in range(5):
            requester.consider_frame(frame)
        await settled(requester)
        assert receiver.asked == []
    assert isinstance(frame.video, av.VideoFrame)


def test_on_a_link_that_was_full_a_still_takes_half_of_what_the_video_takes_within_bounds():
    pace = StillPace()
    assert pace.kbps(link_was_full=True) == STILL_KBPS[0]
    for number in range(300):  # ten seconds
        pace.see(number / 30, 500)  # 120 kbit/s
    assert pace.kbps(link_was_full=True) == pytest.approx(60, rel=0.02)
    assert pace.kbps(link_was_full=False) == STILL_KBPS[1]
    for number in range(300, 400):
        pace.see(number / 30, 5000)
    assert pace.kbps(link_was_full=True) == STILL_KBPS[1]
    pace.see(1000.0, None)
    assert pace.kbps(link_was_full=True) == STILL_KBPS[0]
