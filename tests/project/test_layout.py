"""The rooms of the project: which may import which, and how large files and folders may get."""

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("receiver", "keyframes", "models", "bench", "tests", "examples")
MOST_LINES = 400
"""Lines of a Python file."""
MOST_MODULES = 14
"""Python files in a folder, `__init__.py` included."""

ROOMS = {
    # Each room may import itself, the modules at the top of receiver/, and these:
    "commands": "calls sending signalling stills enhance transport inference media keyframes",
    "calls": "signalling stills enhance transport inference media keyframes",
    "sending": "signalling stills enhance transport media keyframes",
    "signalling": "transport",
    "stills": "transport media",
    "enhance": "inference media keyframes",
    "transport": "media",
    "inference": "",
    "media": "",
    "top": "",
    "keyframes": "",  # the one that may not even import the top of receiver/
}
LIBRARIES = {
    # Only these rooms may import the library:
    "aiohttp": "calls signalling",
    "aiortc": "commands calls sending signalling stills transport",
    "aioice": "transport",
    "rich": "commands",
    "torch": "",
    "models": "",
    "bench": "",
    "tests": "",
}
ENTRIES = {"receiver", "receiver.__main__"}
"""They load the public names and the command line, from whichever room."""


def python_files(*folders: str) -> list[Path]:
    """Finds the Python files of folders; not those of Node packages, which npm installs."""
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in found if "node_modules" not in path.parts)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in python_files("receiver", "keyframes")}


def room_of(module: str) -> str:
    """Names the room that a module of ours is in."""
    first, *rest = module.split(".")
    if first != "receiver":
        return first
    return rest[0] if rest and (ROOT / "receiver" / rest[0]).is_dir() else "top"


def imports(source: str) -> Iterator[str]:
    """Yields what a module imports anywhere in its text, even for types alone.

    Of `from package import name` it is `package.name` if that is a module.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else str(node.module)


def wrong_imports(module: str, source: str) -> list[str]:
    """Lists the imports of a module that `ROOMS` and `LIBRARIES` do not allow."""
    room, wrong = room_of(module), []
    for name in imports(source):
        if name in MODULES:
            other = room_of(name)
            allowed = {room, *ROOMS[room].split()} | ({"top"} if room != "keyframes" else set())
            if other not in allowed:
                wrong.append(name)
        elif room not in LIBRARIES.get(name.split(".")[0], room).split():
            wrong.append(name)
    return wrong


def test_every_room_is_in_the_table():
    assert {room_of(module) for module in MODULES} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_the_table_allows(room):
    found = {
        module: wrong
        for module, path in MODULES.items()
        if room_of(module) == room and module not in ENTRIES
        if (wrong := wrong_imports(module, path.read_text(encoding="utf-8")))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("module", "line", "wrong"),
    [
        (
            "receiver.media.frame",
            "from receiver.enhance import quality",
            "receiver.enhance.quality",
        ),
        ("receiver.media.frame", "import receiver.calls.track", "receiver.calls.track"),
        ("receiver.stats", "from receiver.media import frame", "receiver.media.frame"),
        ("receiver.enhance.quality", "def f():\n    from aiortc import mediastreams", "aiortc"),
        ("receiver.enhance.quality", "if TYPE_CHECKING:\n    import aioice.ice", "aioice.ice"),
        (
            "receiver.stills.protocol",
            "from receiver.enhance import quality",
            "receiver.enhance.quality",
        ),
        ("receiver.calls.track", "import models.train", "models.train"),
        ("receiver.calls.track", "from bench import clips", "bench"),
        ("keyframes.people", "from receiver.errors import InputError", "receiver.errors"),
    ],
)
def test_a_wrong_import_is_found(module, line, wrong):
    assert wrong_imports(module, line) == [wrong]


def test_keyframes_needs_numpy_and_opencv_alone():
    allowed = {*sys.stdlib_module_names, "numpy", "cv2", "keyframes"}
    for module, path in MODULES.items():
        if room_of(module) == "keyframes":
            source = path.read_text(encoding="utf-8")
            assert {name.split(".")[0] for name in imports(source)} <= allowed, module


def test_no_modules_import_each_other_in_a_circle():
    graph = {
        module: {name for name in imports(path.read_text(encoding="utf-8")) if name in MODULES}
        for module, path in MODULES.items()
        if module not in ENTRIES
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_file_is_too_long(folder):
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in python_files(folder)
    }
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_folder_has_too_many_modules(folder):
    parents = [str(path.parent.relative_to(ROOT)) for path in python_files(folder)]
    counts = {parent: parents.count(parent) for parent in set(parents)}
    assert {parent: count for parent, count in counts.items() if count > MOST_MODULES} == {}
