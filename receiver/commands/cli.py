"""The command `receiver`: assembles the parser and runs the selected command."""

# Before PyAV: both contain an X client library, and OpenCV's windows hang if PyAV's is first.
import cv2  # noqa: F401

# isort: split
import argparse
import sys
from importlib.metadata import version

import av

from receiver.commands import demo, doctor, enhance, join, send, serve, terminal
from receiver.commands.options import Parser
from receiver.cores import limit_opencv


def main() -> None:
    """Runs the command line and exits; `receiver.__main__.main` handles Ctrl-C earlier."""
    terminal.run("receiver", lambda: lambda: run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Runs the command line; returns 0, or 1 if something is missing or one of many failed.

    Raises ReceiverError for bad input.
    """
    args = parse(arguments)
    limit_opencv()
    # FFmpeg's messages would mix with ours. With any level but None, they are passed to Python:
    # a decoder's thread that logs while the decoder is freed would then wait forever.
    av.logging.set_level(None)
    code: int = args.run(args)
    return code


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parses the arguments; exits with 2 if they are invalid.

    Returns a namespace whose attribute `run` is the command to run with it.
    """
    parser = Parser(
        prog="receiver",
        description="Receives video calls and restores faces that compression has degraded.",
        epilog="receiver COMMAND --help describes the options of a command.",
    )
    parser.add_argument("--version", action="version", version=version("keyframe-receiver"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    demo.add(commands)
    enhance.add(commands)
    serve.add(commands)
    join.add(commands)
    send.add(commands)
    doctor.add(commands)
    return parser.parse_args(arguments)
