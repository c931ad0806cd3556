"""The reference memory of the receiver: which keyframes to keep, which one to use, how to bend it.

Pure numpy and OpenCV. Knows nothing of calls, networks or files.
"""

from keyframes.admission import Admission, Place, Shot, admit, crop_qp
from keyframes.keyframe_set import (
    Embedding,
    Keyframe,
    KeyframeSet,
    Landmarks,
    Picture,
    Policy,
    landmark_distance,
    worth,
)
from keyframes.mls import mls_map, warp
from keyframes.people import (
    Identity,
    People,
    Person,
    Received,
    Signature,
    likeness,
    resemblance,
    signature,
    thumbnail,
)
from keyframes.requests import Budget, Need, Request, RequestPolicy, Way

__all__ = [
    "Admission",
    "Budget",
    "Embedding",
    "Identity",
    "Keyframe",
    "KeyframeSet",
    "Landmarks",
    "Need",
    "People",
    "Person",
    "Picture",
    "Place",
    "Policy",
    "Received",
    "Request",
    "RequestPolicy",
    "Shot",
    "Signature",
    "Way",
    "admit",
    "crop_qp",
    "landmark_distance",
    "likeness",
    "mls_map",
    "resemblance",
    "signature",
    "thumbnail",
    "warp",
    "worth",
]
