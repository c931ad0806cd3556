"""Frames in, frames out: what a user of the enhancer relies on."""

from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest

from keyframes import Keyframe, landmark_distance
from keyframes.identity import ENOUGH
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.identities import MOST_AT_ONCE, SOON, WITHIN
from receiver.enhance.faces.recognition import FaceRecogniser, shared_recogniser
from receiver.enhance.faces.stage import blend_weight
from receiver.enhance.faces.tracking import CHECK_EVERY, MISSES
from receiver.media.encoding import Encoding, open_decoder, through_codec
from receiver.media.frame import DecodedFrame
from receiver.media.planes import copy_frame, cut_frame, planes
from tests.conftest import RATE, plain_frame, same_pixels

IDENTIFIED = (ENOUGH - 1) * SOON + 1
"""Frames after which it is known who is on screen."""


def test_a_face_is_changed_and_the_rest_is_not(enhancer, decoded):
    outputs = [enhancer.enhance(frame) for frame in decoded]
    for frame, output in zip(decoded, outputs, strict=True):
        changed = planes(output)[0] != planes(frame.video)[0]
        assert changed[150:330, 220:390].mean() > 0.2
        assert not changed[:, :60].any()
        assert not changed[:, -60:].any()


def test_time_stamps_and_colours_are_kept(enhancer, decoded):
    for frame in decoded:
        frame.video.pts, frame.video.time_base = 12345 + frame.video.pts, Fraction(1, 90000)
        output = enhancer.enhance(frame)
        assert output is not frame.video
        assert (output.pts, output.time_base) == (frame.video.pts, frame.video.time_base)
        assert output.color_range == frame.video.color_range
        assert output.colorspace == frame.video.colorspace
        frame.video.pts -= 12345


def test_a_frame_without_a_face_is_the_same_object(enhancer):
    frame = DecodedFrame.from_video(plain_frame())
    before = [plane.copy() for plane in planes(frame.video)]
    assert enhancer.enhance(frame) is frame.video
    assert all(map(np.array_equal, planes(frame.video), before))


@pytest.mark.parametrize("pixel_format", ["rgb24", "yuv444p", "yuv420p10le", "gray"])
def test_other_pixel_formats_pass(enhancer, pixel_format):
    video = av.VideoFrame(320, 240, pixel_format)
    assert enhancer.enhance(DecodedFrame.from_video(video)) is video


@pytest.mark.parametrize("size", [(2, 2), (16, 16), (34, 18), (1, 1), (4096, 16)])
def test_odd_sizes_pass(enhancer, size):
    video = av.VideoFrame(*size, "yuv420p")
    for plane in planes(video):
        plane[:] = 128
    assert enhancer.enhance(DecodedFrame.from_video(video)) is video


def test_a_frame_without_pixels_passes(enhancer):
    video = av.VideoFrame(0, 0, "yuv420p")
    assert enhancer.process(DecodedFrame.from_video(video)).scale == 1.0


def test_the_decoder_still_predicts_from_its_own_picture(enhancer, portrait, decoded):
    """Writing into a decoded frame would ruin every later one: decode again beside it."""
    again = through_codec(portrait[:30], Encoding(kbps=100, keyframe_every=10), RATE)
    for (_, frame, _), before in zip(again, decoded, strict=True):
        assert same_pixels(frame.video, before.video)
        enhancer.enhance(frame)


def test_key_frames_are_kept_and_a_damaged_one_is_not(generator, decoded):
    enhancer = Enhancer(generator, admission="i-frames")
    for frame in decoded:
        enhancer.enhance(frame)
    assert enhancer.stats.keyframes == sum(frame.is_keyframe for frame in decoded) == 3
    for admission in ("i-frames", "quality"):
        careful = Enhancer(generator, admission=admission)
        for frame in decoded:
            careful.enhance(replace(frame, damaged=True))
        assert careful.stats.keyframes == 0


def test_by_quality_what_came_well_serves_when_it_comes_badly(generator, portrait):
    """A call's good minutes are remembered: nothing else is used as a reference."""
    enhancer = Enhancer(generator)
    sharp = list(through_codec(portrait[:15], Encoding(crf=20, keyframe_every=1000), RATE))
    blurry = list(through_codec(portrait[15:30], Encoding(crf=44, keyframe_every=1000), RATE))
    for _, frame, _ in sharp:
        enhancer.enhance(frame)
    known = list(enhancer.people[0].keyframes)
    for _, frame, _ in blurry:
        need = enhancer.process(frame).reference_need
        assert need.distance < 100
        assert need.qp > max(keyframe.qp for keyframe in known)
    chosen = {id(keyframe) for keyframe in enhancer.people[0].keyframes if keyframe.qp < 30}
    assert chosen == {id(keyframe) for keyframe in known}


