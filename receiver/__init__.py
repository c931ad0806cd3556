"""A WebRTC receiver that restores faces in video calls.

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

# Otherwise ONNX Runtime writes a device ID into the user's home and collects usage events. It reads
# this variable when it is imported; its own function to disable telemetry takes effect too late.
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
"""Modules of the public names, except those of errors."""


def __getattr__(name: str) -> Any:
    """Loads the module of a public name at its first use (PEP 562).

    Loading all modules takes a second, during which the command line could not handle Ctrl-C.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Before PyAV: both contain an X client library, and OpenCV's windows hang if PyAV's is first.
    import_module("cv2")
    value = getattr(import_module(f"receiver.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value
