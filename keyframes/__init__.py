"""The reference memory of the receiver: keeps keyframes, chooses one for a face, warps it.

Uses numpy and OpenCV only. Knows nothing of calls, networks or files.
"""

from keyframes.admission import Admission, Admitted, FaceObservation, admit, crop_qp
from keyframes.appearance import (
    AppearanceDescriptor,
    Received,
    appearance_descriptor,
    likeness,
    resemblance,
    thumbnail,
)
from keyframes.identity import Identity
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
from keyframes.people import People, Person
from keyframes.requests import Budget, ReferenceNeed, Request, RequestKind, RequestPolicy

__all__ = [
    "Admission",
    "Admitted",
    "AppearanceDescriptor",
    "Budget",
    "Embedding",
    "FaceObservation",
    "Identity",
    "Keyframe",
    "KeyframeSet",
    "Landmarks",
    "People",
    "Person",
    "Picture",
    "Policy",
    "Received",
    "ReferenceNeed",
    "Request",
    "RequestKind",
    "RequestPolicy",
    "admit",
    "appearance_descriptor",
    "crop_qp",
    "landmark_distance",
    "likeness",
    "mls_map",
    "resemblance",
    "thumbnail",
    "warp",
    "worth",
]