def refused_or_admitted(enhancer) -> tuple[int, int, int]:
    """Stills that became references, were nobody's, and were worse than the stream."""
    return tuple(enhancer.stats.admitted[name] for name in ("still", "nobody's", "worse"))


def test_a_still_becomes_a_reference_of_the_face_it_shows(enhancer, portrait, decoded):
    assert enhancer.process(decoded[0]).reference_need.distance is None
    larger = portrait[1].reformat(width=960, height=720)
    assert enhancer.add_still(larger)
    assert not enhancer.add_still(plain_frame())
    for frame in decoded[1 : IDENTIFIED - 1]:
        enhancer.enhance(frame)
        assert enhancer.stats.admitted["still"] == 0  # it is not known yet who is on screen
    need = enhancer.process(decoded[IDENTIFIED - 1]).reference_need
    assert refused_or_admitted(enhancer) == (1, 1, 0)  # the second had no face
    (still,) = [one for one in enhancer.people[0].keyframes if one.source == "still"]
    assert need.distance == pytest.approx(
        landmark_distance(still.landmarks, enhancer.people[0].recent[-1].landmarks), abs=1e-3
    )


def test_a_still_waits_no_longer_than_said(enhancer, portrait, decoded, monkeypatch):
    monkeypatch.setattr("receiver.enhance.faces.stage.STILL_WAITS", 3)
    enhancer.enhance(decoded[0])
    assert enhancer.add_still(portrait[1])
    for frame in decoded[1:IDENTIFIED]:
        enhancer.enhance(frame)
    assert refused_or_admitted(enhancer) == (0, 1, 0)


def test_a_still_that_is_worse_than_the_stream_is_refused(enhancer, portrait, decoded):
    for frame in decoded[:IDENTIFIED]:
        enhancer.enhance(frame)
    tiny = portrait[IDENTIFIED].reformat(width=160, height=120).reformat(width=640, height=480)
    assert enhancer.add_still(tiny)
    enhancer.enhance(decoded[IDENTIFIED])
    assert refused_or_admitted(enhancer) == (0, 0, 1)


def test_a_recogniser_that_fails_costs_stills_alone(generator, portrait, decoded):
    recogniser = FaceRecogniser()
    recogniser.close()
    enhancer = Enhancer(generator, recogniser=recogniser)
    outputs = [enhancer.enhance(frame) for frame in decoded[:3]]
    assert all(output is not frame.video for output, frame in zip(outputs, decoded, strict=False))
    assert enhancer.stats.faults.counts["recognition"] >= 1
    assert enhancer.add_still(portrait[3])
    enhancer.enhance(decoded[3])
    assert enhancer.stats.admitted["nobody's"] == 1


def counting(generator) -> tuple[Enhancer, list[int]]:
    """An enhancer, and the frames in which it asks for embeddings."""
    asked: list[int] = []

    class Counting(FaceRecogniser):
        def submit(self, picture, landmarks):
            asked.append(enhancer.people.frames)
            return shared_recogniser().submit(picture, landmarks)

    enhancer = Enhancer(generator, recogniser=Counting())
    return enhancer, asked


def test_faces_are_recognised_now_and_then(generator, decoded):
    enhancer, asked = counting(generator)
    for number in range(170):
        enhancer.enhance(decoded[number % len(decoded)])
    assert asked == [1, 6, 11, 41, 71, 161]  # from then on every three seconds


