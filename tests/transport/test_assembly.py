"""Assembly of packets that are late, doubled, out of order or lost."""

import pytest
from aiortc.rtp import RtpPacket
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.transport.assembly import (
    MOST_MISSING,
    MOST_PACKETS,
    OUTAGE,
    PACKET_WAIT,
    FrameAssembler,
)

IDR = b"\x00\x00\x00\x01\x67sps\x00\x00\x00\x01\x65\x88idr"
SLICE = b"\x00\x00\x00\x01\x41\x9a"
"""First slice of a frame: first_mb_in_slice is 0."""
MIDDLE = b"fragment"
"""Part of a NAL unit that began in an earlier packet."""
FIRST = 65000
"""First sequence number; sequence numbers and timestamps wrap a few frames later."""


def packet(number, frame, data, marker=False):
    made = RtpPacket(
        payload_type=99,
        marker=marker,
        sequence_number=(FIRST + number) % (1 << 16),
        timestamp=(2**32 - 30000 + 3000 * frame) % (1 << 32),
        ssrc=1,
    )
    made._data = data
    return made


def stream(frames, size=3, *, keyframes=(0,), marker=True):
    """Returns the packets of frames of `size` packets each, numbered from 0."""
    packets = []
    for frame in range(frames):
        for part in range(size):
            data = MIDDLE if part else (IDR if frame in keyframes else SLICE)
            last = marker and part == size - 1
            packets.append(packet(len(packets), frame, data + b"%d" % frame, last))
    return packets


