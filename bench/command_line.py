"""What the command lines of all benches share: their parser, and checks for optional packages."""

import argparse
from importlib import import_module

from receiver.errors import MissingError

PACKAGES = {
    "atheris": ("atheris", None),
    "imageio_ffmpeg": ("imageio-ffmpeg", "bench"),
    "matplotlib": ("matplotlib", "bench"),
    "skimage": ("scikit-image", "bench"),
    "torch": ("torch", "train"),
}
"""Name of the package and of the extra that installs it, by importable module."""


class MissingPackageError(MissingError):
    """A bench needs a package that is not installed."""


def bench_parser(
    name: str, description: str | None, epilog: str | None = None
) -> argparse.ArgumentParser:
    """Returns the parser of `python -m bench NAME`; the texts keep their line breaks."""
    return argparse.ArgumentParser(
        prog=f"python -m bench {name}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawTextHelpFormatter,
    )


def require(bench: str, *modules: str) -> None:
    """Imports the modules, keys of `PACKAGES`, that a bench needs beyond the runtime dependencies.

    Raises MissingPackageError with the package and the command that installs it.
    """
    for module in modules:
        try:
            import_module(module)
        except ImportError:
            raise MissingPackageError(f"bench {bench} {needs(module)}") from None


def needs(module: str) -> str:
    """Returns the second half of a sentence: the package of a module and how to install it."""
    package, extra = PACKAGES[module]
    source = package if extra is None else f"'keyframe-receiver[{extra}]'"
    return f"needs {package}: pip install {source}"
