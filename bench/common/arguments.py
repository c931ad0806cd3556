"""Command-line arguments that several benches take."""

import argparse
import math

from bench.common.framing import VIEW


def seconds_of(text: str) -> float:
    """Parses --seconds: more than 0, at most an hour."""
    return _number(text, "seconds", 3600.0)


def min_face_of(text: str) -> float:
    """Parses --min-face: pixels, at most the height of a camera's frames."""
    return _number(text, "pixels", VIEW[1])


def kbps_of(text: str) -> float:
    """Parses a bitrate: kbit/s, more than 0, at most 100,000."""
    return _number(text, "kbit/s", 100_000.0)


def capacity_of(text: str) -> int:
    """Parses --capacity: a whole number from 1 to 100."""
    if text.isascii() and text.isdigit() and 1 <= int(text) <= 100:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} keyframes: give 1 to 100")


def _number(text: str, unit: str, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if 0 < value <= most:
        return value
    raise argparse.ArgumentTypeError(f"{text!r} {unit}: give more than 0 and at most {most:g}")
