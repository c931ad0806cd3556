"""Rivals by name or by file."""

from collections.abc import Sequence
from pathlib import Path

from bench.command_line import MissingPackageError, needs
from bench.rivals.contract import Rival
from bench.rivals.luma import LumaNetwork
from bench.rivals.resizing import BICUBIC, LANCZOS, Deblocked, Resized
from receiver.errors import InputError
from receiver.inference.sessions import default_threads

NAMES = ("bicubic", "lanczos", "deblock")
"""Rivals without a file."""
FILES = (".pb", ".pth")
"""How the names of networks' files end."""
CHOICE = (
    f"{', '.join(NAMES)}, or the file of a network: FSRCNN x2 or ESPCN x2 (.pb), "
    "light SAFMN++ x4 (.pth)"
)
"""The second half of a sentence: all that can be given."""


def rival_of(text: str, threads: int | None = None) -> Rival:
    """Returns the rival of a name or of a file's path.

    Args:
        threads: of a network's run; those of this project's networks if not given.

    Raises InputError for an unknown name or a file that cannot be used, MissingPackageError if the
    file needs a package that is not installed.
    """
    threads = threads or default_threads()
    if text == "bicubic":
        return Resized(text, BICUBIC)
    if text == "lanczos":
        return Resized(text, LANCZOS)
    if text == "deblock":
        return Deblocked()
    if not is_rival(text):
        raise InputError(f"{text!r} is not a rival: give {CHOICE}")
    try:
        return _network_of(Path(text), threads)
    except InputError as error:
        raise InputError(f"{error}; give {CHOICE}") from None


def is_rival(text: str) -> bool:
    """Returns whether `rival_of` takes a text: a name, or a path that ends as a network's file."""
    return text in NAMES or Path(text).suffix in FILES


def rivals_of(texts: Sequence[str], threads: int | None = None) -> list[Rival]:
    """Returns the rival of each text. Raises what `rival_of` raises.

    Two files of one name give an InputError: tables could not tell them apart.
    """
    rivals = [rival_of(text, threads) for text in texts]
    names = [rival.name for rival in rivals]
    for part, name in zip(texts, names, strict=True):
        if names.count(name) > 1:
            raise InputError(f"{part} has the name of another rival, {name}: rename the file")
    return rivals


def _network_of(path: Path, threads: int) -> Rival:
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    if path.suffix == ".pb":
        return LumaNetwork(path, threads)
    try:
        from bench.rivals.safmn import LightSafmn
    except ImportError:
        raise MissingPackageError(f"{path} {needs('torch')}") from None
    return LightSafmn(path, threads)
