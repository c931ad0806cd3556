"""Benches on a machine that lacks optional packages: in processes that cannot import them."""

import os
import subprocess
import sys

import pytest

from bench.__main__ import BENCHES
from bench.command_line import PACKAGES, MissingPackageError, require

HIDING = """
import sys

class Hiding:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {hidden}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hiding())
"""
RUN = """
import runpy
sys.argv[0] = "bench"
runpy.run_module("bench", run_name="__main__")
"""
HELP_OF_ALL = """
from importlib import import_module
from bench.__main__ import BENCHES
for name, module in BENCHES.items():
    try:
        import_module(module).main(["--help"])
    except SystemExit as end:
        print("exit", name, end.code)
"""
NEEDS = """
from importlib import import_module
from bench.__main__ import BENCHES
from bench.command_line import MissingPackageError
for name, module in BENCHES.items():
    needed = {"golden": ["--against", "."], "latency": ["--against", "paper"]}
    folder = [] if name in ("browser", "calls", "files", "fuzz", "mutation", "soak") else ["."]
    try:
        import_module(module).main(needed.get(name, folder))
    except MissingPackageError as error:
        print(error)
"""


def without(hidden: set[str], program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a program that cannot import the hidden packages."""
    return subprocess.run(
        [sys.executable, "-c", HIDING.format(hidden=hidden) + program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )


def test_every_help_works_with_the_runtime_dependencies_alone():
    result = without(set(PACKAGES), HELP_OF_ALL)
    assert result.stderr == ""
    exits = [line for line in result.stdout.splitlines() if line.startswith("exit ")]
    assert exits == [f"exit {name} 0" for name in BENCHES]


def test_every_bench_names_the_missing_package_before_the_work():
    printed = without(set(PACKAGES), NEEDS).stdout.splitlines()
    bench, train = "'keyframe-receiver[bench]'", "'keyframe-receiver[train]'"
    assert printed == [
        f"bench bitrate needs imageio-ffmpeg: pip install {bench}",
        f"bench browser needs scikit-image: pip install {bench}",
        f"bench calls needs matplotlib: pip install {bench}",
        f"bench files needs scikit-image: pip install {bench}",
        f"bench fuzz needs scikit-image: pip install {bench}",
        f"bench golden needs scikit-image: pip install {bench}",
        f"bench identity needs matplotlib: pip install {bench}",
        f"bench latency --against paper needs torch: pip install {train}",
        "bench mutation needs cosmic-ray: pip install 'keyframe-receiver[dev]'",
        f"bench quality needs imageio-ffmpeg: pip install {bench}",
        f"bench references needs imageio-ffmpeg: pip install {bench}",
        f"bench soak needs matplotlib: pip install {bench}",
    ]


def test_a_missing_package_is_one_sentence_and_exit_1():
    result = without({"matplotlib"}, RUN, "quality", ".")
    assert result.returncode == 1
    assert result.stderr == (
        "bench quality needs matplotlib: pip install 'keyframe-receiver[bench]'\n"
    )


def test_latency_needs_no_more_than_the_demo(tmp_path):
    figures, plot = tmp_path / "latency.json", tmp_path / "latency.png"
    files = ["--json", str(figures), "--plot", str(plot)]
    result = without(set(PACKAGES) - {"skimage"}, RUN, "latency", "--frames", "2", *files)
    assert result.returncode == 0, result.stderr
    assert "no plot: it needs matplotlib: pip install 'keyframe-receiver[bench]'" in result.stdout
    assert figures.exists()
    assert not plot.exists()


def test_a_package_outside_the_extras_is_installed_by_its_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "atheris", None)  # an import of it fails
    with pytest.raises(
        MissingPackageError, match=r"^bench fuzz needs atheris: pip install atheris$"
    ):
        require("fuzz", "atheris")
