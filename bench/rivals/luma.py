"""FSRCNN and ESPCN for twice the size: networks of a user's TensorFlow file, run by OpenCV.

Dong et al., "Accelerating the Super-Resolution Convolutional Neural Network", ECCV 2016; Shi et
al., "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional
Neural Network", CVPR 2016. The files are those of OpenCV's module `dnn_superres`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from bench.rivals.contract import threads_in_words
from bench.rivals.resizing import BICUBIC, resized
from receiver.errors import InputError
from receiver.media.planes import copy_frame, luma_of, planes

SCALE = 2
NODE = 0x0A
"""Tag of a GraphDef's field 1, its nodes: length-delimited, as all of its fields here."""
SHUFFLE = b"\x12\x0cDepthToSpace"
"""A node's field 2: its operation."""
BLOCK_SIZE = b"\x2a\x0f\n\x09blocksize\x12\x02\x18\x02"
"""A node's field 5: the attribute `blocksize` = 2. TensorFlow calls it `block_size`."""


class LumaNetwork:
    """Doubles the luma by a network and resizes it to the size that is asked for.

    Chroma is enlarged by bicubic.
    """

    def __init__(self, path: Path, threads: int) -> None:
        """Reads a frozen graph. Raises InputError if it is not a network that doubles the luma."""
        self.name, self._threads = path.stem, threads
        self.runtime = f"OpenCV, {threads_in_words(threads)}"
        try:
            graph = np.frombuffer(with_block_size(path.read_bytes()), np.uint8)
            with _quiet():
                self._network = cv2.dnn.readNetFromTensorflow(graph)
                self.double(np.zeros((8, 16), np.uint8))
        except (OSError, ValueError, cv2.error) as error:
            raise InputError(
                f"{path} does not hold FSRCNN or ESPCN x2 that this OpenCV can run: "
                f"{' '.join(str(error).split())[:200]}"
            ) from None

    def show(self, frame: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
        """See `Rival.show`."""
        shown = resized(frame, width, height, BICUBIC)
        if shown is frame:  # of this size already
            shown = copy_frame(frame)
        doubled = self.double(luma_of(frame))
        reduces = width * height < doubled.size
        filtered = cv2.resize(
            doubled, (width, height), interpolation=cv2.INTER_AREA if reduces else cv2.INTER_CUBIC
        )
        planes(shown)[0][:] = filtered
        return shown

    def double(self, luma: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Returns 2Hx2W for HxW uint8. Raises ValueError if the network gives another shape."""
        with _opencv_threads(self._threads):
            self._network.setInput(luma[None, None].astype(np.float32) / np.float32(255.0))
            doubled = self._network.forward()
        if doubled.shape != (1, 1, SCALE * luma.shape[0], SCALE * luma.shape[1]):
            raise ValueError(f"it makes {doubled.shape} of {luma.shape}")
        pixels: NDArray[np.uint8] = np.clip(np.rint(doubled[0, 0] * 255.0), 0, 255).astype(np.uint8)
        return pixels


def with_block_size(graph: bytes) -> bytes:
    """Returns a serialised GraphDef whose DepthToSpace states its block as OpenCV 5 expects it.

    OpenCV's own importer drops TensorFlow's name of it. Raises ValueError for other files.
    """
    changed, at = bytearray(), 0
    while at < len(graph):
        tag, at = _varint(graph, at)
        size, at = _varint(graph, at)
        if tag & 7 != 2 or at + size > len(graph):
            raise ValueError("it is not a frozen graph of TensorFlow")
        field, at = graph[at : at + size], at + size
        if tag == NODE and SHUFFLE in field:
            field += BLOCK_SIZE
        changed += _as_varint(tag) + _as_varint(len(field)) + field
    return bytes(changed)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Returns the number at an index, and the index behind it. Raises ValueError at the end."""
    value = shift = 0
    while at < len(data) and shift < 64:
        value |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 128:
            return value, at
    raise ValueError("it is not a frozen graph of TensorFlow")


def _as_varint(value: int) -> bytes:
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    return bytes([*written, value])


@contextmanager
def _opencv_threads(threads: int) -> Iterator[None]:
    """Lets OpenCV use this many threads; its number is one of the whole process."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(threads)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps OpenCV's importer from writing to the terminal: errors are raised too."""
    logging = cv2.utils.logging
    before = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(before)
