"""Runs on fixed buffers: real ones, but on the CPU, with simulated CUDA graphs."""

import gc
import logging
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime
import pytest

from receiver.enhance.faces.generator import CHANNELS
from receiver.inference.io_binding import NO_GRAPH, BoundSession, open_bound
from receiver.inference.model_files import WEIGHTS

MOST = 3
ALIGN = "lite-int8-align"
"""In 8-bit integers, whose results do not depend on the batch; the output is small."""


def session(name: str = ALIGN) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    path = str(WEIGHTS / f"{name}.onnx")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def crops(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.random((count, n, 256, 256), np.float32) for name, n in CHANNELS.items()}


@pytest.mark.parametrize(("name", "output"), [("lite", "restored"), (ALIGN, "flow")])
def test_it_returns_what_the_session_returns_to_the_bit(name, output):
    plain = session(name)
    bound = BoundSession(plain, MOST, has_graphs=False)
    given = []
    for seed, count in enumerate((1, 3, 1, 2, 3, 2)):
        inputs = crops(count, seed)
        given.append((bound.run([output], inputs)[0], plain.run([output], inputs)[0]))
        inputs["degraded"][:] = 0.0  # the run has copied them
    for result, expected in given:  # the first as well, after all others
        np.testing.assert_array_equal(result, expected)
        assert result.flags.owndata


def test_a_batch_that_is_too_large_is_split():
    plain = session()
    bound, inputs = BoundSession(plain, MOST, has_graphs=False), crops(7)
    np.testing.assert_array_equal(bound.run(["flow"], inputs)[0], plain.run(["flow"], inputs)[0])
    assert set(bound._buffers) == {3, 1}


def test_every_thread_gets_its_own_result():
    plain = session()
    bound = BoundSession(plain, MOST, has_graphs=False)
    asked = [crops(1 + seed % 3, seed) for seed in range(12)]
    with ThreadPoolExecutor(4) as pool:
        given = list(pool.map(lambda inputs: bound.run(["flow"], inputs)[0], asked))
    for inputs, result in zip(asked, given, strict=True):
        np.testing.assert_array_equal(result, plain.run(["flow"], inputs)[0])


def test_arrays_of_any_layout_are_accepted_and_of_another_shape_rejected():
    bound, inputs = BoundSession(session(), MOST, has_graphs=False), crops(2)
    expected = bound.run(["flow"], inputs)[0]
    turned = {
        name: np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        for name, array in inputs.items()
    }
    np.testing.assert_array_equal(bound.run(["flow"], turned)[0], expected)
    swapped = inputs | {"degraded": inputs["degraded"].reshape(2, 3, 128, 512)}
    with pytest.raises(ValueError, match="degraded is"):  # ONNX Runtime would accept it
        bound.run(["flow"], swapped)
    np.testing.assert_array_equal(bound.run(["flow"], inputs)[0], expected)


def test_its_thread_ends_when_the_session_is_deleted():
    before = set(threading.enumerate())
    bound = BoundSession(session(), MOST, has_graphs=False)
    bound.run(["flow"], crops(1))
    (thread,) = set(threading.enumerate()) - before
    del bound
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()


class WithGraphs:
    """A session on the CPU that simulates graphs: a replay uses the buffers that were recorded.

    Attributes:
        replays: number of runs by graph; the first of each records it.
        is_stale: whether a replay leaves the result of the previous run in the outputs.
    """

    def __init__(self, is_stale: bool = False) -> None:
        self._session, self.is_stale = session(), is_stale
        self.replays: dict[int, int] = defaultdict(int)
        self._recorded: dict[int, tuple[int, list[int]]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        graph = int(options.get_run_config_entry("gpu_graph_id"))
        if graph != NO_GRAPH:
            values = [*binding._bound_inputs.values(), *binding._bound_outputs.values()]
            here = threading.get_ident(), [value.data_ptr() for value in values]
            assert self._recorded.setdefault(graph, here) == here
            self.replays[graph] += 1
            if self.is_stale and self.replays[graph] > 1:
                return
        self._session.run_with_iobinding(binding, options)


def test_every_batch_has_a_graph_of_its_own_before_the_first_call(caplog):
    with_graphs = WithGraphs()
    bound = open_bound(lambda has_graphs: with_graphs, MOST, has_graphs=True)
    assert with_graphs.replays == {3: 2, 2: 2, 1: 2}
    with ThreadPoolExecutor(3) as pool:  # the session's own thread does all runs
        list(pool.map(lambda count: bound.run(["flow"], crops(count)), (1, 3, 2, 3)))
    assert with_graphs.replays == {3: 4, 2: 3, 1: 3}
    assert caplog.records == []


class Refusing(WithGraphs):
    """Fails to record a graph."""

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        if options.get_run_config_entry("gpu_graph_id") != str(NO_GRAPH):
            raise RuntimeError("operation not permitted when stream is capturing")
        super().run_with_iobinding(binding, options)


def refused() -> Any:
    raise RuntimeError("not all nodes have been partitioned")


@pytest.mark.parametrize(
    ("first", "why"),
    [
        (refused, "not all nodes"),
        (Refusing, "stream is capturing"),
        (lambda: WithGraphs(is_stale=True), "flow of a graph's replay differs from that of a run"),
    ],
)
def test_if_graphs_fail_it_runs_without_and_logs_it_once(first, why, caplog):
    plain, opened = session(), []

    def opening(has_graphs: bool) -> Any:
        opened.append(has_graphs)
        return first() if has_graphs else plain

    with caplog.at_level(logging.INFO):
        bound = open_bound(opening, MOST, has_graphs=True)
        for count in (1, 2, 1):
            inputs = crops(count)
            expected = plain.run(["flow"], inputs)[0]
            np.testing.assert_array_equal(bound.run(["flow"], inputs)[0], expected)
    assert opened == [True, False]
    (record,) = caplog.records
    assert record.getMessage().startswith("the network runs without CUDA graphs")
    assert why in record.getMessage()


def test_a_failure_without_graphs_is_raised(caplog):
    with pytest.raises(RuntimeError, match="not all nodes"):
        open_bound(lambda has_graphs: refused(), MOST, has_graphs=True)
    assert caplog.records == []
