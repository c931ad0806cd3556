"""Estimates how many calls this machine can enhance from a short measurement."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import count
from statistics import median
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.alignment import CROP
from receiver.enhance.faces.generator import BATCH, CHANNELS, Generator
from receiver.media.frame import DecodedFrame
from receiver.media.planes import planes

FRAME_S = 1 / 30
"""Seconds from one frame to the next: the time budget of a frame."""
USABLE = 0.75
"""Usable share of the budget and of the cores. The rest is for what medians do not show: frames of
several calls that arrive at once, searches for faces, stills, garbage collection, other
programs."""
OTHER_S = 0.008
"""Seconds of a core that a frame takes besides its enhancement. For 640x480 on an AMD EPYC: 0.5 ms
to decode, 3.5 ms to encode it for the page (received and restored), and about as much for RTP and
SRTP, which aiortc does in Python."""

WARM_UPS, RUNS, SECONDS = 4, 20, 0.6
"""Frames before the measurement, maximum number of measured frames, and seconds after which three
suffice."""
PAYS = 1.5
"""Batching pays if two faces in one run take less than this multiple of the time of one. At 1.5
both are ready as early, on average, as one after the other. On a CPU two take twice as long, so
that the first one would only wait."""


@dataclass(frozen=True)
class Measured:
    """Measured times in seconds, each the median of some runs.

    Attributes:
        frame_s: one frame with one face through the whole enhancer.
        generator_s: part of it in the generator.
        pair_s: two faces in one run of the generator.
        threads: threads of the generator, each of which occupies a core during a run.
    """

    frame_s: float
    generator_s: float
    pair_s: float
    threads: int = 1

    @property
    def batch(self) -> int:
        """Maximum number of faces from several calls in one run, see `Generator.batch`."""
        return BATCH if self.pair_s < PAYS * self.generator_s else 1

    @property
    def rest_s(self) -> float:
        """Seconds of a frame outside the generator."""
        return max(0.0, self.frame_s - self.generator_s)


def calls_carried(measured: Measured, cores: int) -> int:
    """Returns how many calls of one face at 30 fps can be enhanced at the same time, at least 1.

    The calls share the cores and the generator. If all their frames arrive at once, the last one
    waits for the others in the generator and must still be ready before the next frame.
    """
    another_s = measured.generator_s if measured.batch == 1 else measured.pair_s / 2
    core_s = measured.rest_s + measured.generator_s * measured.threads + OTHER_S
    by_cores = USABLE * FRAME_S * cores / core_s
    by_generator = 1 + (USABLE * FRAME_S - measured.frame_s) / max(another_s, 1e-6)
    return max(1, math.floor(min(by_cores, by_generator)))


def in_words(measured: Measured, cores: int) -> str:
    """Returns how many calls this machine carries, and why, as the end of a sentence."""
    calls = calls_carried(measured, cores)
    took, budget = f"{measured.frame_s * 1e3:.1f} ms", f"{FRAME_S * 1e3:.1f} ms"
    on = f"on {cores} core{'' if cores == 1 else 's'}"
    if measured.frame_s > FRAME_S:
        return (
            f"1 call, but cannot restore all of its frames: a face takes {took}, more than the "
            f"{budget} between two frames, {on}"
        )
    return (
        f"{calls} call{'' if calls == 1 else 's'} at 30 frames a second: a face takes {took} of "
        f"the {budget} between two frames, {on}"
    )


def measure(generator: Generator) -> Measured:
    """Measures the enhancer with this generator; takes about a second if nothing else runs.

    Raises MissingError if the landmark file is missing, and whatever the generator raises.
    """
    enhancer = Enhancer(generator, admission="i-frames")  # so that there is a reference to warp
    frames = drawn_faces(2)
    turns = count()

    def enhance() -> None:
        turn = next(turns)
        enhancer.enhance(DecodedFrame(frames[turn % 2], is_keyframe=turn == 0, qp=None))

    frame_s = _median_s(enhance)
    in_generator = enhancer.stats.seconds("generator")[WARM_UPS:]
    threads = generator.threads if generator.device == "cpu" else 1
    return Measured(frame_s, median(in_generator), generator_seconds(generator, 2), threads)


def generator_seconds(generator: Generator, faces: int = 1) -> float:
    """Returns the seconds that the generator takes for `faces` faces in one run."""
    arrays = [np.full((faces, n, CROP, CROP), 0.5, np.float32) for n in CHANNELS.values()]
    return _median_s(lambda: generator.restore(*arrays))


def _median_s(work: Callable[[], object]) -> float:
    for _ in range(WARM_UPS):
        work()
    took: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(took) < RUNS and (len(took) < 3 or time.perf_counter() < end):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return median(took)


def drawn_faces(total: int) -> list[av.VideoFrame]:
    """Returns `total` frames of a drawn face that moves a little, 640x480 yuv420p.

    The detector finds that face, and restoring it takes as long as restoring a real one. So a
    machine can be measured without the demo's portrait, which may not be installed.
    """
    frames = []
    for index in range(total):
        frame = av.VideoFrame(640, 480, "yuv420p")
        frame.pts, frame.time_base = index, Fraction(1, 30)
        luma, blue, red = planes(frame)
        luma[:], blue[:], red[:] = _drawn_face(320 + 4 * index, 250), 120, 136
        frames.append(frame)
    return frames


def _drawn_face(x: int, y: int) -> NDArray[Any]:
    picture = np.full((480, 640), 150, np.uint8)

    def ellipse(right: int, down: int, width: int, height: int, level: int) -> None:
        place, size = (x + right, y + down), (width, height)
        cv2.ellipse(picture, place, size, 0, 0, 360, level, -1, cv2.LINE_AA)

    ellipse(0, -40, 100, 125, 50)  # hair
    ellipse(0, 0, 84, 112, 190)  # face
    for side in (-1, 1):
        ellipse(side * 36, -42, 24, 6, 90)  # brow
        ellipse(side * 36, -22, 18, 10, 120)  # eye
        ellipse(side * 36, -22, 15, 7, 225)
        ellipse(side * 36, -22, 7, 7, 50)
        ellipse(side * 12, 24, 8, 5, 110)  # nostril
    ellipse(0, 5, 9, 30, 205)  # nose
    ellipse(0, 28, 17, 7, 140)
    ellipse(0, 62, 34, 11, 110)  # mouth
    ellipse(0, 60, 26, 3, 70)
    return cv2.GaussianBlur(picture, (0, 0), 2.5)
