"""Damaged frames, detected from access units alone."""

import pytest
from aiortc.codecs.h264 import H264Encoder
from hypothesis import given
from hypothesis import strategies as st

from receiver.media.encoding import Encoding
from receiver.transport.damage import DamageWatch, SequenceParameters
from tests.transport.streams import (
    STREAMS,
    Stream,
    encode,
    encode_by_openh264,
    is_idr,
    nal_unit,
    se,
    starts,
    ue,
)

PROFILES = ["baseline", "main", "high"]


def watched(units: list[bytes], dropped: set[int] = frozenset(), told: bool = False) -> list[bool]:
    """Returns whether each received unit is damaged; with `told`, losses are reported as well."""
    watch, lost, result = DamageWatch(), False, []
    for index, unit in enumerate(units):
        if index in dropped:
            lost = told
        else:
            result.append(watch.see(unit, lost))
            lost = False
    return result


def expected(units: list[bytes], dropped: set[int]) -> list[bool]:
    """Returns the right answer: damaged from each loss to the next IDR."""
    damaged, result = False, []
    for index, unit in enumerate(units):
        if index in dropped:
            damaged = True
        else:
            damaged = damaged and not is_idr(unit)
            result.append(damaged)
    return result


@pytest.fixture(scope="module", params=[*PROFILES, "openh264", "openh264 with IDRs"])
def units(request, portrait, tmp_path_factory) -> list[bytes]:
    """Three seconds of each encoder."""
    if request.param.startswith("openh264"):
        path = tmp_path_factory.mktemp("raw") / "frames.yuv"
        return encode_by_openh264(portrait, path, 30 if "IDRs" in request.param else 1000)
    return encode(portrait, Encoding(kbps=100, keyframe_every=30), profile=request.param)


def test_nothing_is_damaged_without_a_loss(units, portrait):
    assert len(units) == len(portrait)
    assert sum(is_idr(unit) for unit in units) in (1, 3)
    assert watched(units) == [False] * len(units)


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("dropped", [{1}, {7}, {29}, {30}, {40, 41, 42}, {5, 50}, {0}])
def test_frames_are_damaged_from_a_loss_to_the_next_idr(units, dropped, told):
    assert watched(units, dropped, told) == expected(units, dropped)


def test_a_loss_of_exactly_one_idr_period_needs_rtps_numbers(portrait):
    units = encode(portrait, Encoding(kbps=100, keyframe_every=30))
    dropped = set(range(10, 40))  # one IDR to the next: frame 40 has the frame_num of frame 10
    assert watched(units, dropped, told=True) == expected(units, dropped)
    assert not any(watched(units, dropped))


def test_a_lost_frame_that_is_no_reference_damages_nothing(portrait):
    options = {"tune": "film", "bf": "2", "profile": "main", "x264-params": "b-pyramid=none"}
    units = encode(portrait, Encoding(kbps=100, keyframe_every=30), **options)
    references = [max(nal[0] >> 5 & 3 for nal in H264Encoder._split_bitstream(u)) for u in units]
    idrs = [index for index, unit in enumerate(units) if is_idr(unit)]
    assert 0 in references
    assert watched(units) == [False] * len(units)
    for index, is_reference in enumerate(references[: idrs[1] - 3]):
        dropped = {index}
        assert (
            watched(units, dropped)
            == expected(units, dropped if is_reference else set())[: len(units) - 1]
        )


def test_a_pyramid_of_b_frames_is_not_damaged(portrait):
    options = {"tune": "film", "bf": "3", "x264-params": "b-pyramid=normal"}
    units = encode(portrait, Encoding(kbps=100, keyframe_every=30), **options)
    assert watched(units) == [False] * len(units)


def test_a_frame_without_its_first_slice_is_damaged(portrait):
    encoding = Encoding(kbps=100, keyframe_every=10)
    units = encode(portrait[:30], encoding, **{"x264-params": "slices=4"})
    first, second, *_ = (at for at in starts(units[10]) if units[10][at] & 0x1F == 5)
    no_beginning = units[10][: first - 3] + units[10][second - 3 :]
    broken = [*units[:10], no_beginning, *units[11:]]
    assert watched(broken) == [10 <= index < 20 for index in range(30)]
    broken = [*units[:5], units[5][starts(units[5])[1] - 3 :], *units[6:]]
    assert watched(broken) == [5 <= index < 10 for index in range(30)]


