"""The exported generator in an ONNX Runtime session, on the device that was asked for."""

import contextlib
import ctypes
import importlib
import io
import json
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Literal, TypeAlias

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from receiver.enhance.faces.alignment import CROP, shifted
from receiver.errors import DeviceError, ModelError
from receiver.hashes import file_sha256
from receiver.inference.io_binding import BoundSession, open_bound
from receiver.inference.request_queue import InferenceQueue, QueueClosedError

logger = logging.getLogger(__name__)

ExecutionDevice: TypeAlias = Literal["cpu", "cuda", "tensorrt"]
"""Where a network runs."""
Device: TypeAlias = Literal["auto"] | ExecutionDevice
"""Where it is asked for; `auto` is CUDA where that is there, else the CPU."""

WEIGHTS = Path(__file__).parents[2] / "weights"
MODELS = ("lite",)
"""Names of the shipped generators. WEIGHTS holds the same network twice, NAME.onnx in floating
point for GPUs, NAME-int8.onnx and NAME-int8-align.onnx for CPUs, and their card NAME.json."""
INT8 = "-int8"
ALIGN = "-align"
"""Ends the name of a file that gives the flow for the generator of the same name without it."""

CHANNELS = {"degraded": 3, "reference": 3, "landmarks": 1}
"""The inputs of every generator: Nx{channels}x256x256 float32; the output is `restored`. An aligner
has the same inputs and gives `flow`, Nx2xhxw, by which the reference is moved, in crop pixels."""

BATCH = 8
"""Faces in one run at most, if several calls share a generator: two calls of four."""
WAITS_FOR_ANOTHER = 5.0
"""Seconds for which a rebuild waits for another that is under way; one that hangs is left alone."""


@dataclass(frozen=True)
class Model:
    """A generator's file, before it is loaded."""

    name: str
    path: Path

    @classmethod
    def find(cls, name: str, on_gpu: bool = False) -> "Model":
        """A shipped generator by its name, or any ONNX file by its path.

        Raises ModelError if it is neither.
        """
        if name in MODELS:
            return cls(name, WEIGHTS / f"{name}{'' if on_gpu else INT8}.onnx")
        path = Path(name)
        if path.is_file():
            return cls(path.stem.removesuffix(INT8), path)
        raise ModelError(
            f"there is no model {name!r}: "
            f"give one of {', '.join(MODELS)} or the path of an ONNX file"
        )

    @property
    def aligner(self) -> "Model | None":
        """The file that the reference has to be moved by first; None where the card names none."""
        path = self.path.with_name(f"{self.path.stem}{ALIGN}.onnx")
        named = path.name in ((self.card or {}).get("sha256") or {})
        return Model(self.name, path) if named else None

    @property
    def sha256(self) -> str:
        """Of the file, in hexadecimal. Raises ModelError if it cannot be read."""
        try:
            return file_sha256(self.path)
        except OSError as error:
            raise ModelError(
                f"the model file {self.path} cannot be read: {error.strerror}"
            ) from error

    @property
    def expected_sha256(self) -> str | None:
        """Of the file, as its card says; None where it says nothing."""
        found: str | None = ((self.card or {}).get("sha256") or {}).get(self.path.name)
        return found

    def check(self) -> None:
        """Raises ModelError if a shipped file is not the one that its card names.

        A file from elsewhere is not checked, whether a card lies beside it or not: whoever gives
        `--model PATH` trusts that file.
        """
        if self.path.parent.resolve() != WEIGHTS.resolve() or not self.path.is_file():
            return
        found, expected = self.sha256, self.expected_sha256
        if found != expected:
            raise ModelError(
                f"{self.path} has SHA-256 {found} instead of {expected or 'any on its card'}: "
                "install the package again"
            )

    @property
    def card(self) -> dict[str, Any] | None:
        """What the card beside the file says, None where there is none.

        Raises ModelError for a file that is no card.
        """
        path = self.path.with_name(f"{self.name}.json")
        if not path.is_file():
            return None
        try:
            card = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ModelError(f"{path} is no card that can be read: {error}") from error
        if not (isinstance(card, dict) and isinstance(card.get("sha256", {}), dict | type(None))):
            raise ModelError(f"{path} is no card: it has to be a JSON object")
        return card


