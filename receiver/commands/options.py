"""Command line options that several commands share, and what they create from them."""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, get_args

from receiver.calls.access import TOKEN_VARIABLE
from receiver.enhance.capacity import measure
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.generator import Generator
from receiver.enhance.quality import Quality
from receiver.errors import InputError
from receiver.inference.devices import ExecutionDevice
from receiver.inference.model_files import MODELS
from receiver.text import escaped

Run: TypeAlias = Callable[[argparse.Namespace], int]
"""Runs a command with its options and returns the exit code."""


class Parser(argparse.ArgumentParser):
    """An argument parser that accepts the list `places` before, between and after options.

    argparse itself ends a positional list at the first option: it would reject OUT in
    `IN --split OUT`.
    """

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parses as argparse does; subparsers are called through this method too."""
        found, rest = super().parse_known_args(args, namespace)
        end = rest.index("--") if "--" in rest else len(rest)
        if "places" in found and not any(one[:1] == "-" != one for one in rest[:end]):
            found.places += rest[:end] + rest[end + 1 :]
            rest = []
        return found, rest

    def error(self, message: str) -> NoReturn:
        """Prints the usage and one line, with control characters escaped, and exits with 2."""
        super().error(escaped(message))


def add_json(parser: Any, run: Run) -> None:
    """Adds `--json`, and sets the function that runs the command."""
    parser.add_argument("--json", action="store_true", help="print one JSON object and no table")
    parser.set_defaults(run=run)


def number(kind: type, low: float, high: float) -> Callable[[str], Any]:
    """Returns a parser for numbers from `low` to `high`; its error message states the range."""

    def parse_number(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low} to {high}")
        return value

    return parse_number


def add_common(parser: Any, run: Run) -> None:
    """Adds the options of all commands that use a generator."""
    parser.add_argument(
        "--model",
        default="lite",
        metavar="NAME|PATH",
        help=f"generator: {', '.join(MODELS)}, the name of an exported model, or an ONNX file "
        "(default lite)",
    )
    parser.add_argument(
        "--device",
        choices=("auto", *get_args(ExecutionDevice)),
        default="auto",
        help="execution device of the generator; auto uses CUDA if it is available; the first "
        "start of tensorrt takes minutes (default auto)",
    )
    add_json(parser, run)


def add_enhancing(
    parser: Any,
    run: Run,
    auto: str = "auto measures this machine at the start and during the call, and selects the best "
    "level that fits into the 33 ms between two frames (default auto)",
) -> None:
    """Adds the options of all commands that restore faces.

    Args:
        auto: what `--quality auto` does, for the help text.
    """
    parser.add_argument(
        "--admission",
        choices=("quality", "i-frames"),
        default="quality",
        help="frames that become references: those of high quality, or every I-frame as in the "
        "paper (default quality)",
    )
    parser.add_argument(
        "--quality",
        choices=("auto", "best", "fast"),
        default="auto",
        help="arithmetic of the generator on a CPU (best: floating point, otherwise 8-bit "
        f"integers) and how often faces are searched for; {auto}",
    )
    add_common(parser, run)


def add_tokens(parser: Any, about: str, *, many: bool = False) -> None:
    """Adds `--token` and `--token-file`.

    Args:
        about: what the token is for.
        many: whether any number of tokens can be given; otherwise the options exclude each other.
    """
    options = parser if many else parser.add_mutually_exclusive_group()
    options.add_argument(
        "--token",
        action="append" if many else "store",
        default=[] if many else None,
        metavar="TOKEN",
        help=f"{about}; other users of this computer can see it in the process list",
    )
    options.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help=f"file with {'the tokens, one per line' if many else 'the token'}; without either "
        f"option, the environment variable {TOKEN_VARIABLE} is used",
    )


def add_stock_transport(parser: Any) -> None:
    """Adds `--stock-transport`."""
    parser.add_argument(
        "--stock-transport",
        action="store_true",
        help="use aiortc's own jitter buffer, NACKs and REMB, for comparison",
    )


def new_enhancer(args: argparse.Namespace, generator: Generator, **more: Any) -> Enhancer:
    """Returns a new enhancer according to the options of `add_enhancing`."""
    return Enhancer(generator, admission=args.admission, **more)


def new_quality(args: argparse.Namespace, generator: Generator) -> Quality:
    """Returns the quality control according to `--quality`; `auto` measures this machine."""
    measured = measure(generator) if args.quality == "auto" else None
    return Quality(generator, args.quality, measured)


def make_folder(folder: Path) -> None:
    """Creates a folder and its parents. Raises InputError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be created: {error.strerror}") from error
