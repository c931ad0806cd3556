"""The reference memory of the receiver: which keyframes to keep, which one to use, how to bend it.

Pure numpy and OpenCV. Knows nothing of calls, networks or files.
"""

from keyframes.keyframe_set import (
    Keyframe,
    KeyframeSet,
    Landmarks,
    Picture,
    Policy,
    landmark_distance,
)
from keyframes.mls import mls_map, warp

__all__ = [
    "Keyframe",
    "KeyframeSet",
    "Landmarks",
    "Picture",
    "Policy",
    "landmark_distance",
    "mls_map",
    "warp",
]
