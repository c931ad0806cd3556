"""Frames that carry their number through an encoder, and their figures."""

from fractions import Fraction

import av
import pytest

from bench.calls.numbered import (
    BITS,
    EVERY,
    WatchedEnhancer,
    face_quality,
    mean_quality,
    read_number,
    write_number,
)
from receiver.media.encoding import Encoding, through_codec
from tests.conftest import RATE, plain_frame, same_pixels


def test_every_number_can_be_read():
    blank = plain_frame(640, 480)
    numbers = range(0, 1 << BITS, 7)
    assert [read_number(write_number(blank, number)) for number in numbers] == list(numbers)
    assert read_number(blank) is None
    assert same_pixels(blank, plain_frame(640, 480))  # only a copy was changed


@pytest.mark.parametrize("size", [(640, 480), (480, 360), (320, 240), (160, 120)])
def test_numbers_survive_the_encoder_at_any_size(portrait, size):
    frames = [write_number(frame, 3 + i).reformat(*size) for i, frame in enumerate(portrait[:20])]
    found = [
        read_number(decoded.video)
        for _, decoded, _ in through_codec(frames, Encoding(kbps=60), Fraction(30))
    ]
    assert found == [3 + i for i in range(20)]


def test_an_invalid_number_is_none():
    frame = write_number(plain_frame(640, 480), 5)
    as_array = frame.to_ndarray()
    as_array[:32, 64:96] = 200 if as_array[16, 80] < 100 else 40
    assert read_number(av.VideoFrame.from_ndarray(as_array, format="yuv420p")) is None


def test_faces_are_compared_with_the_sent_ones(generator, portrait):
    sent = [write_number(frame, number) for number, frame in enumerate(portrait)]
    enhancer = WatchedEnhancer(generator)
    encoded = through_codec(sent[:40], Encoding(kbps=100), RATE)
    enhanced = [enhancer.enhance(decoded) for _, decoded, _ in encoded]
    assert len(enhanced) == 40
    assert len(enhancer.kept) == 1 + 39 // EVERY
    found = face_quality(enhancer.kept, sent)
    assert len(found) == len(enhancer.kept)
    means = mean_quality(found)
    assert means["psnr_restored"] > means["psnr_received"] > 25.0
    assert 0.7 < means["ssim_received"] < means["ssim_restored"] < 1.0
    shifted = mean_quality(face_quality(enhancer.kept, [*sent[20:], *sent[:20]]))
    assert shifted["psnr_received"] < means["psnr_received"]


def test_no_frames_have_no_figures():
    assert mean_quality(face_quality([], [])) == {}
