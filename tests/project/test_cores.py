"""Cores by affinity and by the CPU quotas of control groups, in drawn and in real groups."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import pytest

from bench import __main__ as bench
from receiver import cores
from receiver.commands import cli, doctor
from receiver.cores import (
    codec_threads,
    cpu_quota,
    limit_opencv,
    scheduled_cores,
    usable_cores,
)
from receiver.inference.sessions import default_threads
from receiver.media.encoding import open_decoder
from receiver.media.files.reading import VideoReader
from receiver.media.files.writing import add_h264

V2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "30 23 0:27 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
    "31 23 0:28 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 master:2 - cgroup cgroup rw,cpu,cpuacct\n"
)
OTHERS = (
    "23 1 254:0 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
    "24 23 0:5 / /proc rw,relatime - proc proc rw\n"
    "short line\n"
    "31 23 0:28 / - cgroup2 cgroup2 rw\n"
    "31 23 0:28 / /sys/fs/cgroup rw - cgroup2\n"
    "31 23 0:28 / /sys/fs/cgroup rw -\n"
)


@pytest.fixture
def system(tmp_path):
    """A function that draws a system: the process's groups, the mounts, and files by their path."""

    def drawn(groups: str, mounts: str, **files: str) -> Path:
        own = tmp_path / "proc/self"
        own.mkdir(parents=True)
        (own / "cgroup").write_text(groups)
        (own / "mountinfo").write_text(OTHERS + mounts)
        for path, text in files.items():
            file = tmp_path / "sys/fs/cgroup" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path

    return drawn


@pytest.mark.parametrize(
    ("limit", "quota"),
    [
        ("200000 100000\n", 2),
        ("250000 100000\n", Fraction(5, 2)),
        ("50000 100000\n", Fraction(1, 2)),
        ("100000 50000\n", 2),
        ("max 100000\n", None),
        ("", None),
        ("\n", None),
        ("200000\n", None),
        ("200000 0\n", None),
        ("much 100000\n", None),
    ],
)
def test_the_quota_of_version_2(system, limit, quota):
    """A container sees its own group as the root."""
    assert cpu_quota(system("0::/\n", V2, **{"cpu.max": limit})) == quota


@pytest.mark.parametrize(
    ("limit", "period", "quota"),
    [
        ("150000\n", "100000\n", Fraction(3, 2)),
        ("200000\n", "50000\n", 4),
        ("-1\n", "100000\n", None),
        ("200000\n", "", None),
    ],
)
def test_the_quota_of_version_1(system, limit, period, quota):
    folder = "cpu,cpuacct/calls/"
    root = system(
        "3:cpuacct,cpu:/calls\n2:cpuset:/other\n1:name=systemd:/\n",
        V1,
        **{folder + "cpu.cfs_quota_us": limit, folder + "cpu.cfs_period_us": period},
        # Of other groups and controllers:
        **{"cpu,cpuacct/other/cpu.cfs_quota_us": "100000"},
        **{"cpu,cpuacct/other/cpu.cfs_period_us": "100000"},
        **{"cpuset/cpu.cfs_quota_us": "100000", "cpuset/cpu.cfs_period_us": "100000"},
    )
    assert cpu_quota(root) == quota


@pytest.mark.parametrize(
    ("limits", "quota"),
    [
        (("max", "300000", "max"), 3),
        (("200000", "300000", "400000"), 2),
        (("400000", "200000", "300000"), 2),
        (("400000", "300000", "200000"), 2),
        (("max", "max", "max"), None),
    ],
)
def test_the_smallest_limit_of_nested_groups_counts(system, limits, quota):
    folders = ("", "calls.slice/", "calls.slice/receiver.service/")
    files = {
        f"{folder}cpu.max": f"{limit} 100000\n"
        for folder, limit in zip(folders, limits, strict=True)
    }
    beside = {"calls.slice/other.service/cpu.max": "100000 100000"}
    root = system("0::/calls.slice/receiver.service\n", V2, **files, **beside)
    assert cpu_quota(root) == quota


def test_a_group_without_the_controller_is_skipped(system):
    """Only groups in which `cpu` is enabled have the file; the root never has."""
    root = system("0::/slice/service\n", V2, **{"slice/cpu.max": "300000 100000"})
    assert cpu_quota(root) == 3


