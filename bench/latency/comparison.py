"""This project's enhancer and other methods on the same frames."""

import time
from collections.abc import Iterable
from itertools import islice
from typing import Any, Protocol

import av
from aiortc.jitterbuffer import JitterFrame
from rich.progress import track as progress

from bench.latency.timings import times
from bench.rivals.contract import Rival, threads_in_words
from bench.rivals.paper_networks import FORMS
from bench.rivals.resizing import AREA, resized
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.generator import Generator
from receiver.media.frame import DecodedFrame
from receiver.stats import FrameCounts, Stats
from receiver.transport.aiortc_hooks import ObservingDecoder

BLOCK, RIVAL_BLOCK = 30, 2
"""Frames of a block for this project's enhancer, and those of them for each other method."""


PAUSE = 0.3
"""Seconds between blocks: PyTorch's threads keep spinning for a while after their work."""


WHOLE = "whole frame"
OURS = "ours"


class Method(Protocol):
    """What is timed.

    Attributes:
        stats: timings of its stages.
        runtime: the library that runs its network, in words.
    """

    stats: Stats
    runtime: str

    def enhance(self, frame: DecodedFrame, /) -> av.VideoFrame:
        """Returns the frame to show; the frame's own object if it is unchanged."""


class Ours(Enhancer):
    """This project's enhancer as a method."""

    def __init__(self, generator: Generator) -> None:
        super().__init__(generator)
        self.runtime = f"ONNX Runtime, {threads_in_words(generator.threads)}"


class Enlarging:
    """Shows frames of half the width and height at full size, by a rival for whole frames."""

    def __init__(self, rival: Rival) -> None:
        self.stats = Stats("cpu")
        self.runtime = rival.runtime
        self._rival = rival

    def enhance(self, frame: DecodedFrame, /) -> av.VideoFrame:
        """Returns a small frame at twice its width and height."""
        return self._rival.show(frame.video, 2 * frame.video.width, 2 * frame.video.height)


class Comparison:
    """Times all methods on the same decoded frames in alternating blocks, so that load affects all.

    This project's enhancer gets every frame, because it follows faces from frame to frame. The
    others do not follow faces and get the same few frames of each block; an `Enlarging` method
    gets them at half the size.
    """

    def __init__(self, generator: Generator, others: dict[str, Method]) -> None:
        """`others` has the methods by name, at least one."""
        self._decoder = ObservingDecoder()
        self._ours = Ours(generator)
        self._methods: dict[str, Method] = {OURS: self._ours} | others

    def run(self, packets: list[JitterFrame], blocks: int) -> bool:
        """Warms all up in a first block and times the others. Returns whether Ctrl-C ended it.

        Args:
            packets: access units, `BLOCK` for each block and `BLOCK` to warm up.
        """
        remaining = iter(packets)
        try:
            for number in progress(range(blocks + 1), f"ours and {len(self._methods) - 1} more"):
                frames = [self._decode(packet) for packet in islice(remaining, BLOCK)]
                few = frames[:: BLOCK // RIVAL_BLOCK]
                small = [_halved(frame) for frame in few]
                methods = list(self._methods.values())
                for method in methods if number % 2 else methods[::-1]:
                    if method is self._ours:
                        _time(method, frames)
                    else:
                        _time(method, small if isinstance(method, Enlarging) else few)
                    time.sleep(PAUSE)
                if number == 0:
                    for method in methods:
                        method.stats.forget_timings()
                        method.stats.frames = FrameCounts()
        except KeyboardInterrupt:
            return True
        return False

    def figures(self, stages: Iterable[str]) -> dict[str, Any]:
        """Returns `methods` by name, ours first, and the `fastest` form of the paper's method.

        Each has its milliseconds, its frames a second by the medians, and `factor`: how many times
        as many frames ours makes. `fastest` is None if no form was timed, or if none restored a
        frame: without faces nothing is compared. An unknown figure is None.
        """
        stages = tuple(stages)
        figures = {name: self._figures(method, stages) for name, method in self._methods.items()}
        ours = figures[OURS]["fps"]
        for one in figures.values():
            one["factor"] = ours and one["fps"] and ours / one["fps"]
        forms = [name for name in figures if name in FORMS and figures[name]["restored"]]
        fastest = max(forms, key=lambda name: figures[name]["fps"], default=None)
        return {"methods": figures, "fastest": fastest}

    def _figures(self, method: Method, stages: tuple[str, ...]) -> dict[str, Any]:
        stats, decode = method.stats, times(self._ours.stats, "decode")
        shown = {stage: times(stats, stage) for stage in (*stages, WHOLE)} | {"decode": decode}
        median, decoding = shown[WHOLE]["median"], decode["median"]
        return {
            "device": stats.device,
            "runtime": method.runtime,
            "enlarges": isinstance(method, Enlarging),
            "frames": len(stats.seconds(WHOLE)),
            "restored": stats.frames.enhanced,
            "fps": median and decoding and 1000.0 / (median + decoding),
            "stages_ms": shown,
        }

    def _decode(self, packet: JitterFrame) -> DecodedFrame:
        with self._ours.stats.stage("decode"):
            video: Any = self._decoder.decode(packet)[0]
        return DecodedFrame.from_video(video)


def _halved(frame: DecodedFrame) -> DecodedFrame:
    video = frame.video
    small = resized(video, video.width // 2, video.height // 2, AREA)
    return DecodedFrame(small, is_keyframe=frame.is_keyframe, qp=None)


def _time(method: Method, frames: list[DecodedFrame]) -> None:
    for frame in frames:
        with method.stats.stage(WHOLE):
            output = method.enhance(frame)
        method.stats.frames.enhanced += output is not frame.video