def test_an_idr_after_a_loss_needs_its_parameter_sets(portrait):
    units = encode(portrait[:20], Encoding(kbps=100, keyframe_every=10))
    bare = units[10][next(at for at in starts(units[10]) if units[10][at] & 0x1F == 5) - 3 :]
    watch = DamageWatch()
    assert [watch.see(unit, False) for unit in units[:10]] == [False] * 10
    assert watch.see(bare, lost_before=True)
    assert watch.see(units[11], False)
    assert not watch.see(bare, lost_before=False)
    assert not watch.see(units[11], False)
    assert not watch.see(units[10], lost_before=True)


def test_a_stream_joined_late_is_damaged_until_an_idr(portrait):
    units = encode(portrait[:20], Encoding(kbps=100, keyframe_every=10))
    assert watched(units[3:]) == [index < 10 for index in range(3, 20)]


def test_units_without_a_frame_keep_the_state(portrait):
    units = encode(portrait[:20], Encoding(kbps=100, keyframe_every=10))
    delimiter = b"\0\0\0\1\x09\xf0"
    watch = DamageWatch()
    assert not watch.see(units[0], False)
    assert not watch.see(delimiter, False)
    assert not watch.see(b"", False)
    assert not watch.see(delimiter + units[1], False)
    assert watch.see(delimiter, lost_before=True)
    assert watch.see(units[2], False)
    assert not watch.see(units[10], False)


# Written bit by bit, for what no encoder at hand writes.


@given(stream=STREAMS)
def test_any_sps_is_read(stream):
    parameters = SequenceParameters.parse(stream.sps()[5:])
    assert parameters.frame_num_bits == stream.frame_num_bits
    assert parameters.gaps_allowed == stream.gaps
    assert parameters.separate_planes == stream.separate
    assert parameters.frames_only == stream.frames_only


@given(
    stream=STREAMS,
    references=st.lists(st.booleans(), min_size=1, max_size=60),
    lost=st.integers(0, 60),
)
def test_frame_num_is_checked_by_the_rules_of_the_standard(stream, references, lost):
    """Each picture's frame_num is one more than the last reference picture's."""
    units, frame_num = [stream.idr()], 0
    for is_reference in references:
        units.append(stream.slice(frame_num + 1, ref=3 * is_reference))
        frame_num += is_reference
    assert watched(units) == [False] * len(units)
    if 0 < lost < len(units):
        known = references[lost - 1] and not stream.gaps
        assert watched(units, {lost}) == [
            known and index >= lost for index in range(len(units) - 1)
        ]
        assert watched(units, {lost}, told=True) == [
            index >= lost for index in range(len(units) - 1)
        ]


def test_the_two_fields_of_a_picture_share_a_frame_num():
    stream = Stream(profile=77, frames_only=False)
    units = [stream.idr()]
    for number in range(1, 40):
        units += [stream.slice(number, field="10"), stream.slice(number, field="11")]
    assert watched(units) == [False] * len(units)
    assert watched(units, {9, 10}) == [index >= 9 for index in range(len(units) - 2)]


@given(data=st.binary(max_size=200), lost_before=st.booleans())
def test_random_bytes_are_damage_and_never_raise(data, lost_before):
    watch = DamageWatch()
    watch.see(data, lost_before)
    assert not watch.see(Stream().idr(), False)
    assert watch.see(b"\xff" + data, lost_before)
    assert not watch.see(Stream().idr(), False)


@given(
    start=st.sampled_from([b"\0\0\1", b"\0\0\0\1"]),
    header=st.integers(0, 255),
    data=st.binary(max_size=300),
)
def test_random_nal_units_never_raise(start, header, data):
    watch = DamageWatch()
    for unit in (Stream().idr(), start + bytes([header]) + data, Stream().slice(1)):
        watch.see(unit, False)
    assert not watch.see(Stream().idr(), False)


@given(stream=STREAMS)
def test_a_truncated_header_is_damage(stream):
    for unit, whole in [(stream.slice(1), 5), (stream.sps(), 8)]:
        for cut in range(5, whole):
            watch = DamageWatch()
            watch.see(stream.idr(), False)
            assert watch.see(unit[:cut], False)


def test_a_huge_order_count_is_refused():
    """Each of its bytes would be eight numbers to read, as many as are announced."""
    bits = f"{66:08b}" + "0" * 8 + f"{31:08b}" + ue(0) + ue(0) + ue(1) + "0" + se(0) + se(0)
    with pytest.raises(ValueError, match="above 255"):
        SequenceParameters.parse(nal_unit(0x67, bits + ue(256) + "1" * 8000)[5:])
    assert SequenceParameters.parse(
        nal_unit(0x67, bits + ue(255) + ue(0) * 255 + ue(1) + "0" + ue(3) + ue(3) + "1")[5:]
    ).frames_only


# The whole way: RTP packets with losses, the jitter buffer, the decoder.


# The jitter buffer alone.


# The decoder alone.
