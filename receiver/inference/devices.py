"""Execution devices: names, ONNX Runtime's providers for them, and why one cannot be used here."""

import contextlib
import ctypes
import importlib
import io
import sys
from typing import Any, Literal, TypeAlias

import onnxruntime

from receiver.errors import DeviceError

ExecutionDevice: TypeAlias = Literal["cpu", "cuda", "tensorrt"]
"""The device on which a network runs."""
Device: TypeAlias = Literal["auto"] | ExecutionDevice
"""The device that was asked for; `auto` is CUDA if this machine has it, else the CPU."""

CPU_PROVIDER, CUDA_PROVIDER, TENSORRT_PROVIDER = (
    f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt")
)
DEVICES: dict[str, ExecutionDevice] = {CUDA_PROVIDER: "cuda", TENSORRT_PROVIDER: "tensorrt"}
"""Execution devices by provider; every other provider counts as the CPU."""
DEVICE_NAMES = {"cpu": "the CPU", "cuda": "CUDA", "tensorrt": "TensorRT"}
"""Names of the execution devices in messages."""
NVINFER_LIBRARY = "nvinfer_10.dll" if sys.platform == "win32" else "libnvinfer.so.10"
"""TensorRT's library, in the version that ONNX Runtime is built for."""


def device_of(session: Any) -> ExecutionDevice:
    """Returns the device on which an InferenceSession or BoundSession runs."""
    return DEVICES.get(session.get_providers()[0], "cpu")


def usable_device(asked: Device) -> ExecutionDevice:
    """Returns the device on which to open a network: CUDA or the CPU for `auto`.

    Raises DeviceError if CUDA or TensorRT is asked for and cannot be used.
    """
    wanted: ExecutionDevice = "cuda" if asked == "auto" else asked
    problem = device_problem(wanted)
    if problem is None:
        return wanted
    if asked == "auto":
        return "cpu"
    raise DeviceError(f"{DEVICE_NAMES[wanted]} was asked for and is not available: {problem}")


def device_problem(device: ExecutionDevice) -> str | None:
    """Returns why `device` cannot be used here and the way out, or None if it can be used."""
    return {"cpu": lambda: None, "cuda": cuda_problem, "tensorrt": tensorrt_problem}[device]()


def tensorrt_problem() -> str | None:
    """Returns why TensorRT cannot be used here and the way out, or None if it can be used."""
    if TENSORRT_PROVIDER not in onnxruntime.get_available_providers():
        return "this build of ONNX Runtime has no TensorRT (pip install 'keyframe-receiver[gpu]')"
    problem = cuda_problem()
    if problem:
        return problem
    with contextlib.suppress(ImportError):  # TensorRT's own package, which loads its libraries
        importlib.import_module("tensorrt_libs")
    try:
        ctypes.CDLL(NVINFER_LIBRARY)
    except OSError:
        return (
            f"{NVINFER_LIBRARY} was not found "
            "(pip install 'tensorrt-cu13<11', or use --device cuda)"
        )
    return None


def cuda_problem() -> str | None:
    """Returns why CUDA cannot be used here and the way out, or None if it can be used."""
    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        return "this build of ONNX Runtime has no CUDA (pip install 'keyframe-receiver[gpu]')"
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return "no NVIDIA driver was found (use --device cpu, or install the driver)"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):  # it prints its failures and raises nothing
        onnxruntime.preload_dlls()
    missing = [line for line in printed.getvalue().splitlines() if line.startswith("Failed")]
    if missing:
        return f"{missing[0]} (pip install 'keyframe-receiver[gpu]')"
    return None
