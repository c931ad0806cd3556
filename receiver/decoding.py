"""From packets to pictures that know how well they arrived."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import av
import numpy as np
from av.codec.context import Flags2
from numpy.typing import NDArray

_BLOCK = np.dtype([("x", "<i4"), ("y", "<i4"), ("w", "<i4"), ("h", "<i4"), ("dqp", "<i4")])
"""AVVideoBlockParams of FFmpeg's libavutil/video_enc_params.h."""


def export_side_data(codec: av.VideoCodecContext) -> None:
    """Makes a decoder that is not open yet export QPs and motion vectors with its frames."""
    codec.options = {**codec.options, "export_side_data": "venc_params"}
    codec.flags2 |= Flags2.export_mvs


@dataclass(frozen=True)
class DecodedFrame:
    """A frame as the decoder gave it, and what the decoder knows of it.

    Attributes:
        video: the frame, planar YUV, with its pts and time base.
        is_keyframe: whether it was decoded from an IDR or another random access point.
        qp: mean luma QP over the picture's macroblocks, 0 to 51, skipped ones with the QP they
            inherit; None where the codec does not tell.
        damaged: whether a loss came before it in its prediction chain.
    """

    video: av.VideoFrame
    is_keyframe: bool
    qp: float | None
    damaged: bool = False

    @classmethod
    def from_video(cls, video: av.VideoFrame) -> "DecodedFrame":
        """Reads off a frame what its decoder exported (see `export_side_data`)."""
        return cls(video, bool(video.key_frame), _mean_qp(video))

    @cached_property
    def motion_vectors(self) -> NDArray[Any] | None:
        """FFmpeg's AVMotionVector records as a structured array; None on an intra picture."""
        side_data: Any = self.video.side_data.get("MOTION_VECTORS")
        return None if side_data is None else side_data.to_ndarray()


def _mean_qp(video: av.VideoFrame) -> float | None:
    side_data: Any = video.side_data.get("VIDEO_ENC_PARAMS")
    if side_data is None or not side_data.nb_blocks:
        return None
    blocks = np.frombuffer(
        side_data, dtype=_BLOCK, count=side_data.nb_blocks, offset=side_data.blocks_offset
    )
    return float(blocks["dqp"].mean() + side_data.qp)