class Line:
    """An assembler and a clock; keeps the released units and their times."""

    def __init__(self):
        self.assembler, self.now = FrameAssembler(), 0.0
        self.units, self.times = [], []

    def add(self, *packets, after=0.0):
        for one in packets:
            self.now += after
            self.assembler.add(one, self.now)
            self.look()

    def look(self, after=0.0):
        self.now += after
        for unit in self.assembler.take(self.now):
            self.units.append(unit)
            self.times.append(self.now)

    @property
    def frames(self):
        """Numbers of the released frames."""
        return [(unit.timestamp - (2**32 - 30000)) % (1 << 32) // 3000 for unit in self.units]

    @property
    def holes(self):
        """Numbers of the frames released after a hole."""
        return [n for n, unit in zip(self.frames, self.units, strict=True) if unit.lost_before]


def test_a_frame_is_released_with_its_last_packet():
    line, packets = Line(), stream(2)
    line.add(*packets[:2])
    assert line.frames == []
    line.add(packets[2])
    assert line.frames == [0]
    assert line.units[0].data == IDR + b"0" + MIDDLE + b"0" + MIDDLE + b"0"
    assert line.units[0].payload_type == 99


def test_without_markers_the_next_frames_first_packet_releases_it():
    line, packets = Line(), stream(3, marker=False)
    line.add(*packets[:3])
    assert line.frames == []
    line.add(*packets[3:])
    assert line.frames == [0, 1]


def test_wrong_markers_are_detected():
    line, packets = Line(), stream(6)
    for one in packets[0::3]:
        one.marker = True
    line.add(*packets)
    # The second packet of the first frame shows it; from then on only timestamps count.
    assert line.frames == [0, 0, 1, 2, 3, 4]
    assert line.holes == [0]
    assert line.units[3].data == SLICE + b"2" + MIDDLE + b"2" + MIDDLE + b"2"


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_frames_are_released_whole_and_in_order_from_packets_in_any_order(data):
    packets = stream(40, data.draw(st.integers(1, 4)))
    head, rest = packets[:1], packets[1:]
    shift = data.draw(st.integers(0, 60))
    late = data.draw(st.lists(st.integers(0, shift), min_size=len(rest), max_size=len(rest)))
    order = sorted(range(len(rest)), key=lambda index: (index + late[index], index))
    twice = data.draw(st.lists(st.sampled_from(rest), max_size=10))
    line = Line()
    line.add(*head, *(rest[index] for index in order), *twice, after=0.0001)
    assert line.frames == list(range(40))
    assert line.holes == []
    assert line.assembler.late == len(twice)
    assert not line.assembler.is_waiting
    assert not line.assembler.needs_keyframe


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_only_whole_frames_are_released_and_holes_are_marked_after_any_loss(data):
    packets = stream(30, data.draw(st.integers(1, 4)), keyframes=range(0, 30, 7))
    lost = data.draw(st.sets(st.integers(1, len(packets) - 1), max_size=len(packets) - 1))
    line = Line()
    for number, one in enumerate(packets):
        line.now += 0.01
        if number not in lost:
            line.add(one)
        line.look()
    line.look(after=2 * PACKET_WAIT[1])
    whole = {}
    for number, one in enumerate(packets):
        frame = number * 30 // len(packets)
        whole[frame] = whole.get(frame, b"") + (one._data if number not in lost else b"LOST")
    assert line.frames == sorted(set(line.frames))
    for frame, unit in zip(line.frames, line.units, strict=True):
        assert unit.data == whole[frame]
    for before, frame in zip([-1, *line.frames], line.frames, strict=False):
        assert (frame in line.holes) == (frame != before + 1)
    assert not line.assembler.is_waiting


def test_frames_behind_a_missing_packet_wait_and_are_released_at_once():
    line, packets = Line(), stream(8)
    line.add(*packets[:4], *packets[5:], after=0.005)
    assert line.frames == [0]
    line.add(packets[4], after=0.005)
    assert line.frames == list(range(8))
    assert len(set(line.times[1:])) == 1
    assert line.assembler.recovered == 1
    assert line.holes == []


def test_a_lost_packet_delays_by_a_quarter_of_a_second():
    line, packets = Line(), stream(40)
    del packets[4]
    line.add(*packets, after=0.01)
    assert line.frames == [0, *range(2, 40)]
    assert line.holes == [2]
    gap = line.times[1] - line.times[0]
    assert PACKET_WAIT[0] <= gap <= PACKET_WAIT[0] + 0.05
    assert line.assembler.holes == 1
    assert line.assembler.needs_keyframe


def test_a_frame_without_its_beginning_is_skipped_with_the_hole():
    line, packets = Line(), stream(4)
    del packets[5]  # the last of frame 1: frame 2 begins behind the hole
    line.add(*packets)
    line.look(after=PACKET_WAIT[0])
    assert line.frames == [0, 2, 3]
    line, packets = Line(), stream(4)
    del packets[5:7]  # and the first of frame 2
    line.add(*packets)
    line.look(after=PACKET_WAIT[0])
    assert line.frames == [0, 3]


def test_a_whole_key_frame_behind_a_hole_does_not_wait():
    line, packets = Line(), stream(6, keyframes=(0, 3))
    del packets[4]
    line.add(*packets[:10], after=0.001)
    assert line.frames == [0]
    line.add(*packets[10:], after=0.001)
    assert line.frames == [0, 3, 4, 5]
    assert line.holes == [3]
    assert not line.assembler.needs_keyframe


def test_missing_packets_are_requested_until_they_arrive():
    line, packets = Line(), stream(3)
    line.add(*packets[:3], packets[5])
    wanted = [(FIRST + number) % (1 << 16) for number in (3, 4)]
    assert line.assembler.to_ask_for(line.now) == wanted
    assert line.assembler.to_ask_for(line.now + 0.01) == []
    assert line.assembler.to_ask_for(line.now + 0.06) == wanted
    line.add(packets[3])
    assert line.assembler.to_ask_for(line.now + 0.12) == wanted[1:]
    line.add(packets[4])
    assert line.assembler.to_ask_for(line.now + 9) == []
    assert line.assembler.asked_for == 5


def test_the_wait_grows_with_the_round_trip():
    line, packets = Line(), stream(200)
    answers = []
    for number, one in enumerate(packets):
        line.now += 0.01
        if number in (7, 300):
            line.assembler.to_ask_for(line.now)
            answers.append((line.now + 0.28, one))
            continue
        while answers and answers[0][0] <= line.now:
            line.add(answers.pop(0)[1])
        line.add(one)
        if line.assembler.round_trip is None:
            missing = line.assembler._missing
            if missing and not next(iter(missing.values())).times:
                line.assembler.to_ask_for(line.now)
    assert line.assembler.round_trip == pytest.approx(0.28, abs=0.03)
    assert line.assembler.holes == 1  # the first; the wait for the second was long enough
    assert line.assembler.late == 1


def test_after_an_outage_nothing_waits():
    line, packets = Line(), stream(100, keyframes=(0, 90))
    line.add(*packets[:9], *packets[9 + OUTAGE + 40 :])
    assert line.frames[:3] == [0, 1, 2]
    assert line.frames[3:] == list(range(line.frames[3], 100))
    assert 3 + (OUTAGE + 40) // 3 <= line.frames[3] <= 3 + (OUTAGE + 40) // 3 + 1
    assert line.assembler.to_ask_for(line.now) == []


def test_a_restarted_stream_with_other_numbers_is_followed():
    line = Line()
    line.add(*stream(3))
    for one in (again := stream(3)):
        one.sequence_number = (one.sequence_number + 20000) % (1 << 16)
    line.add(*again)
    assert line.frames == [0, 1, 2, 0, 1, 2]
    assert line.holes == [0]
    assert len([unit for unit in line.units if unit.lost_before]) == 1


def test_padding_is_neither_a_frame_nor_a_hole():
    line, packets = Line(), stream(2)
    padding = [packet(3, 0, b""), packet(4, 0, b"")]
    for one in packets[3:]:
        one.sequence_number = (one.sequence_number + 2) % (1 << 16)
    line.add(*packets[:3], *padding, *packets[3:])
    assert line.frames == [0, 1]
    assert line.holes == []


def test_a_frame_without_an_end_does_not_fill_the_memory():
    line = Line()
    line.add(packet(0, 0, IDR, True))
    for number in range(1, 3 * MOST_PACKETS):
        line.assembler.add(packet(number, 1, MIDDLE), 0.0)
        assert len(line.assembler._packets) <= MOST_PACKETS
    line.look()
    assert line.assembler.holes == 2
    assert line.assembler.needs_keyframe
    line.add(packet(3 * MOST_PACKETS, 2, IDR, True))
    assert line.frames == [0, 1, 2]
    assert line.holes == [1]
    assert not line.assembler.needs_keyframe


def test_missing_packets_beyond_the_limit_are_skipped():
    line = Line()
    for number in range(0, 100 * OUTAGE, OUTAGE):
        line.add(packet(number, number, SLICE, True))
        assert len(line.assembler.to_ask_for(line.now)) <= MOST_MISSING
        assert len(line.assembler._missing) <= MOST_MISSING
    assert line.assembler.holes > 80
