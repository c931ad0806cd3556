"""Timing of one frame after the other, without pauses."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiortc.jitterbuffer import JitterFrame
from rich.progress import track as progress

from bench.latency.stages import STAGES
from bench.latency.timings import TimedEnhancer, times
from receiver.enhance.faces.generator import Generator
from receiver.media.frame import DecodedFrame
from receiver.transport.aiortc_hooks import ObservingDecoder


def measure(packets: list[JitterFrame], generator: Generator, warm_up: int) -> dict[str, Any]:
    """Returns milliseconds by stage, and frames a second without waiting between frames.

    `interrupted` in the result is true if Ctrl-C ended the run before its last frame.

    Args:
        warm_up: number of packets that do not count.
    """
    decoder, enhancer = ObservingDecoder(), TimedEnhancer(generator)
    stats, interrupted = enhancer.stats, False
    with ThreadPoolExecutor(1) as worker, ThreadPoolExecutor(1) as beside:
        enhancer.set_executor(beside)  # as in a call
        try:
            for index, packet in enumerate(progress(packets, "one after the other")):
                if index == warm_up:
                    stats.forget_timings()
                began = time.perf_counter()
                with stats.stage("decode"):
                    video: Any = decoder.decode(packet)[0]
                worker.submit(enhancer.enhance, DecodedFrame.from_video(video)).result()
                ended = time.perf_counter()
                stats.add("output", ended - enhancer.ended)
                stats.add("whole frame", ended - began)
                stats.add("without decoding", ended - began - stats.timings("decode").last())
                enhancer.between_frames()
        except KeyboardInterrupt:
            interrupted = True
    wholes, without = stats.seconds("whole frame"), stats.seconds("without decoding")
    return {
        "device": generator.device,
        "model": generator.model.name,
        "threads": generator.threads,
        "frames": len(wholes),
        "fps": len(wholes) / sum(wholes) if wholes else None,
        "fps_without_decoding": len(without) / sum(without) if without else None,
        "without_decoding_ms": times(stats, "without decoding"),
        "stages_ms": {name: times(stats, name) for name in (*STAGES, "whole frame")},
        "interrupted": interrupted,
    }
