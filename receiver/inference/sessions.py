"""Opens ONNX Runtime sessions and verifies that they run on the device that was asked for."""

import ctypes
import os
from pathlib import Path
from typing import Any, TypeAlias

import onnxruntime

from receiver.cores import usable_cores
from receiver.errors import DeviceError, ModelError
from receiver.inference.devices import (
    CPU_PROVIDER,
    CUDA_PROVIDER,
    DEVICE_NAMES,
    NVINFER_LIBRARY,
    TENSORRT_PROVIDER,
    ExecutionDevice,
    device_of,
)
from receiver.inference.io_binding import BoundSession, open_bound
from receiver.inference.model_files import MODELS, Model
from receiver.inference.signature import Signature

Session: TypeAlias = onnxruntime.InferenceSession | BoundSession
"""Runs a network: `run(names, inputs)`."""


def default_threads() -> int:
    """Returns the number of threads of a run on the CPU: half of the cores, at most four.

    The other half does the rest of a call's work: a thread that waits for a core delays the run.
    """
    return max(1, min(4, usable_cores() // 2))


def open_session(
    model: Model,
    signature: Signature,
    device: ExecutionDevice,
    threads: int | None = None,
    batch: int = 1,
) -> Session:
    """Opens a model file after its hash was checked, if it is a shipped one.

    On a GPU, a network that is free in its batch alone gets fixed buffers and is warmed up; with
    CUDA it also gets CUDA graphs.

    Args:
        model: the file.
        signature: all tensors of the network, its state included.
        device: where it has to run.
        threads: of a run on the CPU; `default_threads()` if not given.
        batch: the largest batch of a run on a GPU; larger ones are split.

    Raises:
        ModelError: for an unusable file or another signature.
        DeviceError: if the session does not come up on `device`.
    """
    model.check()
    bound = device != "cpu" and signature.is_free_in_batch_only

    def opened(has_graphs: bool) -> onnxruntime.InferenceSession:
        providers = providers_for(model, signature, device, has_graphs, batch)
        session = new_session(model, device, providers, threads)
        if device_of(session) != device:  # ONNX Runtime falls back without an error
            raise DeviceError(
                f"{DEVICE_NAMES[device]} was asked for and the session came up on "
                f"{DEVICE_NAMES[device_of(session)]}: see the lines of ONNX Runtime above, or use "
                "--device cpu"
            )
        signature.check(session, model.path)
        return session

    if not bound:
        return opened(False)
    return open_bound(opened, batch, has_graphs=device == "cuda")


def new_session(
    model: Model, device: ExecutionDevice, providers: list[Any], threads: int | None
) -> onnxruntime.InferenceSession:
    """Opens an InferenceSession for `device` with the given providers.

    Raises ModelError or DeviceError.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or default_threads()
    # Spinning within a run is a quarter faster; between frames it would take the other cores
    # from the rest of the call.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        session = onnxruntime.InferenceSession(
            str(model.path), options, providers=providers, enable_fallback=0
        )
        session.disable_fallback()  # the caller has to see a run that fails, to open it again
        return session
    except Exception as error:  # ONNX Runtime's exceptions have no other common base
        if not model.path.is_file():
            raise ModelError(f"the model file {model.path} is missing") from error
        if device != "cpu":
            raise DeviceError(
                f"{model.path} cannot be opened on {DEVICE_NAMES[device]}, use --device cpu: "
                f"{(str(error).splitlines() or [repr(error)])[0]}"
            ) from error
        raise ModelError(
            f"{model.path} cannot be loaded as an ONNX model: "
            f"give one of {', '.join(MODELS)} or an ONNX file from python -m models.export"
        ) from error


def providers_for(
    model: Model, signature: Signature, device: ExecutionDevice, has_graphs: bool, batch: int
) -> list[Any]:
    """Returns the `providers` of an InferenceSession.

    Nodes that TensorRT cannot run fall to CUDA. Raises DeviceError.
    """
    if device == "cpu":
        return [CPU_PROVIDER]
    cuda = (CUDA_PROVIDER, {"enable_cuda_graph": str(int(has_graphs))})
    if device == "cuda":
        return [cuda, CPU_PROVIDER]
    tensorrt = {
        "trt_fp16_enable": "1",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(engine_cache(model)),
        **(_profiles(signature, batch) if signature.is_free_in_batch_only else {}),
    }
    return [(TENSORRT_PROVIDER, tensorrt), cuda, CPU_PROVIDER]


def _profiles(signature: Signature, batch: int) -> dict[str, str]:
    """Returns the shapes for which TensorRT builds one engine: batches from one to `batch`."""

    def profile(count: int) -> str:
        return ",".join(
            f"{name}:{'x'.join(map(str, (count, *shape[1:])))}"
            for name, shape in signature.inputs.items()
        )

    return {
        "trt_profile_min_shapes": profile(1),
        "trt_profile_opt_shapes": profile(1),
        "trt_profile_max_shapes": profile(batch),
    }


def engine_cache(model: Model) -> Path:
    """Makes and returns the folder for this file's TensorRT engines; only this user may enter it.

    ONNX Runtime names an engine after the network's structure, so files of other weights would
    share it, and another version of ONNX Runtime or TensorRT could not load it. Raises DeviceError.
    """
    version = f"{onnxruntime.__version__}-{ctypes.CDLL(NVINFER_LIBRARY).getInferLibVersion()}"
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = cache / "keyframe-receiver" / "tensorrt" / f"{model.sha256[:16]}-{version}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        raise DeviceError(f"there is no folder for TensorRT's engines: {error}") from error
    return folder
