"""This project's enhancer and the paper's method on the same frames."""

import time
from collections.abc import Iterable
from itertools import islice
from typing import Any

from aiortc.jitterbuffer import JitterFrame
from rich.progress import track as progress

from bench.latency.paper_method import Network, PaperMethod
from bench.latency.timings import times
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.generator import Generator
from receiver.media.frame import DecodedFrame
from receiver.stats import FrameCounts
from receiver.transport.aiortc_hooks import ObservingDecoder

BLOCK, PAPER_BLOCK = 30, 2
"""Frames of a block for this project's enhancer, and those of them for the paper's method."""


PAUSE = 0.3
"""Seconds between blocks: PyTorch's threads keep spinning for a while after their work."""


WHOLE = "whole frame"


class Comparison:
    """Times both on the same decoded frames in alternating blocks, so that load affects both.

    This project's enhancer gets every frame, because it follows faces from frame to frame. The
    paper's method does not follow faces and gets some frames of each block.
    """

    def __init__(self, generator: Generator, network: Network) -> None:
        self._decoder = ObservingDecoder()
        self._ours, self._paper = Enhancer(generator), PaperMethod(network)

    def run(self, packets: list[JitterFrame], blocks: int) -> bool:
        """Warms both up in a first block and times the others. Returns whether Ctrl-C ended it.

        Args:
            packets: access units, `BLOCK` for each block and `BLOCK` to warm up.
        """
        remaining = iter(packets)
        try:
            for number in progress(range(blocks + 1), "ours and the paper's method"):
                frames = [self._decode(packet) for packet in islice(remaining, BLOCK)]
                turns: list[tuple[Any, list[DecodedFrame]]] = [
                    (self._ours, frames),
                    (self._paper, frames[:: BLOCK // PAPER_BLOCK]),
                ]
                for method, chosen in turns if number % 2 else turns[::-1]:
                    _time(method, chosen)
                    time.sleep(PAUSE)
                if number == 0:
                    for method, _ in turns:
                        method.stats.forget_timings()
                        method.stats.frames = FrameCounts()
        except KeyboardInterrupt:
            return True
        return False

    def figures(self, stages: Iterable[str]) -> dict[str, Any]:
        """Returns the milliseconds of both, frames a second by the medians, and their ratio.

        An unknown figure is None.
        """
        methods: dict[str, Any] = {}
        decode = times(self._ours.stats, "decode")
        for name, stats in (("ours", self._ours.stats), ("paper", self._paper.stats)):
            shown = {stage: times(stats, stage) for stage in (*stages, WHOLE)} | {"decode": decode}
            median, decoding = shown[WHOLE]["median"], decode["median"]
            methods[name] = {
                "device": stats.device,
                "frames": len(stats.seconds(WHOLE)),
                "restored": stats.frames.enhanced,
                "fps": median and decoding and 1000.0 / (median + decoding),
                "stages_ms": shown,
            }
        ours, paper = methods["ours"]["fps"], methods["paper"]["fps"]
        return methods | {"ratio": ours and paper and ours / paper}

    def _decode(self, packet: JitterFrame) -> DecodedFrame:
        with self._ours.stats.stage("decode"):
            video: Any = self._decoder.decode(packet)[0]
        return DecodedFrame.from_video(video)


def _time(method: Enhancer | PaperMethod, frames: list[DecodedFrame]) -> None:
    for frame in frames:
        with method.stats.stage(WHOLE):
            output = method.enhance(frame)
        method.stats.frames.enhanced += output is not frame.video