@dataclass(frozen=True)
class _Network:
    """A generator and its aligner, if it has one, with the sessions that they run in."""

    model: Model
    aligner: Model | None
    session: onnxruntime.InferenceSession | BoundSession
    alignment: onnxruntime.InferenceSession | BoundSession | None

    @classmethod
    def open(
        cls,
        model: Model,
        aligner: Model | None,
        device: ExecutionDevice,
        threads: int | None = None,
    ) -> "_Network":
        """Raises ModelError for unusable files, DeviceError for a device that does not come up."""
        session = _open_session(model, "restored", device, threads)
        alignment = _open_session(aligner, "flow", device, threads) if aligner else None
        return cls(model, aligner, session, alignment)

    @property
    def device(self) -> ExecutionDevice:
        """Where it runs, as the session says."""
        return _device_of(self.session)

    def restore(self, inputs: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """See `Generator.restore`."""
        if self.alignment is not None:
            reference = inputs["reference"]
            flows = self.alignment.run(["flow"], inputs)[0]
            moved = [shifted(*pair) for pair in zip(reference, flows, strict=True)]
            inputs = inputs | {"reference": moved[0][None] if len(moved) == 1 else np.stack(moved)}
        restored: NDArray[np.float32] = self.session.run(["restored"], inputs)[0]
        return restored

    def warm_up(self) -> None:
        """See `Generator.warm_up`."""
        self.restore(
            {name: np.zeros((1, n, CROP, CROP), np.float32) for name, n in CHANNELS.items()}
        )


class Generator:
    """Restores face crops, guided by references. One serves any number of calls and threads.

    Attributes:
        name: by which it was asked for, a shipped one's or a path.
        batch: faces of several calls in one run at most; 1 where it gains nothing to run them
            together, so that they go one after the other.
        threads: of a run on the CPU.
    """

    def __init__(
        self, model: str = "lite", device: Device = "auto", threads: int | None = None
    ) -> None:
        """
        Args:
            model: see `Model.find`.
            device: where it runs. A GPU's first runs are done here, which takes seconds, and
                TensorRT's engines are built here, which takes minutes where no cache has them.
            threads: of a run on the CPU; half of the cores, at most four, if not given.

        Raises:
            ModelError: for an unusable model.
            DeviceError: if CUDA or TensorRT is asked for and absent.
        """
        wanted: ExecutionDevice = "cuda" if device == "auto" else device
        problem = device_problem(wanted)
        if problem and device != "auto":
            raise DeviceError(f"{_CALLED[wanted]} was asked for and is not there: {problem}")
        self.batch = BATCH
        self.threads = threads or _threads_in_a_call()
        self.name, self._asked = model, device
        self._changing = Lock()
        self._queue = InferenceQueue(self._run)
        place: ExecutionDevice = "cpu" if problem else wanted
        self._network = self._open_there_or_on_cpu(Model.find(model, place != "cpu"), place)

    @property
    def model(self) -> Model:
        """Which one it is."""
        return self._network.model

    @property
    def device(self) -> ExecutionDevice:
        """Where it really runs."""
        return self._network.device

    def switch(self, model: Model) -> None:
        """Goes over to another file on the same device, which is opened beside the one in use.

        May be called from any thread; a run under way ends as it began. Raises as `rebuild`.
        """
        with self._changing:
            if model != self.model:
                self._network = self._open(model, self.device, warm=True)

    def rebuild(self) -> None:
        """Opens the network anew, from the same files; may be called from any thread.

        Several who call it at the same time get one new network. Who waits for a run of the old
        one, which may hang, goes over to it. One made for 'auto' goes on on the CPU where CUDA has
        gone, one made for a GPU stays with it. Raises ModelError, DeviceError or what ONNX Runtime
        raises; the old network stays then.
        """
        old = self._network
        alone = self._changing.acquire(timeout=WAITS_FOR_ANOTHER)
        try:
            if self._network is old:
                self._network = self._open_there_or_on_cpu(old.model, old.device, warm=True)
                queue, self._queue = self._queue, InferenceQueue(self._run)
                queue.close()
        finally:
            if alone:
                self._changing.release()

    def warm_up(self) -> None:
        """Runs the network once: the first run is several times as slow as the others."""
        self._network.warm_up()

    def restore(
        self,
        degraded: NDArray[np.float32],
        reference: NDArray[np.float32],
        landmarks: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Nx3x256x256, Nx3x256x256 and Nx1x256x256 in [0, 1]; returns Nx3x256x256, not clipped.

        May be called from any thread. Whose faces wait for a run that is under way may be restored
        in one run with others, `batch` at most; what that raises is raised to all of them.
        """
        inputs = {"degraded": degraded, "reference": reference, "landmarks": landmarks}
        while True:
            with contextlib.suppress(QueueClosedError):  # `rebuild` has put another in its place
                return self._queue(inputs, self.batch)

    def _run(self, inputs: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        return self._network.restore(inputs)

    def _open(self, model: Model, device: ExecutionDevice, warm: bool = False) -> _Network:
        network = _Network.open(model, model.aligner, device, self.threads)
        if warm:
            network.warm_up()
        return network

    def _open_there_or_on_cpu(
        self, model: Model, device: ExecutionDevice, warm: bool = False
    ) -> _Network:
        """On the CPU if 'auto' was asked for and a GPU fails."""
        try:
            return self._open(model, device, warm)
        except Exception as error:
            if device == "cpu" or self._asked != "auto":
                raise
            network = self._open(Model.find(self.name), "cpu", warm)
            logger.warning("the CPU is used instead of %s: %s", _CALLED[device], error)
            return network


_CPU, _CUDA, _TENSORRT = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt"))
_DEVICES: dict[str, ExecutionDevice] = {_CUDA: "cuda", _TENSORRT: "tensorrt"}
_CALLED = {"cpu": "the CPU", "cuda": "CUDA", "tensorrt": "TensorRT"}
_NVINFER = "nvinfer_10.dll" if sys.platform == "win32" else "libnvinfer.so.10"
"""TensorRT's library, of the version that ONNX Runtime is built for."""


def _device_of(session: onnxruntime.InferenceSession | BoundSession) -> ExecutionDevice:
    return _DEVICES.get(session.get_providers()[0], "cpu")


def device_problem(device: ExecutionDevice) -> str | None:
    """Why `device` cannot be used here, with the way out, or None if nothing stands against it."""
    return {"cpu": lambda: None, "cuda": cuda_problem, "tensorrt": tensorrt_problem}[device]()


def tensorrt_problem() -> str | None:
    """Why TensorRT cannot be used here, with the way out, or None if nothing stands against it."""
    if _TENSORRT not in onnxruntime.get_available_providers():
        return "this build of ONNX Runtime has no TensorRT (pip install 'keyframe-receiver[gpu]')"
    problem = cuda_problem()
    if problem:
        return problem
    with contextlib.suppress(ImportError):  # pip's package of it, which loads its libraries
        importlib.import_module("tensorrt_libs")
    try:
        ctypes.CDLL(_NVINFER)
    except OSError:
        return f"{_NVINFER} was not found (pip install 'tensorrt-cu13<11', or use --device cuda)"
    return None


def cuda_problem() -> str | None:
    """Why CUDA cannot be used here, with the way out, or None if nothing stands against it."""
    if _CUDA not in onnxruntime.get_available_providers():
        return "this build of ONNX Runtime has no CUDA (pip install 'keyframe-receiver[gpu]')"
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return "no NVIDIA driver was found (use --device cpu, or install the driver)"
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        onnxruntime.preload_dlls()
    missing = [line for line in said.getvalue().splitlines() if line.startswith("Failed")]
    if missing:
        return f"{missing[0]} (pip install 'keyframe-receiver[gpu]')"
    return None


def _threads_in_a_call() -> int:
    """Of a run on the CPU, where other work of a call is done at the same time.

    Half of the cores are that work's: a thread that waits for a core keeps all waiting.
    """
    return max(1, min(4, (os.cpu_count() or 1) // 2))


def _open_session(
    model: Model, output: str, device: ExecutionDevice, threads: int | None
) -> onnxruntime.InferenceSession | BoundSession:
    """On a GPU it is bound and warm. Raises ModelError or DeviceError."""
    model.check()

    def opened(has_graphs: bool) -> onnxruntime.InferenceSession:
        session = _new_session(model, device, has_graphs, threads)
        if _device_of(session) != device:  # ONNX Runtime falls back without an error
            raise DeviceError(
                f"{_CALLED[device]} was asked for and the session came up on "
                f"{_CALLED[_device_of(session)]}: see the lines of ONNX Runtime above, or use "
                "--device cpu"
            )
        _check_signature(session, model, output)
        return session

    if device == "cpu":
        return opened(False)
    return open_bound(opened, BATCH, has_graphs=device == "cuda")


def _new_session(
    model: Model, device: ExecutionDevice, has_graphs: bool, threads: int | None
) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or _threads_in_a_call()
    # Spinning within a run is a quarter faster; between frames it would take the other cores
    # from the rest of the call.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    providers = _providers(model, device, has_graphs)
    try:
        session = onnxruntime.InferenceSession(
            str(model.path), options, providers=providers, enable_fallback=0
        )
        session.disable_fallback()  # a run that fails is to be seen: see Generator.rebuild
        return session
    except Exception as error:  # ONNX Runtime's exceptions have no common base but this
        if not model.path.is_file():
            raise ModelError(f"the model file {model.path} is missing") from error
        if device != "cpu":
            raise DeviceError(
                f"{model.path} cannot be opened on {_CALLED[device]}, use --device cpu: "
                f"{(str(error).splitlines() or [repr(error)])[0]}"
            ) from error
        raise ModelError(
            f"{model.path} is no ONNX model that can be loaded: "
            f"give one of {', '.join(MODELS)} or an ONNX file from python -m models.export"
        ) from error


def _providers(model: Model, device: ExecutionDevice, has_graphs: bool) -> list[Any]:
    """As InferenceSession takes them; what TensorRT cannot do falls to CUDA."""
    if device == "cpu":
        return [_CPU]
    cuda = (_CUDA, {"enable_cuda_graph": str(int(has_graphs))})
    if device == "cuda":
        return [cuda, _CPU]

    def profile(count: int) -> str:
        return ",".join(f"{name}:{count}x{n}x{CROP}x{CROP}" for name, n in CHANNELS.items())

    tensorrt = {
        "trt_fp16_enable": "1",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(_engine_cache(model)),
        "trt_profile_min_shapes": profile(1),
        "trt_profile_opt_shapes": profile(1),
        "trt_profile_max_shapes": profile(BATCH),
    }
    return [(_TENSORRT, tensorrt), cuda, _CPU]


def _engine_cache(model: Model) -> Path:
    """A folder for this file's engines alone, made for this user alone.

    ONNX Runtime names an engine by the network's structure, so other weights would get the engine
    of these, and another version of it or of TensorRT could not load it. Raises DeviceError.
    """
    version = f"{onnxruntime.__version__}-{ctypes.CDLL(_NVINFER).getInferLibVersion()}"
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = cache / "keyframe-receiver" / "tensorrt" / f"{model.sha256[:16]}-{version}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        raise DeviceError(f"there is no folder for TensorRT's engines: {error}") from error
    return folder


def _check_signature(session: onnxruntime.InferenceSession, model: Model, output: str) -> None:
    found = {value.name: value for value in session.get_inputs()}
    outputs = [value.name for value in session.get_outputs()]
    good = set(found) == set(CHANNELS) and outputs == [output]
    for name, channels in CHANNELS.items() if good else ():
        value = found[name]
        good &= value.type == "tensor(float)" and value.shape[1:] == [channels, CROP, CROP]
    if not good:
        described = ", ".join(f"{value.name} {value.shape}" for value in found.values())
        raise ModelError(
            f"{model.path} is not a generator: it takes {described or 'nothing'} and gives "
            f"{', '.join(outputs)}, instead of degraded and reference Nx3x256x256, landmarks "
            f"Nx1x256x256 and {output}; export one with python -m models.export"
        )
