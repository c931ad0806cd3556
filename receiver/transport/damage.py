"""Detects damaged frames of an H.264 stream: a decoder conceals losses and does not report them.

Section numbers are those of ITU-T H.264.
"""

from collections.abc import Iterator
from dataclasses import dataclass

START_CODE = b"\x00\x00\x01"
SLICE, PARTITIONS, IDR_SLICE, SPS = 1, (2, 3, 4), 5, 7
BEFORE_SLICES = (6, 7, 8, 9)
"""nal_unit_type (table 7-1); `BEFORE_SLICES` are SEI, SPS, PPS and access unit delimiter."""
HIGH_PROFILES = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})
"""profile_idc of the profiles whose SPS has chroma and scaling lists (7.3.2.1.1)."""
SLICE_BYTES = 32
"""Bytes of a slice that are read: its header up to field_pic_flag, with emulation prevention."""
SPS_BYTES = 1024
"""Bytes of an SPS that are read: more than a valid one has, and few enough if it is invalid."""


class DamageWatch:
    """Detects, for each frame of one stream, whether it or a frame that it depends on was lost.

    Damage starts with lost RTP packets, a gap in frame_num (7.4.3), a frame without its beginning,
    or data that is not H.264. A stream is damaged until its first IDR. Damage ends with a whole
    IDR.

    frame_num alone misses a loss after which it has the expected value again: a multiple of
    MaxFrameNum frames, or as many as there are between two IDRs. RTP's sequence numbers detect it.
    memory_management_control_operation 5, which no encoder for calls sends, looks like a gap.
    """

    def __init__(self) -> None:
        self._damaged = True
        self._holds_picture = False  # the last access unit
        self._parameters: SequenceParameters | None = None
        self._reference_frame_num = 0  # PrevRefFrameNum of 7.4.3

    def see(self, data: bytes, lost_before: bool) -> bool:
        """Adds the next access unit; returns whether its frame is damaged.

        Args:
            data: Annex B, the whole NAL units that arrived, of at most one frame.
            lost_before: whether RTP packets between the last access unit and this one are missing.
        """
        self._holds_picture = False
        try:
            self._damaged = self._judge(data, lost_before)
        except ValueError:
            self._damaged = True
        return self._damaged

    def refused(self) -> None:
        """Records that the decoder rejected the last access unit; if it had a frame, a loss."""
        self._damaged |= self._holds_picture

    def _judge(self, data: bytes, lost_before: bool) -> bool:
        """Returns whether an access unit is damaged. Raises ValueError for invalid data."""
        begins_with_parameters = False
        for start in _nal_units(data):
            header = data[start]
            kind = header & 0x1F
            if header & 0x80 or kind in PARTITIONS:
                raise ValueError(f"NAL unit header {header:#x}")
            if kind == SPS:
                end = data.find(START_CODE, start)
                nal = data[start + 1 : end if end >= 0 else len(data)]
                self._parameters = SequenceParameters.parse(nal[:SPS_BYTES])
                begins_with_parameters = True
            elif kind in (SLICE, IDR_SLICE):
                self._holds_picture = True
                # The lost packets before an IDR may have held its own parameter sets.
                missing = lost_before and not (kind == IDR_SLICE and begins_with_parameters)
                return self._judge_slice(data[start : start + SLICE_BYTES]) or missing
        return self._damaged or lost_before

    def _judge_slice(self, nal: bytes) -> bool:
        """Returns whether a frame is damaged, by its first slice (7.3.3). Raises ValueError."""
        if self._parameters is None:
            raise ValueError("a slice before any SPS")
        is_idr, is_reference = nal[0] & 0x1F == IDR_SLICE, bool(nal[0] & 0x60)
        bits = _Bits(nal[1:])
        first_mb_in_slice = bits.ue()
        if bits.ue() > 9:
            raise ValueError("slice_type is above 9")
        bits.ue()  # pic_parameter_set_id
        frame_num, is_field = self._parameters.read_frame_num(bits)
        before = self._reference_frame_num
        following = (before + 1) % self._parameters.max_frame_num
        is_gap = frame_num != following and not (is_field and frame_num == before)
        # Frames in a gap count as references (8.2.5.2), so the next number is one more than this.
        self._reference_frame_num = frame_num if is_reference else frame_num - 1
        if is_idr:
            return first_mb_in_slice != 0
        is_gap &= not self._parameters.gaps_allowed
        return self._damaged or first_mb_in_slice != 0 or is_gap


def begins_picture(data: bytes, *, keyframe: bool = False) -> bool:
    """Returns whether an RTP payload in Annex B form begins an access unit (7.4.1.2.3).

    With `keyframe`, whether it begins one that a decoder can start with: its SPS comes first.
    """
    at = data.find(START_CODE, 0, len(START_CODE) + 1) + len(START_CODE)
    if at < len(START_CODE) or len(data) < at + 2:
        return False
    kind = data[at] & 0x1F
    if keyframe:
        return kind == SPS
    is_first_slice = kind in (SLICE, IDR_SLICE) and bool(data[at + 1] & 0x80)  # ue(0) is a one
    return kind in BEFORE_SLICES or is_first_slice


