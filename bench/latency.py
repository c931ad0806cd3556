"""Where the time goes: `python -m bench latency`.

Sends the demo's own clip (or --clip) through x264 and the decoder, and times every stage of the
receiver on the decoded frames, on every provider of this machine, one frame after the other.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
from rich.console import Console
from rich.progress import track as progress
from rich.table import Table

from receiver.decoding import DecodedFrame
from receiver.encoding import Encoding, open_decoder
from receiver.enhancer import Enhancer
from receiver.generator import Device, Generator, cuda_problem
from receiver.sender import Source, clip_source, portrait_source

STAGES = (
    "decode",
    "faces",
    "crop",
    "admit",
    "choose",
    "warp",
    "landmarks",
    "generator",
    "copy",
    "paste",
)
"""In the order in which a frame meets them; the rest of the time is in none of them."""


def encode(source: Source, encoding: Encoding, count: int) -> list[av.Packet]:
    """The first frames of a source as a sender would send them."""
    encoder = encoding.open(source.width, source.height, source.rate)
    packets = []
    for index, frame in zip(range(count), source.frames(), strict=False):
        frame.pts, frame.time_base = round(index * 90000 / source.rate), encoder.time_base
        packets += encoder.encode(frame)
    return packets


def measure(packets: list[av.Packet], generator: Generator, warm_up: int) -> dict[str, Any]:
    """Milliseconds a stage, and frames a second of the whole, without waiting between frames."""
    decoder, enhancer = open_decoder(), Enhancer(generator)
    totals: list[float] = []
    for index, packet in enumerate(progress(packets, generator.device)):
        if index == warm_up:
            enhancer.stats.forget_timings()
            totals.clear()
        began = time.perf_counter()
        with enhancer.stats.stage("decode"):
            video = decoder.decode(packet)[0]
        enhancer.enhance(DecodedFrame.from_video(video))
        totals.append(time.perf_counter() - began)
    stages = {name: enhancer.stats.milliseconds(name, 50, 95, 99) for name in STAGES}
    stages["whole frame"] = list(np.percentile(totals, [50, 95, 99]) * 1e3)
    return {
        "device": generator.device,
        "model": generator.model.name,
        "frames": len(totals),
        "fps": len(totals) / sum(totals),
        "stages_ms": {
            name: dict(zip(("median", "p95", "p99"), np.round(values, 3).tolist(), strict=True))
            for name, values in stages.items()
        },
    }


def table(result: dict[str, Any]) -> Table:
    """A row a stage."""
    title = f"{result['model']} on {result['device']}: {result['fps']:.1f} frames a second"
    shown = Table("stage", "median ms", "p95 ms", "p99 ms", title=title)
    for name, times in result["stages_ms"].items():
        if name == "whole frame":
            shown.add_section()
        shown.add_row(name, *(f"{times[key]:.2f}" for key in ("median", "p95", "p99")))
    return shown


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Stacked bars of the stages' medians, one bar a device."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.0 + 0.8 * len(results)), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(results))
    names = [f"{result['model']}\n{result['device']}" for result in results]
    for stage in STAGES:
        widths = np.array([result["stages_ms"][stage]["median"] for result in results])
        axes.barh(names, widths, left=left, label=stage, height=0.6)
        left += widths
    axes.axvline(1000 / 30, color="black", linestyle=":", label="one frame at 30 fps")
    axes.set_xlabel("milliseconds a frame, medians of the stages")
    figure.legend(ncols=5, loc="outside lower center", frameon=False)
    figure.savefig(path, dpi=120)


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench latency",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--clip", type=Path, metavar="FILE", help="instead of the demo's own clip")
    parser.add_argument("--model", default="lite", help="name or ONNX file (default lite)")
    parser.add_argument("--frames", type=int, default=600, help="frames timed (default 600)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.add_argument(
        "--plot", type=Path, default=Path("bench-output/latency.png"), help="default %(default)s"
    )
    args = parser.parse_args(arguments)
    source = clip_source(args.clip) if args.clip else portrait_source()
    warm_up = 30
    packets = encode(source, Encoding(kbps=100), args.frames + warm_up)
    devices: list[Device] = ["cpu"] if cuda_problem() else ["cpu", "cuda"]
    results = [measure(packets, Generator(args.model, device), warm_up) for device in devices]
    for result in results:
        Console().print(table(result))
    args.plot.parent.mkdir(parents=True, exist_ok=True)
    plot(results, args.plot)
    print(f"plot: {args.plot}")
    if args.json:
        size = {"width": source.width, "height": source.height}
        args.json.write_text(json.dumps({"size": size, "runs": results}, indent=2) + "\n")
