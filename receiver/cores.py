"""The cores that this process may use, by its affinity and its CPU quota, and threads to match.

`docker run --cpus 2`, a CPU limit of Kubernetes and systemd's CPUQuota= set a quota: the kernel
stops a process that has used it up until the next period, of 100 ms. Threads that share too small
a quota wait for each other there, in the middle of a frame.
"""

import math
import os
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path, PurePosixPath

import cv2

MOST_CODEC_THREADS = 16
"""Most threads of a codec: what FFmpeg starts by itself at most."""


def usable_cores(root: Path = Path("/")) -> int:
    """Returns the number of cores that this process may use, at least 1.

    A quota counts in whole cores: the thread on a part of one would often be stopped.

    Args:
        root: the folder that contains `proc` and `sys`.
    """
    quota, cores = cpu_quota(root), scheduled_cores()
    return cores if quota is None else max(1, min(cores, math.floor(quota)))


def scheduled_cores() -> int:
    """Returns on how many cores the scheduler may run this process, without its quota."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_quota(root: Path = Path("/")) -> Fraction | None:
    """Returns the CPU time per time, in cores, that control groups (cgroups) allow this process.

    Limits of several groups, each within the next, hold together: the smallest counts. Without a
    limit, and on systems without control groups, it is None.

    Args:
        root: the folder that contains `proc` and `sys`.
    """
    return min((quota for group in _groups(root) for quota in _quotas(group)), default=None)


def codec_threads() -> int:
    """Returns the `thread_count` of a codec: 0, FFmpeg's own choice, unless a quota is smaller.

    FFmpeg counts the cores of the affinity and knows nothing of quotas.
    """
    cores = usable_cores()
    return 0 if cores == scheduled_cores() else min(cores, MOST_CODEC_THREADS)


def limit_opencv() -> None:
    """Makes OpenCV use no more threads than the process may use cores; for a program's start."""
    cv2.setNumThreads(min(cv2.getNumThreads(), usable_cores()))


def _groups(root: Path) -> Iterator[Path]:
    """Yields the folders of this process's control groups that may limit its CPU time.

    Each group is followed by those around it, as far as they can be seen from here. Version 2 has
    one hierarchy of groups, version 1 one per controller; a system may have both.
    """
    places = {}
    for line in _lines(root / "proc/self/cgroup"):  # cgroups(7)
        hierarchy, controllers, place = (*line.split(":", 2), "", "")[:3]
        if hierarchy == "0":
            places["cgroup2"] = PurePosixPath(place)
        elif "cpu" in controllers.split(","):
            places["cgroup"] = PurePosixPath(place)
    for line in _lines(root / "proc/self/mountinfo"):  # proc_pid_mountinfo(5)
        mount, _, system = (field.split() for field in line.partition(" - "))
        if len(mount) < 5 or len(system) < 3 or system[0] not in places:
            continue
        if system[0] == "cgroup" and "cpu" not in system[2].split(","):
            continue
        group, mounted = places[system[0]], _unescaped(mount[3])
        # A container may see its own group alone, while its path starts at the host's root.
        inner = group.relative_to(mounted) if group.is_relative_to(mounted) else PurePosixPath()
        top = root / _unescaped(mount[4]).lstrip("/")
        yield from (top / one for one in (inner, *inner.parents) if ".." not in one.parts)


def _quotas(group: Path) -> Iterator[Fraction]:
    """Yields the limit of a control group in cores, if it has one.

    Version 2 has quota and period in microseconds in one file, or `max` instead of the quota;
    version 1 in two, or -1 instead of the quota.
    """
    fields = [field for line in _lines(group / "cpu.max") for field in line.split()]
    if not fields:
        parts = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        fields = [field for part in parts for field in _lines(group / part)]
    if len(fields) == 2 and all(field.isdecimal() and int(field) for field in fields):
        yield Fraction(int(fields[0]), int(fields[1]))


def _lines(file: Path) -> list[str]:
    """Returns the lines of a file; none if it cannot be read."""
    try:
        text = file.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return []
    return text.removesuffix("\n").split("\n")  # a group's name may hold any other separator


def _unescaped(path: str) -> str:
    """Returns a path of mountinfo, in which a space is `\\040`, with its real characters."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)