def holds_keyframe(data: bytes) -> bool:
    """Returns whether an access unit contains an IDR picture."""
    try:
        return any(data[start] & 0x1F == IDR_SLICE for start in _nal_units(data))
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class SequenceParameters:
    """Values of an SPS that concern frame_num (7.4.2.1.1).

    Attributes:
        frame_num_bits: log2_max_frame_num, 4 to 16.
        gaps_allowed: gaps_in_frame_num_value_allowed_flag.
        separate_planes: separate_colour_plane_flag.
        frames_only: frame_mbs_only_flag.
    """

    frame_num_bits: int
    gaps_allowed: bool
    separate_planes: bool
    frames_only: bool

    @property
    def max_frame_num(self) -> int:
        """MaxFrameNum, at which frame_num wraps."""
        return 1 << self.frame_num_bits

    @classmethod
    def parse(cls, payload: bytes) -> "SequenceParameters":
        """Reads an SPS without its NAL unit header. Raises ValueError if it is invalid."""
        bits = _Bits(payload)
        profile = bits.u(8)
        bits.u(16)  # constraint flags, level_idc
        bits.ue()  # seq_parameter_set_id
        separate_planes = profile in HIGH_PROFILES and _skip_chroma(bits)
        frame_num_bits = bits.ue() + 4
        if frame_num_bits > 16:
            raise ValueError(f"log2_max_frame_num {frame_num_bits} is above 16")
        _skip_order_count(bits)
        bits.ue()  # max_num_ref_frames
        gaps_allowed = bool(bits.u(1))
        bits.ue()  # pic_width_in_mbs_minus1
        bits.ue()  # pic_height_in_map_units_minus1
        return cls(frame_num_bits, gaps_allowed, separate_planes, frames_only=bool(bits.u(1)))

    def read_frame_num(self, bits: "_Bits") -> tuple[int, bool]:
        """Reads frame_num and field_pic_flag, after pic_parameter_set_id in a slice header."""
        if self.separate_planes:
            bits.u(2)
        frame_num = bits.u(self.frame_num_bits)
        return frame_num, not self.frames_only and bool(bits.u(1))


class _Bits:
    """Reads a NAL unit's payload bit by bit (7.2, 9.1). Its methods raise ValueError at the end."""

    def __init__(self, payload: bytes) -> None:
        rbsp = payload.replace(b"\x00\x00\x03", b"\x00\x00")  # emulation prevention (7.4.1)
        self._value = int.from_bytes(rbsp, "big")
        self._left = 8 * len(rbsp)

    def u(self, count: int) -> int:
        """Reads `count` bits as an unsigned integer."""
        self._left -= count
        if self._left < 0:
            raise ValueError("the NAL unit ends early")
        return (self._value >> self._left) & ((1 << count) - 1)

    def ue(self) -> int:
        """Reads an unsigned Exp-Golomb code."""
        zeros = self._left - (self._value & ((1 << self._left) - 1)).bit_length()
        return self.u(2 * zeros + 1) - 1

    def se(self) -> int:
        """Reads a signed Exp-Golomb code."""
        code = self.ue()
        return (code + 1) // 2 if code % 2 else -(code // 2)


def _nal_units(data: bytes) -> Iterator[int]:
    """Yields the offset of each NAL unit, after its start code (B.1.1).

    Raises ValueError if there are bytes before the first start code: a fragment.
    """
    at = data.find(START_CODE)
    if data[: at if at >= 0 else len(data)].strip(b"\x00"):
        raise ValueError("the access unit does not begin with a start code")
    while 0 <= at < len(data) - len(START_CODE):
        yield at + len(START_CODE)
        at = data.find(START_CODE, at + len(START_CODE))


def _skip_chroma(bits: _Bits) -> bool:
    """Skips the part of an SPS for high profiles; returns separate_colour_plane_flag."""
    chroma_format_idc = bits.ue()
    separate_planes = chroma_format_idc == 3 and bool(bits.u(1))
    bits.ue()  # bit_depth_luma_minus8
    bits.ue()  # bit_depth_chroma_minus8
    bits.u(1)  # qpprime_y_zero_transform_bypass_flag
    if bits.u(1):
        for index in range(12 if chroma_format_idc == 3 else 8):
            if bits.u(1):
                _skip_scaling_list(bits, 16 if index < 6 else 64)
    return separate_planes


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    """Skips a scaling list (7.3.2.1.1.1)."""
    scale = 8
    for _ in range(size):
        scale = (scale + bits.se()) % 256
        if scale == 0:
            return  # the rest repeats the last one


def _skip_order_count(bits: _Bits) -> None:
    """Skips the part of an SPS about pic_order_cnt."""
    kind = bits.ue()
    if kind == 0:
        bits.ue()  # log2_max_pic_order_cnt_lsb_minus4
    elif kind == 1:
        bits.u(1)  # delta_pic_order_always_zero_flag
        bits.ue()  # offset_for_non_ref_pic
        bits.ue()  # offset_for_top_to_bottom_field
        cycle = bits.ue()  # num_ref_frames_in_pic_order_cnt_cycle
        if cycle > 255:
            raise ValueError(f"an order count of {cycle} frames is above 255")
        for _ in range(cycle):
            bits.ue()  # offset_for_ref_frame
