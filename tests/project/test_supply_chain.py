"""What is installed: exact versions that are tested, none with a known hole."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LINES = (ROOT / "constraints.txt").read_text().splitlines()
PINS = dict(line.split("==") for line in LINES)

REQUIREMENTS = [
    Requirement(line)
    for line in [
        *PROJECT["build-system"]["requires"],
        *PROJECT["project"]["dependencies"],
        *(one for extra in PROJECT["project"]["optional-dependencies"].values() for one in extra),
    ]
]


def test_constraints_are_names_and_exact_versions_alone():
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in LINES)
    names = [line.split("==")[0] for line in LINES]
    assert names == sorted(set(names))
    assert "keyframe-receiver" not in names


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_every_dependency_has_an_exact_version_that_its_bounds_allow(requirement):
    pin = PINS[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(Version(pin), prereleases=True)


@pytest.mark.parametrize(
    ("system", "machine", "chosen"),
    [
        ("linux", "x86_64", "onnxruntime-gpu>=1.26"),
        ("linux", "aarch64", "onnxruntime>=1.26"),
        ("darwin", "arm64", "onnxruntime>=1.26"),
        ("darwin", "x86_64", "onnxruntime>=1.23.2"),
        ("win32", "AMD64", "onnxruntime-gpu>=1.26"),
        ("win32", "ARM64", "onnxruntime>=1.26"),
    ],
)
def test_each_system_gets_one_onnx_runtime(system, machine, chosen):
    environment = {"sys_platform": system, "platform_machine": machine}
    found = [
        f"{one.name}{one.specifier}"
        for one in map(Requirement, PROJECT["project"]["dependencies"])
        if one.name.startswith("onnxruntime")
        if one.marker is None or one.marker.evaluate(environment)
    ]
    assert found == [chosen]


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_the_project_takes_ranges_and_leaves_exact_versions_to_the_constraints(requirement):
    """An exact version here would exclude the wheels that a user needs for other hardware."""
    assert {one.operator for one in requirement.specifier} <= {">=", "<"}


def installed(name: str, extras: set[str], seen: set[tuple[str, str]]) -> Iterator[str]:
    """The names of an installed package and of all that it needs here."""
    for extra in ["", *extras]:
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            needed = distribution(name).requires or []
        except PackageNotFoundError:
            return
        yield name
        for line in map(Requirement, needed):
            if line.marker is None or line.marker.evaluate({"extra": extra}):
                yield from installed(canonicalize_name(line.name), line.extras, seen)


def test_what_the_dependencies_need_has_an_exact_version_too():
    seen: set[tuple[str, str]] = set()
    found = {
        name
        for requirement in REQUIREMENTS
        for name in installed(canonicalize_name(requirement.name), requirement.extras, seen)
    }
    assert {"numpy", "cryptography", "multidict"} <= found
    assert found <= set(PINS)


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_what_is_installed_keeps_the_bounds(requirement):
    try:
        found = distribution(requirement.name).version
    except PackageNotFoundError:  # of another platform, or of an extra that tests do not need
        return
    assert requirement.specifier.contains(Version(found), prereleases=True)


@pytest.mark.parametrize(
    ("name", "with_hole", "identifier"),
    [
        ("aiohttp", "3.12.13", "CVE-2025-53643"),
        ("aiohttp", "3.13.2", "CVE-2025-69223"),
        ("aiohttp", "3.14.0", "CVE-2026-54278"),
        ("opencv-python", "4.8.0.76", "CVE-2023-4863"),
        ("opencv-python", "4.11.0.86", "CVE-2025-53644"),
        ("onnx", "1.16.1", "CVE-2024-5187"),
        ("onnx", "1.20.1", "CVE-2026-34445"),
        ("setuptools", "78.1.0", "CVE-2025-47273"),
        ("setuptools", "82.0.1", "CVE-2026-59890"),
        ("wheel", "0.46.1", "CVE-2026-24049"),
        ("pytest", "9.0.2", "CVE-2025-71176"),
    ],
)
def test_versions_with_known_holes_are_out_of_bounds(name, with_hole, identifier):
    matching = [one for one in REQUIREMENTS if one.name == name]
    assert matching
    for requirement in matching:
        assert not requirement.specifier.contains(with_hole), identifier


@pytest.mark.parametrize("file", ["Dockerfile", "Makefile"])
def test_everything_is_installed_by_the_constraints(file):
    lines = [line for line in (ROOT / file).read_text().splitlines() if "pip install" in line]
    assert lines
    for line in lines:
        assert "PIP_CONSTRAINT=" in line or "--constraint" in line


def test_nothing_is_noted_in_the_users_home(tmp_path):
    """ONNX Runtime notes a device ID for its telemetry there unless telemetry is disabled."""
    script = "from receiver import Generator; Generator('lite', 'cpu').warm_up()"
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    subprocess.run([sys.executable, "-c", script], env=environment | home, cwd=ROOT, check=True)
    assert list(tmp_path.rglob("*")) == []
