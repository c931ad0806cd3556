"""Compares enhanced frames with a stored version, within the tolerance between processors.

    python -m tests.enhance.test_golden

stores a new version. Do that only after a change that is meant to alter frames, and say in its
commit why they differ. `python -m bench golden` compares two checkouts bit by bit instead.

`golden.npz` holds for each rate of `RATES` a stream of the demo's portrait, `stream_RATE` and the
bytes of its packets, `sizes_RATE`, and what the enhancer adds to `COMPARED` frames of it, in
`changes_RATE`: the means over 8x8 luma and 4x4 chroma samples, 4x3x60x80 int8, in 1/`STEPS` of an
8-bit level. The stream is stored because decoding H.264 gives the same samples everywhere, whereas
drawing the portrait and encoding it may not.
"""

from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from receiver import DecodedFrame, Enhancer, Generator
from receiver.media.encoding import Encoding, open_decoder
from receiver.media.planes import planes
from receiver.sending.portrait import FPS, portrait_frames

GOLDEN = Path(__file__).with_name("golden.npz")
RATES = (100, 300)
"""kbit/s: nearly all of the network's change is applied at the first, about half at the second."""
COMPARED = (2, 8, 14, 19)
"""Numbers of the frames that are compared; all but the first have a reference of another moment."""
BLOCK = 8
"""Side of the luma blocks whose means are compared."""
STEPS = 4
"""Stored units of an 8-bit level."""
TICK = Fraction(1, 90000)

# ONNX Runtime's integer kernels differ between processors with and without VNNI. With floating
# point instead of them, which differs more, the block means of a rate differ from the stored ones
# by 0.10 levels (root mean square) and 0.6 at most; 0.07 of it is the rounding to `STEPS`. At 100
# kbit/s a reference that is not warped makes 0.25, one warped the wrong way 0.4, no reference 0.8,
# no temporal filter 0.7, a paste one pixel beside the face 0.7, a crop two pixels beside it 1.4.
MOST_RMS = 0.2
"""Largest root mean square difference of the block means of a rate, over the blocks that change."""
MOST = 2.0
"""Largest difference of a single block mean, in levels."""


def decoded(stream: bytes, sizes: list[int]) -> Iterator[DecodedFrame]:
    """Decodes the packets of a stored stream."""
    decoder, start = open_decoder(), 0
    for number, size in enumerate(sizes):
        packet = av.Packet(stream[start : start + size])
        packet.pts, packet.time_base = number * 90000 // FPS, TICK
        start += size
        yield from map(DecodedFrame.from_video, decoder.decode(packet))


def changes(enhancer: Enhancer, frames: Iterator[DecodedFrame]) -> np.ndarray:
    """Returns what the enhancer adds to the compared frames, as in `golden.npz`, in float64."""
    found = []
    for number, frame in enumerate(frames):
        enhanced = enhancer.enhance(frame)
        if number in COMPARED:
            pairs = zip(planes(enhanced), planes(frame.video), (1, 2, 2), strict=True)
            found.append([block_means(a.astype(float) - b, BLOCK // half) for a, b, half in pairs])
    return np.array(found) * STEPS


def block_means(plane: np.ndarray, side: int) -> np.ndarray:
    height, width = plane.shape
    return plane.reshape(height // side, side, width // side, side).mean(axis=(1, 3))


@pytest.mark.parametrize("rate", RATES)
def test_enhanced_frames_are_as_stored(generator, rate):
    with np.load(GOLDEN) as golden:
        stream, sizes = golden[f"stream_{rate}"].tobytes(), golden[f"sizes_{rate}"].tolist()
        stored = golden[f"changes_{rate}"] / STEPS
    found = changes(Enhancer(generator), decoded(stream, sizes)) / STEPS
    apart = np.abs(found - stored)
    assert apart.max() < MOST
    assert np.sqrt(np.square(apart)[stored != 0].mean()) < MOST_RMS
    assert np.abs(stored[:, 0]).max() > 4 * MOST  # so that unchanged frames would fail


def store() -> None:
    """Writes `golden.npz` anew."""
    arrays = {}
    for rate in RATES:
        encoder, packets = Encoding(rate).open(640, 480, Fraction(FPS)), []
        for number, frame in enumerate(islice(portrait_frames(), COMPARED[-1] + 1)):
            frame.pts, frame.time_base = number * 90000 // FPS, TICK
            packets += map(bytes, encoder.encode(frame))
        stream, sizes = b"".join(packets), [len(one) for one in packets]
        added = changes(Enhancer(Generator("lite", "cpu")), decoded(stream, sizes))
        arrays[f"stream_{rate}"] = np.frombuffer(stream, np.uint8)
        arrays[f"sizes_{rate}"] = np.array(sizes, np.int32)
        arrays[f"changes_{rate}"] = np.clip(np.rint(added), -128, 127).astype(np.int8)
    np.savez_compressed(GOLDEN, **arrays)


if __name__ == "__main__":
    store()
