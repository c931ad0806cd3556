"""The face generator: restores face crops, guided by references, on any execution device."""

import contextlib
import logging
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from receiver.enhance.faces.alignment import CROP, shifted
from receiver.inference.devices import DEVICE_NAMES, Device, ExecutionDevice, usable_device
from receiver.inference.model_files import Model
from receiver.inference.network import Network
from receiver.inference.request_queue import InferenceQueue, QueueClosedError
from receiver.inference.sessions import default_threads
from receiver.inference.signature import Arrays, Shape, Signature

logger = logging.getLogger(__name__)

CHANNELS = {"degraded": 3, "reference": 3, "landmarks": 1}
"""Inputs of every generator and aligner, Nx{channels}x256x256 float32."""
_CROPS: dict[str, Shape] = {name: (None, n, CROP, CROP) for name, n in CHANNELS.items()}
GENERATOR = Signature(_CROPS, {"restored": (None, 3, CROP, CROP)}, "generator")
"""Restores the degraded crops."""
ALIGNER = Signature(_CROPS, {"flow": (None, 2, None, None)}, "generator's aligner")
"""Returns the flow, Nx2xHxW in crop pixels, by which the references are moved before a generator
without a separate aligner takes them."""

BATCH = 8
"""Largest batch of faces in one run if several calls share a generator: two calls of four."""
REBUILD_PATIENCE = 5.0
"""Seconds for which `Generator.rebuild` waits for another thread's rebuild, which may hang."""


@dataclass(frozen=True)
class _Networks:
    """A generator's network and that of its aligner, if it has one."""

    restorer: Network
    aligner: Network | None

    @classmethod
    def open(cls, model: Model, device: ExecutionDevice, threads: int) -> "_Networks":
        """Opens both. Raises ModelError for unusable files, DeviceError for an unusable device."""
        beside = model.aligner
        restorer = Network.open(model, GENERATOR, device=device, threads=threads, batch=BATCH)
        if beside is None:
            return cls(restorer, None)
        aligner = Network.open(beside, ALIGNER, device=device, threads=threads, batch=BATCH)
        return cls(restorer, aligner)

    def restore(self, inputs: Arrays) -> Arrays:
        """Runs the aligner, moves the references, runs the generator; returns `restored`."""
        if self.aligner is not None:
            flows = self.aligner.compute(inputs)["flow"]
            moved = [shifted(*pair) for pair in zip(inputs["reference"], flows, strict=True)]
            inputs = inputs | {"reference": moved[0][None] if len(moved) == 1 else np.stack(moved)}
        return self.restorer.compute(inputs)

    def warm_up(self) -> None:
        """Runs both on one crop of zeros."""
        self.restore(
            {name: np.zeros((1, n, CROP, CROP), np.float32) for name, n in CHANNELS.items()}
        )


class Generator:
    """Restores face crops, guided by references. One serves any number of calls and threads.

    Attributes:
        name: the model that was asked for, a name or a path.
        batch: largest batch of faces of several calls in one run; 1 on a device that gains nothing
            from batches, so that requests run in turn.
        threads: of a run on the CPU.
    """

    def __init__(
        self, model: str = "lite", device: Device = "auto", threads: int | None = None
    ) -> None:
        """Opens the model. On a GPU this includes the first runs, which take seconds; TensorRT
        builds its engines, which takes minutes unless its cache has them.

        Args:
            model: a name or a path, see `Model.find`.
            device: where the model has to run.
            threads: of a run on the CPU; half of the cores, at most four, if not given.

        Raises:
            ModelError: for an unusable model.
            DeviceError: if CUDA or TensorRT is asked for and cannot be used.
        """
        usable = usable_device(device)
        self.batch = BATCH
        self.threads = threads or default_threads()
        self.name, self._asked = model, device
        self._changing = Lock()
        self._queue = InferenceQueue(self._run)
        self._networks = self._open_or_fall_back(Model.find(model, usable != "cpu"), usable)

    @property
    def model(self) -> Model:
        """The file in use."""
        return self._networks.restorer.model

    @property
    def device(self) -> ExecutionDevice:
        """The device on which the network runs, as its session says."""
        return self._networks.restorer.device

    def switch(self, model: Model) -> None:
        """Replaces the file in use by another on the same device; any thread may call it.

        The new file is opened and warmed up first. A run in progress ends with the old file.
        Raises what `rebuild` raises; the old file stays in use then.
        """
        with self._changing:
            if model != self.model:
                self._networks = self._open(model, self.device, warm=True)

    def rebuild(self) -> None:
        """Restarts the network from the same files; any thread may call it.

        Threads that call it at the same time share one restart. Requests that wait for a run of
        the old network, which may hang, go to the new one. A generator for 'auto' falls back to
        the CPU if CUDA fails; one for a GPU does not. Raises ModelError, DeviceError or what ONNX
        Runtime raises; the old network stays in use then.
        """
        old = self._networks
        acquired = self._changing.acquire(timeout=REBUILD_PATIENCE)
        try:
            if self._networks is old:
                self._networks = self._open_or_fall_back(self.model, self.device, warm=True)
                queue, self._queue = self._queue, InferenceQueue(self._run)
                queue.close()
        finally:
            if acquired:
                self._changing.release()

    def warm_up(self) -> None:
        """Runs the network once: the first run takes several times as long as the others."""
        self._networks.warm_up()

    def restore(
        self,
        degraded: NDArray[np.float32],
        reference: NDArray[np.float32],
        landmarks: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Restores a batch of crops; any thread may call it.

        Requests that arrive during a run are batched into the next one, `batch` faces at most.

        Args:
            degraded: Nx3x256x256 in [0, 1], RGB.
            reference: Nx3x256x256 in [0, 1], RGB.
            landmarks: Nx1x256x256 in [0, 1].

        Returns:
            Nx3x256x256 RGB, not clipped to [0, 1].

        Raises what ONNX Runtime raises, for all requests of the batch.
        """
        inputs = {"degraded": degraded, "reference": reference, "landmarks": landmarks}
        while True:
            with contextlib.suppress(QueueClosedError):  # `rebuild` has replaced the queue
                return self._queue(inputs, self.batch)["restored"]

    def _run(self, inputs: Arrays) -> Arrays:
        return self._networks.restore(inputs)

    def _open(self, model: Model, device: ExecutionDevice, warm: bool) -> _Networks:
        networks = _Networks.open(model, device, self.threads)
        if warm:
            networks.warm_up()
        return networks

    def _open_or_fall_back(
        self, model: Model, device: ExecutionDevice, warm: bool = False
    ) -> _Networks:
        """Opens a model; on the CPU if 'auto' was asked for and a GPU fails."""
        try:
            return self._open(model, device, warm)
        except Exception as error:
            if device == "cpu" or self._asked != "auto":
                raise
            networks = self._open(Model.find(self.name), "cpu", warm)
            logger.warning("the CPU is used instead of %s: %s", DEVICE_NAMES[device], error)
            return networks
