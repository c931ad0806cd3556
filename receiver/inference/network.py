"""Runs an exported network by its named tensors, for any number of streams.

frames = Signature({"luma": (None, 1, None, None)}, {"large": (None, 1, None, None)})
network = Network.open(Model.find("x2.onnx"), frames, device=usable_device("auto"))
outputs, state = network.run({"luma": luma}, state)  # state: None for a stream's first frame
"""

from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np

from receiver.inference.devices import ExecutionDevice, device_of
from receiver.inference.model_files import Model
from receiver.inference.request_queue import InferenceQueue
from receiver.inference.sessions import Session, open_session
from receiver.inference.signature import Arrays, Signature, StateTensor

State: TypeAlias = Arrays
"""A recurrent network's state after a frame, by the names of the inputs that take it."""


class Network:
    """A network in a session. One serves any number of streams and threads.

    The session belongs to the weights and is shared; the state of a recurrent network belongs to a
    stream or a face track, whose owner keeps it and passes it to the next run.

    Attributes:
        model: the file.
        signature: the inputs and outputs, without the state.
        state: the state tensors, if the network is recurrent.
        session: runs the network.
        batch: the largest batch that joins requests of several threads; 1 to run them in turn.
    """

    def __init__(
        self,
        model: Model,
        signature: Signature,
        session: Session,
        state: Iterable[StateTensor] = (),
        batch: int = 1,
    ) -> None:
        """Takes an open session; `Network.open` opens one."""
        self.model, self.signature, self.session = model, signature, session
        self.state, self.batch = tuple(state), batch
        self._queue = InferenceQueue(self.compute)

    @classmethod
    def open(
        cls,
        model: Model,
        signature: Signature,
        state: Iterable[StateTensor] = (),
        *,
        device: ExecutionDevice = "cpu",
        threads: int | None = None,
        batch: int = 1,
    ) -> "Network":
        """Opens a network's file.

        Args:
            model: the file.
            signature: its inputs and outputs, without the state.
            state: its state tensors, if it is recurrent.
            device: where it has to run.
            threads: of a run on the CPU; `sessions.default_threads()` if not given.
            batch: the largest batch; 1 if the file has a fixed one.

        Raises:
            ModelError: for an unusable file or another signature.
            DeviceError: if the session does not come up on `device`.
        """
        tensors = tuple(state)
        session = open_session(model, signature.with_state(tensors), device, threads, batch)
        values = [*session.get_inputs(), *session.get_outputs()]
        has_batch = all(value.shape and not isinstance(value.shape[0], int) for value in values)
        return cls(model, signature, session, tensors, batch if has_batch else 1)

    @property
    def device(self) -> ExecutionDevice:
        """The device on which the session runs, as the session itself says."""
        return device_of(self.session)

    def run(self, inputs: Arrays, state: State | None = None) -> tuple[Arrays, State]:
        """Runs the network, after requests that wait already; any thread may call it.

        Requests that arrive during a run are batched into the next one, `batch` at most.

        Args:
            inputs: float32 arrays by name; not changed.
            state: what the last run of the same stream returned; None for zeros.

        Returns:
            The outputs by name, and the state for the stream's next run (empty if the network has
            none).

        Raises:
            ValueError: for arrays of other names, types or sizes than the network takes.
            QueueClosedError: if the network is or becomes closed.
            Exception: what ONNX Runtime raises.
        """
        arrays = {**inputs, **(self.first_state(inputs) if state is None else state)}
        self._check(arrays)
        outputs = self._queue(arrays, self.batch)
        new_state = {one.input: outputs[one.output] for one in self.state}
        return {name: outputs[name] for name in self.signature.outputs}, new_state

    def compute(self, arrays: Arrays) -> Arrays:
        """Runs the network at once, unchecked and unbatched, on inputs and state by input name.

        For a caller that queues requests itself. Returns all outputs by name.
        """
        names = [*self.signature.outputs, *(one.output for one in self.state)]
        return dict(zip(names, self.session.run(names, arrays), strict=True))

    def first_state(self, inputs: Arrays) -> State:
        """Returns zeros of the sizes that a stream's first run takes.

        A free size of a state is that of the input's size of the same name in the ONNX file. Raises
        ValueError if no input has it: the caller has to give the first state then.
        """
        declared = self._declared()
        sizes = {
            size: array.shape[axis]
            for name, array in inputs.items()
            for axis, size in enumerate(declared.get(name, [])[: array.ndim])
            if isinstance(size, str)
        }
        state = {}
        for one in self.state:
            shape = [sizes.get(size, size) for size in declared[one.input]]
            if not all(isinstance(size, int) for size in shape):
                raise ValueError(
                    f"give the first {one.input}: no input has all of its sizes "
                    f"{declared[one.input]}"
                )
            state[one.input] = np.zeros(shape, np.float32)
        return state

    def close(self) -> None:
        """Refuses further runs and those that wait, even if the run in progress hangs."""
        self._queue.close()

    def _declared(self) -> dict[str, list[Any]]:
        """Returns the inputs' sizes as the file declares them: numbers, names, or None."""
        return {value.name: value.shape for value in self.session.get_inputs()}

    def _check(self, arrays: Arrays) -> None:
        """Raises ValueError if the network does not take these arrays."""
        declared = self._declared()
        if set(arrays) != set(declared):
            raise ValueError(f"{self.model.path} takes {sorted(declared)}, not {sorted(arrays)}")
        sizes: dict[Any, int] = {}
        for name, array in arrays.items():
            fits = array.dtype == np.float32 and array.ndim == len(declared[name])
            for size, wanted in zip(array.shape, declared[name], strict=False):
                known = wanted if isinstance(wanted, int) else sizes.get(wanted, size)
                fits &= size == known and size > 0
                if isinstance(wanted, str):
                    sizes[wanted] = size
            if not fits:
                raise ValueError(
                    f"{name} is {array.dtype} {list(array.shape)} instead of float32 "
                    f"{declared[name]}"
                )