def test_both_versions_at_once(system):
    """A hybrid system has the controller in version 1; the smallest limit counts anyway."""
    mounts = V1 + V2.replace("/sys/fs/cgroup ", "/sys/fs/cgroup/unified ")
    v1 = {"cpu,cpuacct/a/cpu.cfs_quota_us": "300000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"}
    root = system("3:cpu,cpuacct:/a\n0::/b\n", mounts, **v1, **{"unified/b/cpu.max": "max 100000"})
    assert cpu_quota(root) == 3
    (root / "sys/fs/cgroup/unified/b/cpu.max").write_text("200000 100000")
    assert cpu_quota(root) == 2


@pytest.mark.parametrize(
    ("group", "mounted"),
    [
        ("/docker/0f", "/docker/0f"),  # the container's own group is mounted
        ("/docker/0f/inner", "/docker/0f"),
        ("/docker/0f", "/docker"),
        ("/docker/0f", "/elsewhere"),  # the paths say nothing of each other
        ("/../0f", "/"),  # a process outside the root of its namespace
    ],
)
def test_a_container_finds_its_group_at_the_mount(system, group, mounted):
    mount = V2.replace(" / /sys", f" {mounted} /sys")
    root = system(f"0::{group}\n", mount, **{"cpu.max": "200000 100000"})
    assert cpu_quota(root) == 2


def test_a_group_within_the_one_that_is_mounted(system):
    """As of a process that a container's init put into a group of its own."""
    limits = {"cpu.max": "400000 100000", "inner/cpu.max": "200000 100000"}
    mount = V2.replace(" / /sys", " /docker/0f /sys")
    assert cpu_quota(system("0::/docker/0f/inner\n", mount, **limits)) == 2


def test_a_group_outside_the_mount_is_not_read(system):
    root = system("0::/../0f\n", V2, **{"../0f/cpu.max": "200000 100000"})
    assert cpu_quota(root) is None


def test_names_with_spaces_and_colons(system):
    mount = V2.replace("/sys/fs/cgroup ", "/sys/fs/cgroup/my\\040groups ")
    root = system("0::/a:b c\n", mount, **{"my groups/a:b c/cpu.max": "200000 100000"})
    assert cpu_quota(root) == 2


def test_a_system_without_control_groups_has_no_quota(tmp_path, system):
    """As macOS and Windows, and a Linux on which no controller is mounted."""
    assert cpu_quota(tmp_path) is None
    assert usable_cores(tmp_path) == scheduled_cores()
    assert cpu_quota(system("\nodd\n0::/\n3:cpu:/\n", "")) is None


@pytest.mark.parametrize(
    ("quota", "scheduled", "usable"),
    [
        ("50000", 8, 1),  # half a core
        ("100000", 8, 1),
        ("199000", 8, 1),
        ("200000", 8, 2),
        ("350000", 8, 3),
        ("1200000", 8, 8),
        ("200000", 1, 1),
        ("max", 8, 8),
    ],
)
def test_the_fewer_of_quota_and_affinity_in_whole_cores(
    system, monkeypatch, quota, scheduled, usable
):
    monkeypatch.setattr(cores, "scheduled_cores", lambda: scheduled)
    assert usable_cores(system("0::/\n", V2, **{"cpu.max": f"{quota} 100000"})) == usable


def test_the_affinity_counts(monkeypatch):
    """Elsewhere there is none: then all cores count, and one if their number is unknown."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 5, 7}, raising=False)
    assert scheduled_cores() == 3
    monkeypatch.delattr("os.sched_getaffinity")
    for counted, cores_ in ((6, 6), (None, 1)):
        monkeypatch.setattr("os.cpu_count", lambda counted=counted: counted)
        assert scheduled_cores() == cores_


@pytest.fixture
def of_32(monkeypatch):
    """A function that gives this process a quota, on 32 cores."""

    def limit(quota: float | None) -> None:
        monkeypatch.setattr(cores, "scheduled_cores", lambda: 32)
        monkeypatch.setattr(cores, "cpu_quota", lambda root=None: quota)

    return limit


@pytest.mark.parametrize(("quota", "threads"), [(None, 4), (1.0, 1), (2.5, 1), (6.0, 3)])
def test_the_generator_takes_half_of_the_quota(of_32, quota, threads):
    of_32(quota)
    assert default_threads() == threads


@pytest.mark.parametrize(("quota", "threads"), [(None, 0), (32, 0), (2.5, 2), (0.5, 1), (24, 16)])
def test_a_codec_starts_no_more_threads_than_the_quota_allows(of_32, quota, threads):
    of_32(quota)
    assert codec_threads() == threads
    assert open_decoder().thread_count == threads


def test_files_are_read_and_written_by_no_more_threads(of_32, clip):
    of_32(2.5)
    for side_data in (False, True):
        with VideoReader(clip, side_data=side_data) as reader:
            assert reader.video.codec_context.thread_count == 2
    with av.open(io.BytesIO(), "w", "mp4") as container:
        stream = add_h264(container, (64, 48), Fraction(30), Fraction(1, 30), 20, "veryfast")
        assert stream.codec_context.thread_count == 2


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Lets OpenCV use two threads."""
    usual = cv2.getNumThreads()
    cv2.setNumThreads(2)
    yield
    cv2.setNumThreads(usual)


