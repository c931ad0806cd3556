"""Reads the side data of frames: HDR, captions, orientation."""

from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer, Type

PRIMARIES, LUMINANCE = 50_000, 10_000
"""Units of SMPTE ST 2086's SEI message in one unit of CIE xy and in one cd/m² (H.265, D.2.28)."""
NAMES = {
    Type.A53_CC: "closed captions",
    Type.AFD: "the active format",
    Type.AMBIENT_VIEWING_ENVIRONMENT: "the ambient viewing environment",
    Type.CONTENT_LIGHT_LEVEL: "the content light level",
    Type.DOVI_METADATA: "Dolby Vision",
    Type.DOVI_RPU_BUFFER: "Dolby Vision",
    Type.DYNAMIC_HDR_PLUS: "HDR10+",
    Type.DYNAMIC_HDR_VIVID: "HDR Vivid",
    Type.ICC_PROFILE: "the ICC profile",
    Type.MASTERING_DISPLAY_METADATA: "the mastering display",
    Type.S12M_TIMECODE: "timecodes of single frames",
    Type.SPHERICAL: "the 360° projection",
    Type.STEREO3D: "stereo 3D",
}
"""Kinds of side data that a viewer would miss, in words."""


def kinds(frame: av.VideoFrame) -> set[str]:
    """Returns the kinds of side data of a frame, by their `NAMES`."""
    container: Any = SideDataContainer  # not frame.side_data: see receiver.media.frame._side_data
    return {NAMES[one.type] for one in container(frame) if one.type in NAMES}


def x264_params(frame: av.VideoFrame) -> list[str]:
    """Returns x264's parameters for a frame's mastering display and content light level."""
    container: Any = SideDataContainer
    side_data = container(frame)
    params = []
    mastering = side_data.get("MASTERING_DISPLAY_METADATA")
    if mastering is not None:
        # AVMasteringDisplayMetadata of libavutil: 10 fractions, then two flags.
        numbers = np.frombuffer(mastering, "<i4")[:22]
        values = numbers[:20:2] / np.maximum(numbers[1:20:2], 1)
        if numbers[20] and numbers[21]:
            (rx, ry, gx, gy, bx, by, wx, wy) = np.rint(values[:8] * PRIMARIES).astype(int)
            low, high = np.rint(values[8:] * LUMINANCE).astype(int)
            params.append(
                f"mastering-display=G({gx},{gy})B({bx},{by})R({rx},{ry})WP({wx},{wy})"
                f"L({high},{low})"
            )
    light = side_data.get("CONTENT_LIGHT_LEVEL")
    if light is not None:
        most, average = np.frombuffer(light, "<u4")[:2]
        params.append(f"cll={most},{average}")
    return params
