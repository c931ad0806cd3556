"""A session on a GPU with buffers at fixed addresses, so that CUDA graphs can replay it.

Never run on a GPU yet: the tests run all of this on the CPU, which ignores `gpu_graph_id`.
"""

import logging
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from receiver.inference.devices import CUDA_PROVIDER, TENSORRT_PROVIDER
from receiver.inference.signature import Arrays
from receiver.worker import Worker

logger = logging.getLogger(__name__)

MEMORY = {CUDA_PROVIDER: "cuda", TENSORRT_PROVIDER: "cuda"}
"""ONNX Runtime's name for the memory of a provider's sessions; `cpu` for all other providers."""
NO_GRAPH = -1
"""The `gpu_graph_id` of a run without a graph. A graph's own number is the batch it is for."""
TOLERANCE = 1e-2
"""Largest difference between a replay and a run without a graph. A replay that returns the result
of an earlier run differs by far more."""


@dataclass(frozen=True)
class _Buffers:
    """The arrays of runs of one batch; never moved, since a graph replays on their addresses."""

    binding: onnxruntime.IOBinding
    inputs: dict[str, onnxruntime.OrtValue]
    outputs: dict[str, onnxruntime.OrtValue]


class BoundSession:
    """Runs an InferenceSession on fixed buffers; several threads may use it.

    A separate thread does all runs, because ONNX Runtime keeps graphs by thread, and because
    two runs in the same buffers would spoil each other. The thread ends when this object is
    deleted.
    """

    def __init__(self, session: Any, most: int, has_graphs: bool) -> None:
        """
        Args:
            session: an InferenceSession whose inputs are Nx... float32 and free in N alone.
            most: the largest batch of a run; larger ones are split.
            has_graphs: whether the session was opened with `enable_cuda_graph`.
        """
        self._session, self._most, self._has_graphs = session, most, has_graphs
        self._memory = MEMORY.get(session.get_providers()[0], "cpu")
        self._buffers: dict[int, _Buffers] = {}
        self._worker = Worker("network on the GPU")
        weakref.finalize(self, self._worker.shutdown, wait=False)

    def get_providers(self) -> list[str]:
        """Returns what `InferenceSession.get_providers` returns."""
        providers: list[str] = self._session.get_providers()
        return providers

    def get_inputs(self) -> list[Any]:
        """Returns what `InferenceSession.get_inputs` returns."""
        inputs: list[Any] = self._session.get_inputs()
        return inputs

    def get_outputs(self) -> list[Any]:
        """Returns what `InferenceSession.get_outputs` returns."""
        outputs: list[Any] = self._session.get_outputs()
        return outputs

    def run(self, names: list[str], inputs: Arrays) -> list[NDArray[np.float32]]:
        """Returns the outputs of these names, as `InferenceSession.run` does, in new arrays.

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
        """Runs every batch once, since each one's first run is slow, and records its graph.

        Raises RuntimeError if a graph's replay differs from a run without it, or what ONNX Runtime
        raises.
        """
        rng = np.random.default_rng(0)
        for count in range(self._most, 0, -1):  # the largest first: its memory suffices for all
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
                    raise RuntimeError(
                        f"{name} of a graph's replay differs from that of a run, batch {count}"
                    )

    def _run(self, inputs: Arrays, use_graph: bool = True) -> Arrays:
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
        # On the CPU, .numpy() is the buffer itself, which the next run overwrites.
        return {name: value.numpy().copy() for name, value in buffers.outputs.items()}

    def _allocated(self, inputs: Arrays) -> _Buffers:
        """Runs once, since only a run shows the outputs' shapes; returns this batch's buffers."""
        binding, names = self._session.io_binding(), [o.name for o in self._session.get_outputs()]
        values = {}
        for one in self._session.get_inputs():
            array = np.array(inputs[one.name], np.float32)  # a copy: on the CPU, it is the buffer
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
    """Returns a warm session, with CUDA graphs if they are wanted and work, else without.

    Args:
        opened: opens the InferenceSession; its argument says whether with `enable_cuda_graph`.
        most: the largest batch of a run.
        has_graphs: whether graphs are wanted.

    Raises what `opened` or the first runs without graphs raise.
    """
    if not has_graphs:
        return _warm(opened(False), most, False)
    try:
        return _warm(opened(True), most, True)
    except Exception as error:  # ONNX Runtime's exceptions have no other common base
        why = repr(error)  # the error itself would keep the session and its memory alive
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
