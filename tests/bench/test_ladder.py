"""The ladder, senders by name, and what they send."""

from fractions import Fraction

import numpy as np
import pytest

from bench.common.ladder import LADDER, Rung, rung_at
from bench.common.senders import Sender, ladder_of, sender_of
from models.openh264 import NO_KEYFRAME, OpenH264
from receiver.errors import InputError, ReceiverError
from receiver.media.encoding import Encoding
from receiver.media.planes import planes


def test_the_ladder_is_what_chromium_sends():
    assert [(rung.kbps, rung.width, rung.height) for rung in LADDER] == [
        (60, 320, 240),
        (100, 320, 240),
        (150, 320, 240),
        (250, 480, 360),
        (400, 480, 360),
        (600, 640, 480),
    ]


@pytest.mark.parametrize(
    ("kbps", "size"),
    [
        (30, (320, 240)),
        (60, (320, 240)),
        (249, (320, 240)),
        (250, (480, 360)),
        (599, (480, 360)),
        (600, (640, 480)),
        (2000, (640, 480)),
    ],
)
def test_any_rate_has_the_size_of_the_rung_below(kbps, size):
    assert rung_at(kbps) == Rung(kbps, *size)


@pytest.mark.parametrize(
    ("rung", "camera", "sent"),
    [
        ((320, 240), (640, 480), (320, 240)),
        ((480, 360), (640, 480), (480, 360)),
        ((640, 480), (640, 480), (640, 480)),
        ((320, 240), (512, 480), (256, 240)),
        ((320, 240), (352, 288), (264, 216)),
        ((480, 360), (352, 288), (352, 288)),
        ((640, 480), (1280, 720), (640, 360)),
        ((320, 240), (1280, 720), (320, 180)),
        ((320, 240), (4000, 4000), (1000, 1000)),  # no smaller scale exists
    ],
)
def test_cameras_of_other_sizes_are_sent_at_chromium_s_scales(rung, camera, sent):
    assert Rung(100, *rung).size_of(*camera) == sent


@pytest.mark.parametrize(
    ("name", "encoding", "rung"),
    [
        ("crf42", Encoding(crf=42, keyframe_every=NO_KEYFRAME), None),
        ("x264-150", Encoding(kbps=150, keyframe_every=NO_KEYFRAME), Rung(150, 320, 240)),
        ("openh264-62.5", OpenH264(62.5), Rung(62.5, 320, 240)),
        ("openh264-600", OpenH264(600), Rung(600, 640, 480)),
        ("openh264-100@640x480", OpenH264(100), Rung(100, 640, 480)),
    ],
)
def test_senders_by_name(name, encoding, rung):
    assert sender_of(name) == Sender(name, encoding, rung)


@pytest.mark.parametrize(
    "name",
    [
        *("crf52", "crf", "x264-0", "openh264", "vp8-100", "x264-nan", "x264-100@8x480"),
        *("x264-1@640", "openh264-0.9", "x264-100001"),
    ],
)
def test_other_senders_are_refused(name):
    with pytest.raises(InputError, match=f"'{name}' is not an encoding: give openh264-100"):
        sender_of(name)


def test_an_encoder_that_ends_early_is_an_error(portrait):
    refused = Sender("openh264-x", OpenH264(1e8), None)  # more than OpenH264 takes
    with pytest.raises(ReceiverError, match="the encoder of openh264-x ended early"):
        list(refused.send(portrait[:3], Fraction(30)))


def test_the_names_of_a_ladder_s_rungs():
    assert ladder_of("x264") == [f"x264-{kbps}" for kbps in (60, 100, 150, 250, 400, 600)]


@pytest.mark.parametrize("name", ["openh264-100", "x264-100"])
def test_a_camera_s_frames_are_sent_small_with_a_single_i_frame(portrait, name):
    rate = Fraction(30)
    sent = list(sender_of(name).send(portrait[:70], rate))
    assert [raw for raw, _, _ in sent] == portrait[:70]  # the captured frames, in full size
    assert {(d.video.width, d.video.height) for _, d, _ in sent} == {(320, 240)}
    assert [d.is_keyframe for _, d, _ in sent] == [True, *[False] * 69]
    assert all(raw.pts == round(3000 * i) for i, (raw, _, _) in enumerate(sent))
    kbps = sum(size for _, _, size in sent) * 8 / 1000 / (70 / 30)
    assert 60 < kbps < 200


def test_frames_are_reduced_by_averaging(portrait):
    ((raw, decoded, _),) = sender_of("openh264-9000@320x240").send(portrait[:1], Fraction(30))
    luma = planes(raw)[0].astype(np.float64)
    averaged = luma.reshape(240, 2, 320, 2).mean(axis=(1, 3))
    assert np.abs(averaged - planes(decoded.video)[0]).mean() < 2.0
