"""Options that commands share, and what is made of them."""

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, get_args

from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.generator import Generator
from receiver.inference.devices import ExecutionDevice
from receiver.inference.model_files import MODELS
from receiver.text import escaped


class Parser(argparse.ArgumentParser):
    """An argument parser whose list `places` may be given before, between and after options.

    By itself, argparse ends a positional list at the first option: in `IN --split OUT` it would
    not know OUT.
    """

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse's, whose subparsers call it too."""
        found, rest = super().parse_known_args(args, namespace)
        end = rest.index("--") if "--" in rest else len(rest)
        if "places" in found and not any(one[:1] == "-" != one for one in rest[:end]):
            found.places += rest[:end] + rest[end + 1 :]
            rest = []
        return found, rest

    def error(self, message: str) -> NoReturn:
        """As argparse's: prints the usage and a line, and exits with 2."""
        super().error(escaped(message))


def add_json(parser: Any, run: Callable[[argparse.Namespace], int]) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object and no table")
    parser.set_defaults(run=run)


def number(kind: type, low: float, high: float) -> Callable[[str], Any]:
    """A parser for numbers within a range, which says the range."""

    def parse_number(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low} to {high}")
        return value

    return parse_number


def add_common(parser: Any, run: Callable[[argparse.Namespace], int]) -> None:
    parser.add_argument(
        "--model",
        default="lite",
        metavar="NAME|PATH",
        help=f"generator: {', '.join(MODELS)} or an ONNX file (default lite)",
    )
    parser.add_argument(
        "--device",
        choices=("auto", *get_args(ExecutionDevice)),
        default="auto",
        help="where it runs; auto takes CUDA if it is there; tensorrt takes minutes at its first "
        "start (default auto)",
    )
    add_json(parser, run)


def add_enhancing(
    parser: Any,
    run: Callable[[argparse.Namespace], int],
    auto: str = "auto measures this machine at the start and while it runs, and takes the most "
    "that a frame's 33 ms have room for (default auto)",
) -> None:
    parser.add_argument(
        "--admission",
        choices=("quality", "i-frames"),
        default="quality",
        help="which pictures become references: those of high quality, or every I-frame as in the "
        "paper (default quality)",
    )
    parser.add_argument(
        "--quality",
        choices=("auto", "best", "fast"),
        default="auto",
        help="how exactly the generator calculates on a CPU (best: floating point, else 8-bit "
        f"integers) and how often faces are searched for; {auto}",
    )
    add_common(parser, run)


def new_enhancer(args: argparse.Namespace, generator: Generator, **more: Any) -> Enhancer:
    """Returns a fresh enhancer as the options of `add_enhancing` ask for it."""
    return Enhancer(generator, admission=args.admission, **more)
