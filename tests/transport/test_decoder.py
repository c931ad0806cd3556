"""The decoder of a call: damage, arrival times, and the limit on a frame's size."""

import time

import av
import pytest
from aiortc.jitterbuffer import JitterFrame

from receiver.calls.track import arrival_time
from receiver.media.encoding import Encoding
from receiver.media.frame import Arrival, DecodedFrame
from receiver.transport.aiortc_hooks import ObservingDecoder
from tests.conftest import plain_frame
from tests.transport.streams import (
    encode,
    nal_unit,
    se,
    starts,
    ue,
)


def test_a_frame_carries_its_damage_and_its_arrival(portrait):
    units = encode(portrait[:20], Encoding(kbps=100, keyframe_every=10))
    decoder, told = ObservingDecoder(), []
    for index, unit in enumerate(units):
        frame = JitterFrame(unit, 3000 * index)  # of aiortc's own jitter buffer
        told += decoder.decode(frame) if index != 4 else []
    assert [DecodedFrame.from_video(video).damaged for video in told] == [
        4 < index < 10 for index in range(20) if index != 4
    ]
    arrivals = [video.opaque for video in told]
    assert all(isinstance(arrival, Arrival) for arrival in arrivals)
    assert arrivals[0].seconds < arrivals[-1].seconds


def test_padding_neither_ends_the_stream_nor_hides_a_loss(portrait):
    units = encode(portrait[:3], Encoding(kbps=100))
    decoder, padding = ObservingDecoder(), JitterFrame(b"", 1)
    padding.lost_before = True
    (first,) = decoder.decode(JitterFrame(units[0], 0))
    assert decoder.decode(padding) == []
    (second,) = decoder.decode(JitterFrame(units[1], 3000))
    assert (first.opaque.damaged, second.opaque.damaged) == (False, True)


def test_a_frame_that_the_decoder_rejects_is_a_loss(portrait):
    units = encode(portrait[:3], Encoding(kbps=100))
    decoder = ObservingDecoder()
    decoder.decode(JitterFrame(units[0], 0))
    idr_of_no_pps = nal_unit(0x65, ue(0) + ue(7) + ue(200) + "0" * 80)
    with pytest.raises(av.FFmpegError):
        decoder.decode(JitterFrame(idr_of_no_pps, 3000))
    (after,) = decoder.decode(JitterFrame(units[1], 6000))
    assert after.opaque.damaged


def test_parameter_sets_alone_are_rejected_but_no_loss(portrait):
    units = encode(portrait[:3], Encoding(kbps=100))
    idr = next(at for at in starts(units[0]) if units[0][at] & 0x1F == 5) - 3
    decoder = ObservingDecoder()
    with pytest.raises(av.FFmpegError):
        decoder.decode(JitterFrame(units[0][:idr], 0))
    (picture,) = decoder.decode(JitterFrame(units[0][idr:], 3000))
    assert not picture.opaque.damaged


def test_a_frame_beyond_the_largest_size_is_rejected():
    """16000x16000 pixels in forty bytes."""
    for side, fits in ((40, True), (192, True), (193, False), (1000, False)):
        bits = f"{66:08b}" + "0" * 8 + f"{51:08b}" + ue(0) + ue(0) + ue(2) + ue(1) + "0"
        sps = nal_unit(0x67, bits + ue(side - 1) + ue(side - 1) + "1" + "1" + "0" + "0")
        pps = nal_unit(0x68, ue(0) + ue(0) + "00" + ue(0) * 3 + "000" + se(0) * 3 + "000")
        idr = nal_unit(0x65, ue(0) + ue(7) + ue(0) + "0000" + ue(0) + "00" + se(0) + "1011" * 40)
        decoder = ObservingDecoder()
        if fits:
            (picture,) = decoder.decode(JitterFrame(sps + pps + idr, 0))
            assert (picture.width, picture.height) == (16 * side, 16 * side)
        else:
            with pytest.raises(av.FFmpegError):
                decoder.decode(JitterFrame(sps + pps + idr, 0))


def test_another_programs_opaque_is_not_an_arrival():
    frame = plain_frame(64, 48)
    for opaque in (None, 1.5, {"size": 3}, Arrival(2.5, damaged=True)):
        frame.opaque = opaque
        assert DecodedFrame.from_video(frame).damaged == isinstance(opaque, Arrival)
        before = time.perf_counter()
        arrived = arrival_time(frame)
        assert arrived == 2.5 if isinstance(opaque, Arrival) else arrived >= before
