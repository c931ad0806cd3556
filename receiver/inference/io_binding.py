"""A session on a GPU with buffers that stay where they are, so that CUDA graphs can replay it.

Never run on a GPU yet: the tests run all of this on the CPU, where `gpu_graph_id` does nothing.
"""

import logging
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from receiver.inference.request_queue import Inputs
from receiver.worker import Worker

logger = logging.getLogger(__name__)

MEMORY = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "cuda"}
"""Where a provider's sessions read and write, as ONNX Runtime calls it; `cpu` for all others."""
NO_GRAPH = -1
"""The `gpu_graph_id` of a run that neither records nor replays; others are numbers of pictures."""
TOLERANCE = 1e-2
"""Between a replay and a run without a graph; one that shows the run before is off by far more."""


@dataclass(frozen=True)
class _Buffers:
    """Of runs of so many pictures; never moved, since a graph replays on what it recorded."""

    binding: onnxruntime.IOBinding
    inputs: dict[str, onnxruntime.OrtValue]
    outputs: dict[str, onnxruntime.OrtValue]


class BoundSession:
    """Runs an InferenceSession on buffers of its own; several threads may use it.

    All runs are done by one thread of its own, which ends when nobody holds this any more: ONNX
    Runtime keeps graphs by thread, and two runs in the same buffers would spoil each other.
    """

    def __init__(self, session: Any, most: int, has_graphs: bool) -> None:
        """
        Args:
            session: an InferenceSession all of whose inputs are NxAxBxC float32, only N open.
            most: pictures in a run; more go in several.
            has_graphs: whether the session was opened with `enable_cuda_graph`.
        """
        self._session, self._most, self._has_graphs = session, most, has_graphs
        self._memory = MEMORY.get(session.get_providers()[0], "cpu")
        self._buffers: dict[int, _Buffers] = {}
        self._worker = Worker("network on the GPU")
        weakref.finalize(self, self._worker.shutdown, wait=False)

    def get_providers(self) -> list[str]:
        """As `InferenceSession.get_providers`."""
        providers: list[str] = self._session.get_providers()
        return providers

    def run(self, names: list[str], inputs: Inputs) -> list[NDArray[np.float32]]:
        """As `InferenceSession.run`: the outputs of these names, as arrays of the caller's own.

        Raises ValueError for inputs of another shape, or what ONNX Runtime raises.
        """
        count = len(next(iter(inputs.values())))
        parts = [
            self._worker.submit(
                self._run, {name: array[at : at + self._most] for name, array in inputs.items()}
            ).result()
            for at in range(0, count, self._most)
        ]
        if len(parts) == 1:
            return [parts[0][name] for name in names]
        return [np.concatenate([part[name] for part in parts]) for name in names]

    def warm_up(self) -> None:
        """Runs every number of pictures once, since the first run of each is slow, and records it.

        Raises RuntimeError if a graph's replay gives another result than a run without it, or what
        ONNX Runtime raises.
        """
        rng = np.random.default_rng(0)
        for count in range(self._most, 0, -1):  # the largest first: its memory does for all
            shapes = {one.name: (count, *one.shape[1:]) for one in self._session.get_inputs()}
            first, second = (
                {name: rng.random(shape, np.float32) for name, shape in shapes.items()}
                for _ in range(2)
            )
            plain = self._worker.submit(self._run, second, use_graph=False).result()
            if not self._has_graphs:
                continue
            self._worker.submit(self._run, first).result()  # records
            replayed = self._worker.submit(self._run, second).result()
            for name, array in plain.items():
                if not np.allclose(replayed[name], array, atol=TOLERANCE):
                    raise RuntimeError(f"{name} of a replay is not that of a run, {count} at once")

    def _run(self, inputs: Inputs, use_graph: bool = True) -> dict[str, NDArray[np.float32]]:
        count = len(next(iter(inputs.values())))
        buffers = self._buffers.get(count)
        if buffers is None:
            buffers = self._buffers[count] = self._allocated(inputs)
        for name, value in buffers.inputs.items():
            if inputs[name].shape != tuple(value.shape()):  # ONNX Runtime compares the sizes alone
                raise ValueError(f"{name} is {inputs[name].shape} instead of {value.shape()}")
            value.update_inplace(np.ascontiguousarray(inputs[name], np.float32))
        graph = count if use_graph and self._has_graphs else NO_GRAPH
        self._session.run_with_iobinding(buffers.binding, _options(graph))
        # On the CPU, .numpy() is the buffer itself, which the next run writes to.
        return {name: value.numpy().copy() for name, value in buffers.outputs.items()}

    def _allocated(self, inputs: Inputs) -> _Buffers:
        """By a run: only then are the outputs' shapes known."""
        binding, names = self._session.io_binding(), [o.name for o in self._session.get_outputs()]
        values = {}
        for one in self._session.get_inputs():
            array = np.array(inputs[one.name], np.float32)  # on the CPU, it is the buffer
            values[one.name] = onnxruntime.OrtValue.ortvalue_from_numpy(array, self._memory, 0)
            binding.bind_ortvalue_input(one.name, values[one.name])
        for name in names:
            binding.bind_output(name, self._memory, 0)
        self._session.run_with_iobinding(binding, _options(NO_GRAPH))
        outputs = dict(zip(names, binding.get_outputs(), strict=True))
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, value)
        return _Buffers(binding, values, outputs)


def open_bound(opened: Callable[[bool], Any], most: int, has_graphs: bool) -> BoundSession:
    """A warm session, with CUDA graphs if they are wanted and work, else without.

    Args:
        opened: opens the InferenceSession, with `enable_cuda_graph` or not.
        most: pictures in a run.
        has_graphs: whether graphs are wanted.

    Raises what `opened` or the first runs raise without graphs.
    """
    if not has_graphs:
        return _warm(opened(False), most, False)
    try:
        return _warm(opened(True), most, True)
    except Exception as error:  # ONNX Runtime's exceptions have no common base but this
        why = repr(error)  # and no more of it, which would hold the session and its memory
    bound = _warm(opened(False), most, False)
    logger.warning("the network runs without CUDA graphs, which takes longer: %s", why)
    return bound


def _warm(session: Any, most: int, has_graphs: bool) -> BoundSession:
    bound = BoundSession(session, most, has_graphs)
    bound.warm_up()
    return bound


def _options(graph: int) -> onnxruntime.RunOptions:
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph))
    return options
