"""The command `receiver`."""

# Before PyAV: both bring an X client library, and OpenCV's windows hang if PyAV's came first.
import cv2  # noqa: F401

# isort: split
import argparse
import sys
from importlib.metadata import version

import av

from receiver.commands import demo, doctor, enhance, join, send, serve, terminal
from receiver.commands.options import Parser


def main() -> None:
    """Runs the command line and exits; `receiver.__main__.main` handles Ctrl-C earlier."""
    terminal.run("receiver", lambda: lambda: run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Runs the command line; returns 0, or 1 if something is missing or one of many failed.

    Raises ReceiverError for bad input.
    """
    args = parse(arguments)
    # FFmpeg's own words would stand between ours. Any level but None hands them to Python, where a
    # decoder's thread that says something while the decoder is freed waits for ever.
    av.logging.set_level(None)
    code: int = args.run(args)
    return code


def parse(arguments: list[str]) -> argparse.Namespace:
    """The arguments as a namespace whose `run` does the job; exits with 2 on bad ones."""
    parser = Parser(
        prog="receiver",
        description="Receives video calls and shows the face that compression took from them.",
        epilog="receiver COMMAND --help tells what each takes.",
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
