"""A WebRTC receiver that restores the faces which compression took from the call.

from receiver import EnhancedVideoTrack, Enhancer, Generator

pc.addTrack(EnhancedVideoTrack(track, Enhancer(Generator())))
"""

# Before PyAV: both bring an X client library, and OpenCV's windows hang if PyAV's came first.
import cv2  # noqa: F401

from receiver.call import prepare_aiortc, receive_h264
from receiver.decoding import DecodedFrame
from receiver.enhancer import Enhancer
from receiver.errors import DeviceError, InputError, MissingError, ModelError, ReceiverError
from receiver.generator import Generator
from receiver.track import EnhancedVideoTrack

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
