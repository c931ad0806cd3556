"""`receiver demo`: a call with oneself that shows the difference."""

import argparse
import asyncio
from pathlib import Path
from typing import Any

from rich.table import Table

from receiver.commands.loopback import DemoResult, run_demo
from receiver.commands.options import (
    add_enhancing,
    make_folder,
    new_enhancer,
    new_quality,
    number,
)
from receiver.commands.progress import progress_bar
from receiver.commands.terminal import console, json_fields, json_line
from receiver.commands.verdict import why_not_restored
from receiver.enhance.faces.generator import Generator
from receiver.enhance.quality import Quality
from receiver.media.encoding import Encoding
from receiver.media.outputs import Window, run_beside
from receiver.sending.sources import Source, camera_source, clip_source, portrait_source
from receiver.text import escaped

ADVICE = {
    "high quality": ": give a lower --bitrate",
    "no face": " in it: try another clip or the camera",
}
"""What to change if too few frames were restored, by the kind of the reason."""


def add(commands: Any) -> None:
    """Adds the command to argparse's subparsers."""
    demo = commands.add_parser(
        "demo",
        help="make a call to yourself and see the difference",
        description="Makes a real call on this machine: a sender encodes a clip at a low bitrate "
        "and sends it over ICE, DTLS and SRTP; the receiver restores the faces. Without a clip or "
        "a camera it sends a built-in portrait. Writes demo.mp4 (received | restored | original) "
        "and demo.png, prints the figures, and opens a window if there is a display.",
    )
    where = demo.add_mutually_exclusive_group()
    where.add_argument("--clip", type=Path, metavar="FILE", help="video to send, in a loop")
    where.add_argument("--camera", type=number(int, 0, 99), metavar="N", help="camera to send")
    demo.add_argument(
        "--bitrate",
        type=number(float, 20, 2000),
        default=100.0,
        metavar="KBPS",
        help="bitrate of the sender's x264 in kbit/s, 20 to 2000 (default 100)",
    )
    demo.add_argument(
        "--seconds",
        type=number(float, 1, 86400),
        default=10.0,
        metavar="S",
        help="length of the call, 1 to 86400 (default 10)",
    )
    demo.add_argument(
        "--output",
        type=Path,
        default=Path("demo-output"),
        metavar="DIR",
        help="folder for demo.mp4 and demo.png (default demo-output)",
    )
    add_enhancing(demo, run)


def run(args: argparse.Namespace) -> int:
    """Runs the command and prints its figures."""
    generator = Generator(args.model, args.device)
    source = _source(args)
    make_folder(args.output)
    quality = new_quality(args, generator)
    enhancer = quality.watch(new_enhancer(args, generator))
    window = Window("receiver demo: q ends it") if Window.possible() and not args.json else None
    with progress_bar(quiet=args.json) as bar:
        task = bar.add_task("calling", total=args.seconds)
        call = run_demo(
            source,
            Encoding(kbps=args.bitrate),
            enhancer,
            args.seconds,
            args.output,
            lambda seconds: bar.update(task, completed=seconds),
            window.put if window else None,
        )
        watched = quality.beside(call)
        result = asyncio.run(watched) if window is None else run_beside(window, watched)
    if args.json:
        print(json_line(json_fields(result) | {"quality": quality.snapshot()}))
    else:
        _print_result(args.output, result, quality)
        if args.clip is None and args.camera is None:
            print(BEST_CASE)
    return 0


BEST_CASE = (
    "This clip is an animated still photograph, the best case for references: a real person gains "
    "less. Try --camera 0 or --clip FILE."
)
"""Printed after the demo's own clip."""


def _source(args: argparse.Namespace) -> Source:
    """Opens the clip, the camera or the portrait. Raises InputError if that fails."""
    if args.clip is not None:
        return clip_source(args.clip)
    if args.camera is not None:
        return camera_source(args.camera)
    return portrait_source()


def _print_result(folder: Path, result: DemoResult, quality: Quality) -> None:
    psnr, frames = result.face_psnr_db, result.frames
    rows = {
        "frames a second": f"{result.fps:.2f}",
        "added latency": f"{result.added_latency_ms['median']:.1f} ms median, "
        f"{result.added_latency_ms['p95']:.1f} ms p95",
        "frames": ", ".join(f"{count} {name}" for name, count in frames.items())
        + f", {result.written} written",
        "bitrate": f"{result.kbps:.0f} kbit/s",
        "face PSNR": f"{psnr['received']:.2f} dB received, {psnr['restored']:.2f} dB restored",
        "references": f"{result.keyframes} held, {result.stills} stills at "
        f"{result.stills_kbps:.0f} kbit/s",
        "model": f"{result.model} on {result.device}, {quality.level.name} quality",
    }
    for name, times in result.stages_ms.items():
        if name != "added latency":
            rows[f"  {name}"] = f"{times['median']:.2f} ms median, {times['p95']:.2f} ms p95"
    table = Table(title="demo", show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    console().print(table)
    print(
        _verdict(frames["enhanced"], result.skipped, result.high_quality_inputs, frames["received"])
    )
    print(f"See demo.mp4 and demo.png in {escaped(folder)}.")


def _verdict(enhanced: int, skipped: int, high_quality_inputs: int, received: int) -> str:
    """Returns a sentence that says whether the demo worked, from its counts of frames."""
    reason = why_not_restored(received, enhanced, high_quality_inputs, skipped)
    if reason is not None:
        return f"The call worked, but {reason.clause}{ADVICE.get(reason.kind, '')}."
    return f"It works: {enhanced} of {received} frames came through a real call and were restored."
