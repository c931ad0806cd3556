"""A face of another person does not become a reference, however similar it is made."""

from itertools import pairwise

import av
import numpy as np
import pytest

from bench.common.framing import framed
from bench.identity.hostile import hostile_still
from bench.metrics.faces import identity
from keyframes import Person, appearance_descriptor, likeness
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.album import load_album, peer_of, save_album
from receiver.enhance.faces.alignment import (
    crop_of,
    extract_crop,
    paste_residual,
    picture_of,
    transform,
)
from receiver.enhance.faces.recognition import shared_recogniser
from receiver.enhance.faces.tracking import FaceTracker
from receiver.enhance.stage import EnhancedFrame
from receiver.media.encoding import Encoding, through_codec
from receiver.media.planes import copy_frame, planes
from receiver.stills.picture import decode_still, encode_still
from tests.conftest import CLIPS, needs_clips
from tests.enhance.test_enhancer import IDENTIFIED, refused_or_admitted

pytestmark = pytest.mark.slow

PAIRS = list(pairwise(("mead_m003.mp4", "sr_striped_shirt.mp4", "std_akiyo.mp4", "mead_m003.mp4")))
PEER = peer_of("https://sfu.example/whep")
STILLS = 4
"""Hostile stills in a call."""


class Clip:
    """A person in a call: frames of the camera, and the same frames as received."""

    def __init__(self, name: str) -> None:
        self.frames, rate = framed(CLIPS / "val" / name, 2.0)
        sent = through_codec(self.frames, Encoding(crf=36, keyframe_every=300), rate)
        self.received = [decoded for _, decoded, _ in sent]

    def face(self, index: int):
        """Returns the nearest face of a frame: its crop, and the landmarks in the crop."""
        (face, *_) = FaceTracker().find(planes(self.frames[index])[0])
        picture = picture_of(extract_crop(self.frames[index], face.crop_from_frame))
        return face, picture, transform(face.landmarks, face.crop_from_frame)


@pytest.fixture(scope="module", params=PAIRS, ids=lambda pair: f"{pair[1][:4]} as {pair[0][:4]}")
def two(request):
    return [Clip(name) for name in request.param]


def hostile_frame(victim: Clip, attacker: Clip, index: int) -> av.VideoFrame:
    """Returns a frame of the victim with the attacker's face, in the victim's pose and colours."""
    face, own, own_landmarks = victim.face(index)
    _, theirs, their_landmarks = attacker.face(index)
    still = hostile_still(theirs, their_landmarks, own, own_landmarks)
    before, after = crop_of(own), crop_of(still)
    assert (
        likeness(appearance_descriptor(before), appearance_descriptor(after)) > 0.9
    )  # which once admitted it
    frame = copy_frame(victim.frames[index])
    paste_residual(frame, after - before, face.crop_from_frame)
    return decode_still_of(frame)


def decode_still_of(frame: av.VideoFrame) -> av.VideoFrame:
    return decode_still(*encode_still(frame, 30_000))


class Watching(Enhancer):
    """Remembers its last result."""

    last: EnhancedFrame

    def process(self, frame, *more):
        self.last = super().process(frame, *more)
        return self.last


def receive(enhancer: Watching, clip: Clip, start: int, count: int) -> None:
    for frame in clip.received[start : start + count]:
        enhancer.enhance(frame)


def on_screen(enhancer: Watching) -> Person:
    """Returns the person in the last frame."""
    return enhancer.people[enhancer.last.faces[0].track_id]


def foreign_references(enhancer: Watching, victim: Clip, attacker: Clip) -> int:
    """Counts references of the current person whose face is nearer to the attacker's, by dlib."""
    own, theirs = (identity(*clip.face(0)[1:]) for clip in (victim, attacker))
    found = [identity(one.crop, one.landmarks) for one in on_screen(enhancer).keyframes]
    return sum(np.linalg.norm(one - theirs) < np.linalg.norm(one - own) for one in found)