@pytest.mark.parametrize(("quota", "threads"), [(1.5, 1), (None, 2), (8, 2)])
def test_opencv_takes_no_more_threads_than_the_quota_allows(two_threads, of_32, quota, threads):
    of_32(quota)
    limit_opencv()
    assert cv2.getNumThreads() == threads


def test_commands_and_benches_limit_opencv(two_threads, of_32, monkeypatch):
    of_32(1.0)
    monkeypatch.setattr(doctor, "examine", lambda *_: [])
    assert cli.run(["doctor", "--json"]) == 0
    assert cv2.getNumThreads() == 1
    cv2.setNumThreads(2)
    used: list[int] = []
    measure = SimpleNamespace(main=lambda _: used.append(cv2.getNumThreads()))
    monkeypatch.setattr(bench, "import_module", lambda _: measure)
    monkeypatch.setattr("sys.argv", ["bench", "soak"])
    assert bench._load()() == 0
    assert used == [1]


@pytest.mark.parametrize(
    ("quota", "says"),
    [
        (None, "32"),
        (Fraction(40), "32"),
        (Fraction(5, 2), "2 of 32, by a CPU quota of 2.5"),
        (Fraction(1, 4), "1 of 32, by a CPU quota of 0.25"),
    ],
)
def test_doctor_shows_cores_and_a_smaller_quota(of_32, monkeypatch, quota, says):
    of_32(quota)
    monkeypatch.setattr(doctor, "scheduled_cores", lambda: 32)
    monkeypatch.setattr(doctor, "cpu_quota", lambda: quota)
    assert doctor._cores() == says


# A real group


IN_THE_GROUP = """
import json, sys
from pathlib import Path
Path(sys.argv[1], "cgroup.procs").write_text("0")
import cv2
from receiver.cores import cpu_quota, limit_opencv, scheduled_cores, usable_cores
limit_opencv()
print(json.dumps([float(cpu_quota()), scheduled_cores(), usable_cores(), cv2.getNumThreads()]))
"""


@pytest.fixture
def real_groups() -> Iterator[tuple[Path, Path]]:
    """Two groups of this system, one within the other, without limits."""
    version_1 = Path("/sys/fs/cgroup/cpu")
    top = version_1 if version_1.exists() else version_1.parent
    outer = top / f"receiver-test-{os.getpid()}"
    made: list[Path] = []
    try:
        for group in (outer, outer / "inner"):
            group.mkdir()
            made.append(group)
            if top != version_1 and group == outer:
                (group / "cgroup.subtree_control").write_text("+cpu")
        limit(outer / "inner", 400_000)
        limit(outer / "inner", None)
        yield outer, outer / "inner"
    except OSError as error:
        pytest.skip(f"needs control groups that can be changed: {error}")
    finally:
        for group in reversed(made):
            group.rmdir()


def limit(group: Path, quota: int | None) -> None:
    """Sets the microseconds of 100 ms that a group may use."""
    if (group / "cpu.cfs_quota_us").exists():
        (group / "cpu.cfs_quota_us").write_text(str(quota or -1))
    else:
        # Not as a new file: a folder that is no group has none.
        with (group / "cpu.max").open("r+") as file:
            file.write(f"{quota or 'max'} 100000")


def test_the_quota_of_a_real_group(real_groups):
    outer, inner = real_groups
    for group, quota, effective in ((outer, 150_000, 1.5), (inner, 50_000, 0.5)):
        limit(group, quota)
        command = [sys.executable, "-c", IN_THE_GROUP, str(inner)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        assert json.loads(done.stdout) == [effective, scheduled_cores(), 1, 1]
