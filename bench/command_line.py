"""What the command lines of all benches share: their parser, and checks for optional packages."""

import argparse
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from receiver.errors import MissingError

PACKAGES = {
    "atheris": ("atheris", None),
    "brisque": ("--no-deps brisque", None),
    "cosmic_ray": ("cosmic-ray", "dev"),
    "imageio_ffmpeg": ("imageio-ffmpeg", "bench"),
    "matplotlib": ("matplotlib", "bench"),
    "onnx": ("onnx", "train"),
    "onnxscript": ("onnxscript", "train"),
    "pytest": ("pytest", "dev"),
    "skimage": ("scikit-image", "bench"),
    "skvideo": ("scikit-video", "bench"),
    "stlpips_pytorch": ("stlpips-pytorch", "bench"),
    "torch": ("torch", "train"),
}
"""Name of the package and of the extra that installs it, by importable module.

Options of pip stand before the package."""


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
    return f"needs {package.split()[-1]}: pip install {source}"


def package_file(module: str, *parts: str) -> Path:
    """Returns a file of an installed package, a key of `PACKAGES`, that is not imported.

    Such a package is read for its parameters alone: its code needs further packages, or breaks
    with the versions of constraints.txt. Raises MissingPackageError.
    """
    try:
        found = find_spec(module)
    except ImportError:
        found = None
    if found is None or found.origin is None:
        raise MissingPackageError(f"bench {needs(module)}")
    file = Path(found.origin).parent.joinpath(*parts)
    if not file.is_file():
        raise MissingPackageError(f"bench {needs(module)}; the installed one has no {file}")
    return file
