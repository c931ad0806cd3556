"""Throughput and memory of `receiver enhance`: `python -m bench files`.

Enhances a clip of the portrait with sound in a separate process. Prints frames a second, from
the start of the process to its end, and its peak memory. With --against, another checkout of this
project does the same, alternating with this one.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path

import av
import numpy as np
from rich.progress import track as progress
from rich.table import Table

from bench.command_line import bench_parser, require
from receiver.commands.terminal import console
from receiver.errors import InputError, ReceiverError
from receiver.media.files.writing import VideoWriter, add_h264
from receiver.sending.portrait import portrait_frames

CHECKOUT = Path(__file__).resolve().parent.parent
SOUND_RATE = 48_000
"""Samples a second."""


@dataclass
class Runs:
    """The runs of one checkout.

    Attributes:
        frames: of the clip.
        seconds: time of each run.
        megabytes: peak memory of each run.
    """

    frames: int = 0
    seconds: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)

    @property
    def fps(self) -> float:
        """Frames a second of the median run."""
        return self.frames / statistics.median(self.seconds)


def make_clip(path: Path, size: tuple[int, int], rate: Fraction, seconds: float, crf: float) -> int:
    """Writes the repeated portrait with a tone; returns the number of frames.

    Args:
        size: width and height in pixels.
        rate: frames a second.
    """
    total = round(seconds * rate)
    pictures = [frame.reformat(*size, "yuv420p") for frame in portrait_frames()]
    with VideoWriter(path) as writer:
        base = 1 / rate
        video = add_h264(writer.container, size, rate, base, crf, "veryfast")
        sound = writer.container.add_stream("aac", rate=SOUND_RATE, layout="mono")
        pieces = tone()
        for index, picture in enumerate(
            progress(islice(cycle(pictures), total), "making the clip", total=total)
        ):
            picture.pts, picture.time_base, picture.duration = index, base, 1
            picture.pict_type = av.video.frame.PictureType.NONE
            writer.container.mux(video.encode(picture))
            while sound.frames * 1024 < index / rate * SOUND_RATE:
                writer.container.mux(sound.encode(next(pieces)))
        writer.container.mux(video.encode(None))
        writer.container.mux(sound.encode(None))
    return total


def tone() -> Iterator[av.AudioFrame]:
    """Yields frames of a tone, 1024 samples each, without end."""
    wave = np.sin(np.arange(1024) * (2 * np.pi * 9 / 1024)).astype(np.float32)[None] / 4
    start = 0
    while True:
        piece = av.AudioFrame.from_ndarray(wave, "fltp", "mono")
        piece.sample_rate, piece.pts = SOUND_RATE, start
        start += 1024
        yield piece


WATCHED = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""
"""Runs a command and prints its peak memory in kB. It needs a separate process: until a child
runs its own program, the parent's memory counts as the child's."""


def enhance(checkout: Path, clip: Path, folder: Path) -> tuple[int, float, float]:
    """Runs `receiver enhance` of a checkout; returns frames, seconds and peak memory in MB.

    Raises ReceiverError if it fails.
    """
    target = folder / "out.mp4"
    command = [sys.executable, "-m", "receiver", "enhance", "--json", str(clip), str(target)]
    began = time.perf_counter()
    run = subprocess.run(
        [sys.executable, "-c", WATCHED, *command],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - began
    if run.returncode:
        raise ReceiverError(f"receiver enhance of {checkout} failed: see above")
    target.unlink()
    figures, peak = run.stdout.strip().splitlines()
    return json.loads(figures)["frames"]["received"], seconds, int(peak) / 1024


def main(arguments: list[str]) -> None:
    """Runs the command line. Raises InputError for bad input."""
    parser = bench_parser("files", __doc__)
    parser.add_argument("--size", default="640x480", metavar="WxH", help="default 640x480")
    parser.add_argument("--fps", type=Fraction, default=Fraction(30), help="default 30")
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="length of the clip (default 20)"
    )
    parser.add_argument("--crf", type=float, default=34.0, help="CRF of the clip (default 34)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each checkout (default 3)")
    parser.add_argument("--against", type=Path, metavar="DIR", help="another checkout")
    parser.add_argument("--json", action="store_true", help="print one JSON object and no table")
    args = parser.parse_args(arguments)
    require("files", "skimage")
    if sys.platform == "win32":
        raise InputError(
            "bench files measures a process's peak memory, which Windows lacks: use Linux"
        )
    width, _, height = args.size.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) > 1 and int(height) > 1):
        raise InputError(f"{args.size!r} is not a size: give one such as 1920x1080")
    if args.against is not None and not (args.against / "receiver").is_dir():
        raise InputError(f"{args.against} is not a checkout of this project: give its folder")
    checkouts = {"here": CHECKOUT}
    if args.against is not None:
        checkouts["against"] = args.against.resolve()
    results = {name: Runs() for name in checkouts}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        clip = folder / "clip.mp4"
        make_clip(clip, (int(width), int(height)), args.fps, args.seconds, args.crf)
        for _ in range(args.runs):
            for name, checkout in checkouts.items():
                runs = results[name]
                runs.frames, seconds, megabytes = enhance(checkout, clip, folder)
                runs.seconds.append(seconds)
                runs.megabytes.append(megabytes)
    show(results, as_json=args.json)


def show(results: dict[str, Runs], *, as_json: bool) -> None:
    """Prints the figures as a table, or as JSON."""
    if as_json:
        figures = {
            name: {"frames": runs.frames, "fps": round(runs.fps, 2), "seconds": runs.seconds}
            | {"megabytes": max(runs.megabytes)}
            for name, runs in results.items()
        }
        print(json.dumps(figures))
        return
    table = Table(title="receiver enhance")
    for heading in ("checkout", "frames", "frames a second", "seconds per run", "peak memory"):
        table.add_column(heading)
    for name, runs in results.items():
        each = ", ".join(f"{seconds:.1f}" for seconds in runs.seconds)
        most = f"{max(runs.megabytes):.0f} MB"
        table.add_row(name, str(runs.frames), f"{runs.fps:.2f}", each, most)
    console().print(table)
