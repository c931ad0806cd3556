"""What is said about a whole video's light, in the words of x264."""

from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer

PRIMARIES, LUMINANCE = 50_000, 10_000
"""Units of SMPTE ST 2086's SEI message in one unit of CIE xy and in one cd/m² (H.265, D.2.28)."""


def x264_params(frame: av.VideoFrame) -> list[str]:
    """x264's parameters for the mastering display and content light level of a frame, if any."""
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
