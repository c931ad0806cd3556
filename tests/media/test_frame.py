"""The data of decoded frames: QPs, motion vectors, side data."""

import gc
from fractions import Fraction

import av
import numpy as np
import pytest

from receiver.media.encoding import Encoding, open_decoder, through_codec
from receiver.media.frame import DecodedFrame
from tests.conftest import RATE


def decode_all(frames, options: dict[str, str], keyframes: set[int] = frozenset()):
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = frames[0].width, frames[0].height, "yuv420p"
    encoder.framerate, encoder.time_base = RATE, 1 / RATE
    encoder.options = {"tune": "zerolatency", "preset": "veryfast", **options}
    decoder = open_decoder()
    result = []
    for index, frame in enumerate(frames):
        kinds = av.video.frame.PictureType
        frame.pts, frame.time_base = index, 1 / RATE
        frame.pict_type = kinds.I if index in keyframes else kinds.NONE
        for packet in encoder.encode(frame):
            result += [DecodedFrame.from_video(video) for video in decoder.decode(packet)]
    return result


def test_it_knows_the_key_frames(portrait):
    decoded = decode_all(portrait[:30], {"g": "12"}, keyframes={17})
    assert [i for i, frame in enumerate(decoded) if frame.is_keyframe] == [0, 12, 17, 29]


@pytest.mark.parametrize("qp", [18, 31, 44])
def test_the_qp_is_that_of_the_encoder(portrait, qp):
    options = {"qp": str(qp), "x264-params": "ipratio=1.0:aq-mode=0"}
    decoded = decode_all(portrait[:12], {**options, "g": "6"})
    assert [frame.qp for frame in decoded] == [pytest.approx(qp, abs=0.01)] * 12


@pytest.mark.parametrize("codec", ["mpeg4", "mpeg2video"])
def test_qps_of_other_codecs_are_on_another_scale_and_not_reported(portrait, codec):
    encoder = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height, encoder.pix_fmt = 640, 480, "yuv420p"
    encoder.framerate, encoder.time_base = RATE, 1 / RATE
    decoder = av.CodecContext.create(codec, "r")
    decoder.options = {"export_side_data": "venc_params"}
    for index, frame in enumerate(portrait[:4]):
        frame.pts, frame.time_base = index, 1 / RATE
        for packet in encoder.encode(frame):
            for video in decoder.decode(packet):
                assert DecodedFrame.from_video(video).qp is None


def test_motion_vectors_are_there_but_on_key_frames(portrait):
    decoded = decode_all(portrait[:6], {"g": "3"})
    has_vectors = [frame.motion_vectors is not None for frame in decoded]
    assert has_vectors == [not frame.is_keyframe for frame in decoded]
    assert {"motion_x", "motion_y"} <= set(decoded[1].motion_vectors.dtype.names)


def test_a_frame_of_no_decoder_tells_nothing():
    frame = DecodedFrame.from_video(av.VideoFrame(64, 48, "yuv420p"))
    assert (frame.qp, frame.motion_vectors, frame.damaged) == (None, None, False)


def test_no_frame_is_held_back(portrait):
    pairs = list(through_codec(portrait[:10], Encoding(kbps=100), Fraction(30)))
    assert [decoded.video.pts for _, decoded, _ in pairs] == [3000 * i for i in range(10)]


@pytest.mark.parametrize("kbps", [60, 300])
def test_the_encoder_keeps_to_its_bitrate(portrait, kbps):
    sizes = [size for *_, size in through_codec(portrait, Encoding(kbps=kbps), RATE)]
    assert sum(sizes) * 8 / 1000 / (len(portrait) / 30) < 1.25 * kbps


def test_a_frame_is_freed_with_its_last_reference(portrait):
    """Not when the garbage collector runs: that may be hours later."""
    pictures = portrait[:6]
    gc.collect()
    gc.disable()
    try:
        before = pictures_alive()
        for frame in decode_all(pictures, {"g": "3"}):
            assert frame.qp_within(np.array([0.0, 0.0, 64.0, 64.0])) is not None
            assert (frame.motion_vectors is None) == frame.is_keyframe
        del frame
        assert pictures_alive() == before
    finally:
        gc.enable()


def pictures_alive() -> int:
    return sum(isinstance(one, av.VideoFrame) for one in gc.get_objects())
