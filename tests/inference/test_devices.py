"""Execution devices: what is missing on this machine is said with the way out."""

import onnxruntime
import pytest

from receiver.errors import DeviceError
from receiver.inference.devices import (
    cuda_problem,
    device_problem,
    tensorrt_problem,
    usable_device,
)


def test_the_cpu_can_always_be_used():
    assert device_problem("cpu") is None


def test_a_build_without_cuda_says_what_to_install(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    for problem in (cuda_problem(), tensorrt_problem()):
        assert "pip install 'keyframe-receiver[gpu]'" in str(problem)
    assert device_problem("cuda") == cuda_problem()
    assert device_problem("tensorrt") == tensorrt_problem()


def test_a_machine_without_a_driver_says_so(monkeypatch):
    providers = ["CUDAExecutionProvider", "TensorrtExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    if cuda_problem() is None:
        pytest.skip("CUDA is here, so its absence cannot be seen")
    assert "no NVIDIA driver was found (use --device cpu" in str(cuda_problem())
    assert tensorrt_problem() == cuda_problem()


@pytest.fixture
def driver(monkeypatch) -> None:
    """An NVIDIA driver and a build with CUDA, whose other libraries may be missing."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr("receiver.inference.devices.ctypes.CDLL", lambda name: None)


def test_cuda_libraries_that_do_not_load_are_named(driver, monkeypatch, capsys):
    """ONNX Runtime prints its failures, and raises nothing."""
    lines = (
        "Loaded libcudart.so.13",
        "Failed to load libcudnn.so.9: cannot open",
        "Failed to load x",
    )
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print(*lines, sep="\n"))
    assert cuda_problem() == (
        "Failed to load libcudnn.so.9: cannot open (pip install 'keyframe-receiver[gpu]')"
    )
    assert usable_device("auto") == "cpu"
    assert capsys.readouterr().out == ""


def test_the_cuda_libraries_are_loaded_before_cuda_counts_as_usable(driver, monkeypatch):
    loaded = []
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: loaded.append("CUDA"))
    assert usable_device("auto") == "cuda"
    assert loaded == ["CUDA"]


def test_a_missing_tensorrt_says_what_to_install(monkeypatch):
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["TensorrtExecutionProvider"]
    )
    monkeypatch.setattr("receiver.inference.devices.cuda_problem", lambda: None)
    monkeypatch.setattr("receiver.inference.devices.NVINFER_LIBRARY", "libnosuch.so.10")
    problem = str(tensorrt_problem())
    assert problem.startswith("libnosuch.so.10 was not found")
    assert "pip install 'tensorrt-cu13<11'" in problem


def test_auto_is_cuda_if_it_can_be_used_or_else_the_cpu(monkeypatch):
    monkeypatch.setattr("receiver.inference.devices.cuda_problem", lambda: None)
    assert usable_device("auto") == "cuda"
    assert usable_device("cuda") == "cuda"
    monkeypatch.setattr("receiver.inference.devices.cuda_problem", lambda: "no driver")
    assert usable_device("auto") == "cpu"
    assert usable_device("cpu") == "cpu"


@pytest.mark.parametrize(("device", "name"), [("cuda", "CUDA"), ("tensorrt", "TensorRT")])
def test_a_gpu_that_was_asked_for_and_cannot_be_used_is_an_error(monkeypatch, device, name):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceError, match=f"{name} was asked for and is not available: this build"):
        usable_device(device)
