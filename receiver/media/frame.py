"""Decoded frames, and the data about them that the decoder exports."""

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

from receiver.cores import codec_threads

Box: TypeAlias = NDArray[np.float64]
"""Left, top, right, bottom in pixels."""

_H264 = VideoEncParamsType.H264
_BLOCK = np.dtype([("x", "<i4"), ("y", "<i4"), ("w", "<i4"), ("h", "<i4"), ("dqp", "<i4")])
"""AVVideoBlockParams of FFmpeg's libavutil/video_enc_params.h."""


def export_side_data(codec: av.VideoCodecContext) -> None:
    """Makes a decoder that is not open yet export QPs and motion vectors with its frames.

    Switches it to slice threads: with frame threads, libav returns a frame while another thread
    still writes its side data, and QPs would differ from run to run.
    """
    codec.thread_type, codec.thread_count = "SLICE", codec_threads()
    codec.options = {**codec.options, "export_side_data": "venc_params"}
    codec.flags2 |= Flags2.export_mvs


@dataclass(frozen=True, slots=True)
class Arrival:
    """How a frame arrived; stored in its `opaque`.

    Attributes:
        seconds: when its last packet arrived, by `time.perf_counter`.
        damaged: whether part of it, or of a frame that it is predicted from, was lost.
        size_bytes: size of its access unit; None if unknown.
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
    """A frame as decoded, with the data that the decoder exported.

    Attributes:
        video: the frame, planar YUV, with its pts and time base.
        is_keyframe: whether it was decoded from an IDR picture or another random access point.
        qp: mean luma QP over the frame's macroblocks, 0 to 51; skipped macroblocks count with the
            QP that they inherit. None if the codec does not export it.
        damaged: whether its prediction chain contains a loss; False if losses were not tracked.
        size_bytes: size of the encoded frame; None if unknown.
        stored: if `video` is a rotated or scaled view, the decoded frame, and a function that maps
            a box in `video` to a box in that frame; otherwise None.
    """

    video: av.VideoFrame
    is_keyframe: bool
    qp: float | None
    damaged: bool = False
    size_bytes: int | None = None
    stored: "tuple[av.VideoFrame, Callable[[Box], Box]] | None" = None

    @classmethod
    def from_video(cls, video: av.VideoFrame) -> "DecodedFrame":
        """Reads the data that a decoder exported with a frame (`export_side_data`, `Arrival`)."""
        arrival = video.opaque if isinstance(video.opaque, Arrival) else None
        damaged, size = (arrival.damaged, arrival.size_bytes) if arrival else (False, None)
        return cls(video, bool(video.key_frame), _mean_qp(video), damaged, size)

    def qp_within(self, box: Box) -> float | None:
        """Returns the mean luma QP of the macroblocks whose centres lie within a box, 0 to 51.

        Returns the mean over the whole frame if no centre does, and None if the codec does not
        export QPs.

        Args:
            box: left, top, right, bottom in pixels of `video`.
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
        """FFmpeg's AVMotionVector records as a structured array; None for an intra frame."""
        side_data = _side_data(self.video, "MOTION_VECTORS")
        return None if side_data is None else side_data.to_ndarray()


def _mean_qp(video: av.VideoFrame) -> float | None:
    """Returns the mean luma QP of a frame; None if the codec does not export it."""
    side_data = _blocks(video)
    return None if side_data is None else float(side_data[0]["dqp"].mean() + side_data[1])


def _blocks(video: av.VideoFrame) -> tuple[NDArray[Any], int] | None:
    """Returns the frame's macroblocks as `_BLOCK` records, and the QP that theirs are relative to.

    Returns None for codecs other than H.264, whose QPs have other ranges: MPEG-4's is 1 to 31,
    VP9's is 0 to 255.
    """
    side_data = _side_data(video, "VIDEO_ENC_PARAMS")
    if side_data is None or side_data.codec_type != _H264 or not side_data.nb_blocks:
        return None
    blocks = np.frombuffer(
        side_data, dtype=_BLOCK, count=side_data.nb_blocks, offset=side_data.blocks_offset
    )
    return blocks, side_data.qp


def _side_data(video: av.VideoFrame, name: str) -> Any:
    """Returns a frame's side data of this type, or None.

    Does not use `video.side_data`: frame and side data would refer to each other, and every frame
    would stay in memory until the garbage collector runs; old generations, for hours.
    """
    container: Any = SideDataContainer
    return container(video).get(name)