def test_people_who_change_all_the_time_do_not_keep_the_recogniser_busy(generator, decoded):
    enhancer, asked = counting(generator)
    for number in range(60):
        video = copy_frame(decoded[number % len(decoded)].video)
        if number % 2:
            luma, blue, red = planes(video)
            luma[:] = np.clip(luma // 2 + np.linspace(-60, 180, luma.shape[1]), 0, 255)
            blue[:], red[:] = 255 - blue, 255 - red
        enhancer.enhance(DecodedFrame(video, False, 40.0))
    assert 8 < len(asked) <= MOST_AT_ONCE * 60 / WITHIN


def test_a_still_in_other_colours_is_nobodys(enhancer, portrait, decoded):
    for frame in decoded[:IDENTIFIED]:
        enhancer.enhance(frame)
    other = copy_frame(portrait[IDENTIFIED])
    luma, blue, red = planes(other)
    luma[:] = np.clip(luma // 2 + np.linspace(-60, 180, luma.shape[1]), 0, 255)
    blue[:], red[:] = 255 - blue, 255 - red
    assert enhancer.add_still(other)
    enhancer.enhance(decoded[IDENTIFIED])
    assert refused_or_admitted(enhancer) == (0, 1, 0)


def test_references_outlive_a_change_of_resolution_and_an_outage(enhancer, portrait, decoded):
    far = np.full((68, 2), 60.0, np.float32)
    for frame in decoded:
        (face,) = enhancer.process(frame).faces
    person = enhancer.people[face.track_id]
    person.keyframes.add(still := Keyframe(next(iter(person.keyframes)).crop, far, 18.0, "still"))
    for _ in range(CHECK_EVERY * MISSES + 1):
        empty = enhancer.process(DecodedFrame.from_video(plain_frame()))
    assert (empty.faces, empty.outcome) == ((), "passed: no face")
    smaller = [frame.reformat(width=480, height=360) for frame in portrait[:20]]
    for _, frame, _ in through_codec(smaller, Encoding(crf=40), RATE):
        (face,) = enhancer.process(frame).faces
    assert enhancer.people[face.track_id] is person
    assert still in list(person.keyframes)


def test_a_better_reference_gives_a_better_face(generator, portrait, decoded):
    """What the whole project rests on: a raw picture of the same face helps."""
    plain, guided = Enhancer(generator), Enhancer(generator)
    raw = Enhancer(generator)
    raw.enhance(DecodedFrame(portrait[0], is_keyframe=True, qp=None))
    keyframe = next(iter(raw.people[0].keyframes))
    errors = {"received": 0.0, "plain": 0.0, "guided": 0.0}
    for index, frame in enumerate(decoded):
        if index == 1:
            guided.add_reference(0, Keyframe(keyframe.crop, keyframe.landmarks, None, "still"))
        only_video = DecodedFrame(frame.video, is_keyframe=False, qp=frame.qp)
        outputs = {
            "received": frame.video,
            "plain": plain.enhance(only_video),
            "guided": guided.enhance(only_video),
        }
        for name, output in outputs.items():
            face = np.s_[120:340, 190:420]
            difference = planes(output)[0][face].astype(float) - planes(portrait[index])[0][face]
            errors[name] += float(np.mean(difference**2)) if index else 0.0
    assert errors["guided"] < errors["plain"] < errors["received"]


def test_strength_nought_leaves_everything(generator, decoded):
    enhancer = Enhancer(generator, strength=0.0)
    assert all(enhancer.enhance(frame) is frame.video for frame in decoded)


def test_half_the_strength_is_half_the_change(generator, decoded):
    whole, half = Enhancer(generator), Enhancer(generator, strength=0.5)
    changes = [
        planes(enhancer.enhance(decoded[0]))[0].astype(int) - planes(decoded[0].video)[0]
        for enhancer in (whole, half)
    ]
    assert np.abs(changes[1] * 2 - changes[0]).max() <= 2


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_a_strength_out_of_range_is_refused(generator, strength):
    with pytest.raises(ValueError, match="strength"):
        Enhancer(generator, strength=strength)


def test_a_face_that_comes_and_goes(enhancer, decoded):
    empty = DecodedFrame.from_video(plain_frame(640, 480))
    assert enhancer.enhance(empty) is empty.video
    came = [enhancer.enhance(frame) is not frame.video for frame in decoded]
    assert came[-1]
    gone = [enhancer.enhance(empty) is empty.video for _ in range(CHECK_EVERY * MISSES + 1)]
    assert gone[-1]
    assert enhancer.stats.keyframes == 0  # they belonged to the face that left
    again = [enhancer.enhance(frame) is not frame.video for frame in decoded]
    assert again[-1]


def test_the_resolution_changes_in_mid_stream(enhancer, portrait):
    """As Chromium does: a new sequence of another size from one packet to the next."""
    small = [frame.reformat(480, 360, "yuv420p") for frame in portrait[12:24]]
    decoder, outputs = open_decoder(), []
    for frames in (portrait[:12], small):
        encoder = Encoding(kbps=150).open(frames[0].width, frames[0].height, RATE)
        for index, frame in enumerate(frames):
            frame.pts, frame.time_base = 3000 * index, encoder.time_base
            for packet in encoder.encode(frame):
                video = decoder.decode(packet)[0]
                outputs.append((video, enhancer.enhance(DecodedFrame.from_video(video))))
    sizes = [(output.width, output.height) for _, output in outputs]
    assert sizes == [(640, 480)] * 12 + [(480, 360)] * 12
    assert all(output is not video for video, output in outputs)


def test_every_face_has_references_of_its_own(enhancer, portrait):
    wide = [side_by_side(a, b) for a, b in zip(portrait[:12], portrait[40:52], strict=True)]
    for _, frame, _ in through_codec(wide, Encoding(crf=38, keyframe_every=4), RATE):
        enhanced = enhancer.process(frame)
    assert len(enhanced.faces) == 2
    crops = [next(iter(person.keyframes)).crop for person in enhancer.people]
    assert len(crops) == 2
    assert not np.array_equal(crops[0], crops[1])


def side_by_side(left: av.VideoFrame, right: av.VideoFrame) -> av.VideoFrame:
    both = av.VideoFrame(left.width + right.width, left.height, "yuv420p")
    for to, a, b in zip(planes(both), planes(left), planes(right), strict=True):
        to[:] = np.hstack([a, b])
    return both


def halves_changed(frame: DecodedFrame, output: av.VideoFrame) -> list[bool]:
    before, after = planes(frame.video)[0], planes(output)[0]
    return [not np.array_equal(before[:, half], after[:, half]) for half in np.s_[:640, 640:]]


def test_the_nearest_faces_are_restored_where_not_all_can_be(enhancer, portrait):
    """And the others are left alone, but still followed."""
    enhancer.face_stage.most_faces = 1
    farther = cut_frame(portrait[40].reformat(480, 360), 0, 0, 480, 360)
    smaller = av.VideoFrame(640, 480, "yuv420p")
    for to, of, level in zip(planes(smaller), planes(farther), (60, 128, 128), strict=True):
        to[:] = level
        to[: of.shape[0], : of.shape[1]] = of
    wide = [side_by_side(smaller, near) for near in portrait[:12]]
    changed = []
    for _, video, _ in through_codec(wide, Encoding(crf=38), RATE):
        enhanced = enhancer.process(video)
        changed.append(halves_changed(video, enhanced.video))
    assert len(enhanced.faces) == 2
    assert changed[-6:] == [[False, True]] * 6
    enhancer.face_stage.most_faces = 4
    for _, video, _ in through_codec(wide[:2], Encoding(crf=38), RATE):
        assert halves_changed(video, enhancer.enhance(video)) == [True, True]


def test_faces_that_are_alike_do_not_take_turns(enhancer, portrait):
    enhancer.face_stage.most_faces = 1
    wide = [side_by_side(a, b) for a, b in zip(portrait[:12], portrait[40:52], strict=True)]
    changed = [
        halves_changed(video, enhancer.enhance(video))
        for _, video, _ in through_codec(wide, Encoding(crf=38), RATE)
    ]
    assert changed[-6:] == [changed[-1]] * 6
    assert sum(changed[-1]) == 1


@pytest.mark.parametrize(
    ("qp", "unguided", "guided"),
    [
        (None, 1.0, 1.0),
        (10.0, 0.0, 0.0),
        (18.0, 0.0, 0.0),
        (21.0, 0.2, 0.3),
        (32.0, 0.75, 1.0),
        (38.0, 0.95, 1.0),
        (51.0, 1.0, 1.0),
    ],
)
def test_a_face_that_came_well_is_changed_less(qp, unguided, guided):
    assert blend_weight(qp, guided=False) == pytest.approx(unguided)
    assert blend_weight(qp, guided=True) == pytest.approx(guided)


def test_a_face_that_came_very_well_is_left_as_it_is(generator, portrait):
    enhancer = Enhancer(generator)
    for _, frame, _ in through_codec(portrait[:6], Encoding(crf=10), RATE):
        assert frame.qp < 18
        assert enhancer.enhance(frame) is frame.video
    assert enhancer.stats.high_quality_inputs == 6
    assert enhancer.stats.keyframes >= 1  # and remembered for the time when it comes badly
