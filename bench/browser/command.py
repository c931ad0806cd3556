"""A browser's call: `python -m bench browser`.

Headless Chromium sends the demo's own clip with sound to `receiver serve` on the same machine and
plays what it returns; with --janus also through a Janus room to `receiver join`.
"""

import asyncio
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from rich.table import Table

from bench.chromium.driver import BINARY, write_y4m
from bench.command_line import bench_parser, require
from receiver.commands.terminal import console
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.generator import Generator
from receiver.errors import MissingError
from receiver.sending.portrait import portrait_frames


def table(figures: dict[str, Any]) -> Table:
    """Returns the figures, a row each."""
    shown = Table("figure", "value", title="Chromium to receiver to Chromium, 640x480")
    for name, value in figures.items():
        text = value
        if isinstance(value, dict):
            text = ", ".join(f"{key} {number:.1f}" for key, number in value.items())
        shown.add_row(name, f"{text:.2f}" if isinstance(text, float) else str(text))
    return shown


def main(arguments: list[str]) -> None:
    """Runs the command line."""
    parser = bench_parser("browser", __doc__)
    parser.add_argument("--seconds", type=int, default=60, help="length of the call (default 60)")
    parser.add_argument("--kbps", type=int, help="the page's cap in kbit/s (default the page's)")
    parser.add_argument("--janus", action="store_true", help="measure joining Janus too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    args = parser.parse_args(arguments)
    require("browser", "pytest", "skimage")  # pytest: it shares code with the tests of calls
    if BINARY is None:
        raise MissingError("there is no Chromium: apt install chromium")
    if args.janus and shutil.which("janus") is None:
        raise MissingError("there is no Janus: apt install janus")
    from bench.browser.measuring import measure, measure_janus

    generator = Generator("lite", "cpu")
    Enhancer(generator).warm_up()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_y4m(folder / "camera.y4m", list(portrait_frames()))
        figures = asyncio.run(
            measure(folder / "camera.y4m", folder, generator, args.seconds, args.kbps)
        )
        if args.janus:
            figures |= asyncio.run(measure_janus(folder / "camera.y4m", folder, generator))
    console().print(table(figures))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
