"""The exported generator in an ONNX Runtime session, on the device that was asked for."""

import contextlib
import ctypes
import hashlib
import io
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Literal, TypeAlias

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from receiver.alignment import CROP, shifted
from receiver.batching import Line, LineClosedError
from receiver.errors import DeviceError, ModelError

Device: TypeAlias = Literal["auto", "cuda", "cpu"]

WEIGHTS = Path(__file__).parent / "weights"
MODELS = ("lite",)
"""Names of the shipped generators. WEIGHTS holds the same network twice, NAME.onnx in floating
point for CUDA, NAME-int8.onnx and NAME-int8-align.onnx for CPUs, and their card NAME.json."""
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
            return hashlib.sha256(self.path.read_bytes()).hexdigest()
        except OSError as error:
            raise ModelError(
                f"the model file {self.path} cannot be read: {error.strerror}"
            ) from error

    @property
    def expected_sha256(self) -> str | None:
        """Of the file, as its card says; None where it says nothing."""
        found: str | None = ((self.card or {}).get("sha256") or {}).get(self.path.name)
        return found

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
    session: onnxruntime.InferenceSession
    alignment: onnxruntime.InferenceSession | None

    @classmethod
    def open(
        cls, model: Model, aligner: Model | None, device: Device, threads: int | None = None
    ) -> "_Network":
        """Raises ModelError for unusable files, DeviceError for CUDA that does not come up."""
        on_gpu = device != "cpu"
        session = _open_session(model, on_gpu, threads)
        alignment = _open_session(aligner, on_gpu, threads) if aligner else None
        network = cls(model, aligner, session, alignment)
        if device == "cuda" and network.device != "cuda":
            raise DeviceError(
                "CUDA was asked for and the session came up on the CPU: "
                "see the lines of ONNX Runtime above, or use --device cpu"
            )
        _check_signature(session, model, "restored")
        if alignment and aligner:
            _check_signature(alignment, aligner, "flow")
        return network

    @property
    def device(self) -> Literal["cuda", "cpu"]:
        """Where it runs; ONNX Runtime falls back to the CPU without an error."""
        return "cuda" if self.session.get_providers()[0] == _CUDA else "cpu"

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
            device: where it runs; `auto` is CUDA where that is there.
            threads: of a run on the CPU; half of the cores, at most four, if not given.

        Raises:
            ModelError: for an unusable model.
            DeviceError: if CUDA is asked for and absent.
        """
        problem = None if device == "cpu" else cuda_problem()
        if device == "cuda" and problem:
            raise DeviceError(f"CUDA was asked for and is not there: {problem}")
        self.batch = BATCH
        self.threads = threads or _threads_in_a_call()
        self.name, self._asked = model, device
        self._changing = Lock()
        self._line = Line(self._run)
        found = Model.find(model, on_gpu=device != "cpu" and problem is None)
        self._network = self._open(found, "cpu" if problem else device)

    @property
    def model(self) -> Model:
        """Which one it is."""
        return self._network.model

    @property
    def device(self) -> Literal["cuda", "cpu"]:
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
        gone, one made for 'cuda' stays with it. Raises ModelError, DeviceError or what ONNX Runtime
        raises; the old network stays then.
        """
        old = self._network
        alone = self._changing.acquire(timeout=WAITS_FOR_ANOTHER)
        try:
            if self._network is old:
                self._network = self._opened_anew(old)
                line, self._line = self._line, Line(self._run)
                line.close()
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
            with contextlib.suppress(LineClosedError):  # `rebuild` has put another in its place
                return self._line(inputs, self.batch)

    def _run(self, inputs: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        return self._network.restore(inputs)

    def _open(self, model: Model, device: Device, warm: bool = False) -> _Network:
        network = _Network.open(model, model.aligner, device, self.threads)
        if warm:
            network.warm_up()
        return network

    def _opened_anew(self, old: _Network) -> _Network:
        try:
            return self._open(old.model, old.device, warm=True)
        except Exception:
            if old.device == "cpu" or self._asked == "cuda":
                raise
            return self._open(Model.find(self.name), "cpu", warm=True)


_CUDA = "CUDAExecutionProvider"


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
    model: Model, on_gpu: bool, threads: int | None = None
) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or _threads_in_a_call()
    # Spinning within a run is a quarter faster; between frames it would take the other cores
    # from the rest of the call.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    providers = [_CUDA, "CPUExecutionProvider"] if on_gpu else ["CPUExecutionProvider"]
    try:
        session = onnxruntime.InferenceSession(str(model.path), options, providers=providers)
        session.disable_fallback()  # a run that fails is to be seen: see Generator.rebuild
        return session
    except Exception as error:  # ONNX Runtime's exceptions have no common base but this
        if not model.path.is_file():
            raise ModelError(f"the model file {model.path} is missing") from error
        raise ModelError(
            f"{model.path} is no ONNX model that can be loaded: "
            f"give one of {', '.join(MODELS)} or an ONNX file from python -m models.export"
        ) from error


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
