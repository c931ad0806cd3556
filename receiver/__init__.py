"""A WebRTC receiver that restores the faces which compression took from the call.

from receiver import EnhancedVideoTrack, Enhancer, Generator

pc.addTrack(EnhancedVideoTrack(track, Enhancer(Generator())))
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from receiver.calls.track import EnhancedVideoTrack
    from receiver.enhance.enhancer import Enhancer
    from receiver.enhance.faces.generator import Generator
    from receiver.errors import DeviceError, InputError, MissingError, ModelError, ReceiverError
    from receiver.media.frame import DecodedFrame
    from receiver.transport.connections import prepare_aiortc, receive_h264

# ONNX Runtime would note a device ID in the user's home and collect events of its use. It looks at
# this when it is imported: its function for it comes too late.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "DecodedFrame",
    "DeviceError",
    "EnhancedVideoTrack",
    "Enhancer",
    "Generator",
    "InputError",
    "MissingError",
    "ModelError",
    "ReceiverError",
    "prepare_aiortc",
    "receive_h264",
]

_HOMES = {
    "DecodedFrame": "media.frame",
    "EnhancedVideoTrack": "calls.track",
    "Enhancer": "enhance.enhancer",
    "Generator": "enhance.faces.generator",
    "prepare_aiortc": "transport.connections",
    "receive_h264": "transport.connections",
}
"""Modules of the names that are no errors."""


def __getattr__(name: str) -> Any:
    """Loads a public name's module when it is first used (PEP 562).

    Loading all of them takes a second, in which the command line could not handle Ctrl-C.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Before PyAV: both bring an X client library, and OpenCV's windows hang if PyAV's came first.
    import_module("cv2")
    value = getattr(import_module(f"receiver.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value
