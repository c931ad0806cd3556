"""A browser's call: `python -m bench browser`.

Headless Chromium sends the demo's own clip with sound to `receiver serve` on the same machine and
plays what it returns; with --janus also through a Janus room to `receiver join`. With --ladder,
it only sends, in one call for each bitrate of bench/common/ladder.py: exits with 1 if it sends
another size than the ladder says. A bitrate is not measurable if Chromium sends less because its
CPU is too slow (limited by: cpu) or because its estimate of the bandwidth (target) is lower.
"""

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.table import Table

from bench.browser.ladder import disagreement, ladder_table, measure_ladder
from bench.chromium.camera import write_camera
from bench.chromium.driver import BINARY
from bench.chromium.sent import SETTLING, limits_text, sizes_text
from bench.command_line import bench_parser, require
from bench.common.tables import terminal_table
from receiver.commands.terminal import console
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.generator import Generator
from receiver.errors import MissingError

CALL_SECONDS = 60
"""Length of a call."""
WIDTH = 130
"""Width of the table of --ladder in characters."""
RUNG_SECONDS = 8
"""Length of a call of --ladder after it has settled."""


def table(figures: dict[str, Any]) -> Table:
    """Returns the figures, a row each."""
    shown = Table("figure", "value", title="Chromium to receiver to Chromium, 640x480")
    for name, value in figures.items():
        shown.add_row(name, figure_text(name, value))
    return shown


def figure_text(name: str, value: Any) -> str:
    """Returns a figure as the table shows it."""
    if name == "sent":
        sizes, rate = sizes_text(value, "\n"), f"{value['kbps']:.0f} kbit/s" if value else "–"
        return f"{sizes}\n{rate}, limited by: {limits_text(value)}"
    if name == "ladder":
        says = f"{value['width']}x{value['height']} at {value['kbps']:g} kbit/s"
        return f"{says}: {value['verdict']}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {number:.1f}" for key, number in value.items())
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parses the arguments; exits with 2 if they are invalid."""
    parser = bench_parser("browser", __doc__)
    parser.add_argument(
        "--seconds",
        type=int,
        help=f"length of the call (default {CALL_SECONDS}); of each call of --ladder, after "
        f"{SETTLING:g} s\nin which it settles (default {RUNG_SECONDS})",
    )
    parser.add_argument("--kbps", type=int, help="the page's cap in kbit/s (default the page's)")
    parser.add_argument("--janus", action="store_true", help="measure joining Janus too")
    parser.add_argument("--ladder", action="store_true", help="check the ladder of sizes instead")
    parser.add_argument(
        "--clip", type=Path, metavar="FILE", help="what the camera shows (default the demo's clip)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    args = parser.parse_args(arguments)
    if args.ladder and (args.janus or args.kbps is not None):
        parser.error("--ladder takes no --janus and no --kbps: leave them out")
    if args.seconds is not None and args.seconds < 1:
        parser.error(f"a call of {args.seconds} s is too short: give 1 or more")
    return args


def main(arguments: list[str]) -> None:
    """Runs the command line; exits with 1 if --ladder finds another size than the ladder's."""
    args = parse(arguments)
    require("browser", "skimage")
    if BINARY is None:
        raise MissingError("there is no Chromium: apt install chromium")
    if args.janus and shutil.which("janus") is None:
        raise MissingError("there is no Janus: apt install janus")

    generator = Generator("lite", "cpu")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_camera(folder / "camera.y4m", args.clip)
        measured = check_ladder if args.ladder else make_calls
        figures = measured(args, folder, generator)
    figures["clip"] = args.clip.name if args.clip else "the demo's"
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    if args.ladder and (sentence := disagreement(figures["rungs"])):
        print(sentence, file=sys.stderr)
        sys.exit(1)


def check_ladder(args: argparse.Namespace, folder: Path, generator: Generator) -> dict[str, Any]:
    """Makes the calls of --ladder, shows and returns their figures."""
    seconds = args.seconds or RUNG_SECONDS
    figures = asyncio.run(measure_ladder(folder / "camera.y4m", folder, generator, seconds))
    title = f"Chromium {figures['chromium']}, camera 640x480, seconds {SETTLING:g} to"
    rows = ladder_table(figures["rungs"])
    shown = terminal_table(rows, f"{title} {SETTLING + seconds:g}")
    console(width=max(WIDTH, console().width)).print(shown)
    return figures


def make_calls(args: argparse.Namespace, folder: Path, generator: Generator) -> dict[str, Any]:
    """Makes a call, with --janus another one, shows and returns their figures."""
    from bench.browser.measuring import measure, measure_janus

    Enhancer(generator).warm_up()
    camera, seconds = folder / "camera.y4m", args.seconds or CALL_SECONDS
    figures = asyncio.run(measure(camera, folder, generator, seconds, args.kbps))
    if args.janus:
        figures |= asyncio.run(measure_janus(camera, folder, generator))
    console().print(table(figures))
    return figures