@needs_clips
def test_hostile_stills_are_refused_and_genuine_ones_admitted(generator, two):
    victim, attacker = two
    enhancer = Watching(generator)
    receive(enhancer, victim, 0, IDENTIFIED)
    for number in range(STILLS):
        index = IDENTIFIED + number
        assert enhancer.add_still(hostile_frame(victim, attacker, index))
        receive(enhancer, victim, index, 1)
    assert refused_or_admitted(enhancer) == (0, STILLS, 0)
    index = IDENTIFIED + STILLS
    assert enhancer.add_still(decode_still_of(victim.frames[index]))
    receive(enhancer, victim, index, 1)
    assert refused_or_admitted(enhancer) == (1, STILLS, 0)
    assert foreign_references(enhancer, victim, attacker) == 0


@needs_clips
def test_a_poisoned_album_is_not_used_in_a_genuine_call(generator, two, tmp_path):
    victim, attacker = two
    poisoned = Watching(generator)
    receive(poisoned, victim, 0, IDENTIFIED)
    assert poisoned.add_still(decode_still_of(victim.frames[IDENTIFIED]))
    receive(poisoned, victim, IDENTIFIED, 1)
    # As if hostile stills had been admitted among the genuine ones.
    for one in on_screen(poisoned).keyframes:
        if one.source == "stream":
            _, theirs, their_landmarks = attacker.face(0)
            one.crop = hostile_still(theirs, their_landmarks, one.crop, one.landmarks)
    assert foreign_references(poisoned, victim, attacker) >= 1
    save_album(poisoned.people, [], tmp_path / "album", PEER)
    genuine = Watching(generator)
    load_album(genuine.people, tmp_path / "album", shared_recogniser(), PEER)
    receive(genuine, victim, 0, IDENTIFIED)
    assert any(one.source == "still" and one.peer == PEER for one in on_screen(genuine).keyframes)
    assert foreign_references(genuine, victim, attacker) == 0


@needs_clips
def test_an_album_of_another_person_is_not_used(generator, two, tmp_path):
    victim, attacker = two
    other = Watching(generator)
    receive(other, attacker, 0, IDENTIFIED)
    save_album(other.people, [], tmp_path / "album", PEER)
    enhancer = Watching(generator)
    load_album(enhancer.people, tmp_path / "album", shared_recogniser(), PEER)
    receive(enhancer, victim, 0, 2 * IDENTIFIED)
    assert all(one.peer == b"" for one in on_screen(enhancer).keyframes)
    assert len(list(enhancer.people)) == 2


@needs_clips
def test_a_cut_to_another_person_and_back_mixes_no_references(generator, two):
    victim, attacker = two
    enhancer = Watching(generator)
    receive(enhancer, victim, 0, IDENTIFIED)
    first = on_screen(enhancer)
    own = list(first.keyframes)
    receive(enhancer, attacker, 0, 2 * IDENTIFIED)
    second = on_screen(enhancer)
    assert second is not first
    assert not {id(one) for one in second.keyframes} & {id(one) for one in own}
    receive(enhancer, victim, IDENTIFIED, 2 * IDENTIFIED)
    assert on_screen(enhancer) is first
    # A better reference of the same person may have replaced one of theirs by now.
    assert {id(one) for one in own} & {id(one) for one in first.keyframes}
    assert not {id(one) for one in second.keyframes} & {id(one) for one in first.keyframes}
    assert not {id(one) for one in second.keyframes} & {id(one) for one in first.keyframes}


@needs_clips
def test_references_are_soon_dropped_after_an_undetected_switch(generator, two, monkeypatch):
    """Two people filmed in one studio have the same colours."""
    monkeypatch.setattr("keyframes.people.CUT", -1.0)
    monkeypatch.setattr("keyframes.people.CUT_IN_JUMP", -1.0)
    victim, attacker = two
    enhancer = Watching(generator)
    receive(enhancer, victim, 0, IDENTIFIED)
    assert enhancer.add_still(decode_still_of(victim.frames[IDENTIFIED]))
    receive(enhancer, victim, IDENTIFIED, 1)
    first = on_screen(enhancer)
    own = {id(one) for one in first.keyframes}
    receive(enhancer, attacker, 0, 3 * IDENTIFIED)
    if not enhancer.last.faces or on_screen(enhancer) is first:
        first.observe_at = 0  # no jump was detected: three seconds have passed
        receive(enhancer, attacker, 0, IDENTIFIED)
    assert on_screen(enhancer) is not first
    assert {id(one) for one in first.keyframes} <= own
    assert foreign_references(enhancer, attacker, victim) == 0
