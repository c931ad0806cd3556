"""Threads of the commands that train and export."""

from importlib import import_module

import cv2
import pytest
import torch

from models import prepare
from models.threads import limit_threads
from receiver import cores
from receiver.cores import limit_opencv


class EnoughError(Exception):
    pass


@pytest.mark.parametrize(("quota", "threads"), [(1.0, 1), (2.9, 2), (None, 3), (8, 3)])
def test_pytorch_and_opencv_keep_to_the_quota(monkeypatch, quota, threads):
    before = torch.get_num_threads(), cv2.getNumThreads()
    monkeypatch.setattr(cores, "scheduled_cores", lambda: 32)
    monkeypatch.setattr(cores, "cpu_quota", lambda root=None: quota)
    try:
        torch.set_num_threads(3)
        cv2.setNumThreads(3)
        limit_threads()
        assert (torch.get_num_threads(), cv2.getNumThreads()) == (threads, threads)
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("export", ["RUN"]),
        ("features", ["DATA", "FILE"]),
        ("narrow", ["CONFIG", "DATA", "ONNX", "OUT"]),
        ("train", ["CONFIG", "DATA", "OUT"]),
    ],
)
def test_each_command_starts_with_it(monkeypatch, command, arguments):
    module = import_module(f"models.{command}")

    def enough() -> None:
        raise EnoughError

    monkeypatch.setattr(module, "limit_threads", enough)
    monkeypatch.setattr("sys.argv", [f"models.{command}", *arguments])
    with pytest.raises(EnoughError):
        module.main()


def test_each_process_that_prepares_crops_limits_opencv(monkeypatch, tmp_path):
    def pool(jobs, initializer):
        assert (jobs, initializer) == (2, limit_opencv)
        raise EnoughError

    (tmp_path / "talk.mp4").touch()
    monkeypatch.setattr(prepare, "ProcessPoolExecutor", pool)
    monkeypatch.setattr("sys.argv", ["models.prepare", str(tmp_path), str(tmp_path / "out")])
    with pytest.raises(EnoughError):
        prepare.main()
