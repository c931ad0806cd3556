"""From packets to pictures that know how well they arrived."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import av
import numpy as np
from av.codec.context import Flags2
from av.sidedata.encparams import VideoEncParamsType
from av.sidedata.sidedata import SideDataContainer
from numpy.typing import NDArray

Box: TypeAlias = NDArray[np.float64]
"""Left, top, right, bottom in pixels."""

_H264 = VideoEncParamsType.H264
_BLOCK = np.dtype([("x", "<i4"), ("y", "<i4"), ("w", "<i4"), ("h", "<i4"), ("dqp", "<i4")])
"""AVVideoBlockParams of FFmpeg's libavutil/video_enc_params.h."""


def export_side_data(codec: av.VideoCodecContext) -> None:
    """Makes a decoder that is not open yet export QPs and motion vectors with its frames.

    It then decodes with slice threads: of frame threads, libav gives out a frame while another
    thread still writes its side data, and QPs would differ from run to run.
    """
    codec.thread_type = "SLICE"
    codec.options = {**codec.options, "export_side_data": "venc_params"}
    codec.flags2 |= Flags2.export_mvs


@dataclass(frozen=True, slots=True)
class Arrival:
    """How a frame came, as its `opaque` tells.

    Attributes:
        seconds: when its packets were whole, by `time.perf_counter`.
        damaged: whether it, or a picture that it is predicted from, was lost.
        size_bytes: of its access unit, None where nobody counted.
    """

    seconds: float
    damaged: bool
    size_bytes: int | None = None


class QpBlocks(NamedTuple):
    """Macroblocks of a frame: left and top in luma pixels, and luma QPs, N of each."""

    x: NDArray[np.int32]
    y: NDArray[np.int32]
    qp: NDArray[np.int32]


@dataclass(frozen=True)
class DecodedFrame:
    """A frame as the decoder gave it, and what the decoder knows of it.

    Attributes:
        video: the frame, planar YUV, with its pts and time base.
        is_keyframe: whether it was decoded from an IDR or another random access point.
        qp: mean luma QP over the picture's macroblocks, 0 to 51, skipped ones with the QP they
            inherit; None where the codec does not tell.
        damaged: whether a loss came before it in its prediction chain; False where nobody watched.
        size_bytes: as encoded, None where nobody counted.
        stored: if `video` is a view that is turned or scaled, the frame that was decoded, and what
            takes a box in `video` to one in it; else None.
    """

    video: av.VideoFrame
    is_keyframe: bool
    qp: float | None
    damaged: bool = False
    size_bytes: int | None = None
    stored: "tuple[av.VideoFrame, Callable[[Box], Box]] | None" = None

    @classmethod
    def from_video(cls, video: av.VideoFrame) -> "DecodedFrame":
        """Reads off a frame what its decoder exported (see `export_side_data`, `Arrival`)."""
        arrival = video.opaque if isinstance(video.opaque, Arrival) else None
        damaged, size = (arrival.damaged, arrival.size_bytes) if arrival else (False, None)
        return cls(video, bool(video.key_frame), _mean_qp(video), damaged, size)

    def qp_within(self, box: Box) -> float | None:
        """Mean luma QP of the macroblocks that lie within left, top, right, bottom in pixels.

        Of the whole picture where none does; None where the codec does not tell.
        """
        decoded = self.video
        if self.stored is not None:
            decoded, stored_box = self.stored
            box = stored_box(box)
        side_data = _blocks(decoded)
        if self.qp is None or side_data is None:
            return self.qp
        blocks, qp = side_data
        x, y = blocks["x"] + blocks["w"] // 2, blocks["y"] + blocks["h"] // 2
        within = (x >= box[0]) & (x < box[2]) & (y >= box[1]) & (y < box[3])
        return float(blocks["dqp"][within].mean() + qp) if within.any() else self.qp

    @property
    def qp_blocks(self) -> QpBlocks | None:
        """The QPs of the decoded frame's macroblocks; None if the codec does not export them."""
        side_data = _blocks(self.video if self.stored is None else self.stored[0])
        if side_data is None:
            return None
        blocks, qp = side_data
        return QpBlocks(blocks["x"], blocks["y"], blocks["dqp"] + qp)

    @cached_property
    def motion_vectors(self) -> NDArray[Any] | None:
        """FFmpeg's AVMotionVector records as a structured array; None on an intra picture."""
        side_data = _side_data(self.video, "MOTION_VECTORS")
        return None if side_data is None else side_data.to_ndarray()


def _mean_qp(video: av.VideoFrame) -> float | None:
    side_data = _blocks(video)
    return None if side_data is None else float(side_data[0]["dqp"].mean() + side_data[1])


def _blocks(video: av.VideoFrame) -> tuple[NDArray[Any], int] | None:
    """The picture's macroblocks as `_BLOCK` records, and the QP that theirs are relative to.

    None where the codec is not H.264: MPEG-4 counts from 1 to 31, VP9 from 0 to 255.
    """
    side_data = _side_data(video, "VIDEO_ENC_PARAMS")
    if side_data is None or side_data.codec_type != _H264 or not side_data.nb_blocks:
        return None
    blocks = np.frombuffer(
        side_data, dtype=_BLOCK, count=side_data.nb_blocks, offset=side_data.blocks_offset
    )
    return blocks, side_data.qp


def _side_data(video: av.VideoFrame, name: str) -> Any:
    """A frame's side data of this type, None without any.

    Not by `video.side_data`: frame and side data would hold each other, and every picture stay in
    memory until the garbage collector finds it; those that it once let live, for hours.
    """
    container: Any = SideDataContainer
    return container(video).get(name)
