"""Runs on buffers that stay where they are: for real, but on the CPU; the graphs are played."""

import gc
import logging
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime
import pytest

from receiver.enhance.faces.generator import CHANNELS, WEIGHTS
from receiver.inference.io_binding import NO_GRAPH, BoundSession, open_bound

MOST = 3
ALIGN = "lite-int8-align"
"""In 8-bit integers, where nothing depends on what else is in a run; the output is small."""


def session(name: str = ALIGN) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    path = str(WEIGHTS / f"{name}.onnx")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def pictures(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.random((count, n, 256, 256), np.float32) for name, n in CHANNELS.items()}


@pytest.mark.parametrize(("name", "output"), [("lite", "restored"), (ALIGN, "flow")])
def test_it_gives_what_the_session_gives_to_the_bit(name, output):
    plain = session(name)
    bound = BoundSession(plain, MOST, has_graphs=False)
    given = []
    for seed, count in enumerate((1, 3, 1, 2, 3, 2)):
        inputs = pictures(count, seed)
        given.append((bound.run([output], inputs)[0], plain.run([output], inputs)[0]))
        inputs["degraded"][:] = 0.0  # it has taken what it needs
    for result, expected in given:  # also of the first, after all of the others
        np.testing.assert_array_equal(result, expected)
        assert result.flags.owndata


def test_more_than_go_in_one_run_go_in_several():
    plain = session()
    bound, inputs = BoundSession(plain, MOST, has_graphs=False), pictures(7)
    np.testing.assert_array_equal(bound.run(["flow"], inputs)[0], plain.run(["flow"], inputs)[0])
    assert set(bound._buffers) == {3, 1}


def test_several_threads_get_each_its_own():
    plain = session()
    bound = BoundSession(plain, MOST, has_graphs=False)
    asked = [pictures(1 + seed % 3, seed) for seed in range(12)]
    with ThreadPoolExecutor(4) as pool:
        given = list(pool.map(lambda inputs: bound.run(["flow"], inputs)[0], asked))
    for inputs, result in zip(asked, given, strict=True):
        np.testing.assert_array_equal(result, plain.run(["flow"], inputs)[0])


def test_arrays_of_any_layout_are_taken_and_of_another_shape_refused():
    bound, inputs = BoundSession(session(), MOST, has_graphs=False), pictures(2)
    expected = bound.run(["flow"], inputs)[0]
    turned = {
        name: np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        for name, array in inputs.items()
    }
    np.testing.assert_array_equal(bound.run(["flow"], turned)[0], expected)
    swapped = inputs | {"degraded": inputs["degraded"].reshape(2, 3, 128, 512)}
    with pytest.raises(ValueError, match="degraded is"):  # ONNX Runtime would take it as it lies
        bound.run(["flow"], swapped)
    np.testing.assert_array_equal(bound.run(["flow"], inputs)[0], expected)


def test_its_thread_ends_when_nobody_holds_it():
    before = set(threading.enumerate())
    bound = BoundSession(session(), MOST, has_graphs=False)
    bound.run(["flow"], pictures(1))
    (thread,) = set(threading.enumerate()) - before
    del bound
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()


class WithGraphs:
    """A session of the CPU's that replays graphs: on what lay in the buffers that it recorded.

    Attributes:
        replays: runs by the graph's number, the first of which records.
        is_stale: whether a replay leaves the result of the run before.
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


def test_every_number_of_pictures_has_a_graph_of_its_own_before_the_first_call(caplog):
    with_graphs = WithGraphs()
    bound = open_bound(lambda has_graphs: with_graphs, MOST, has_graphs=True)
    assert with_graphs.replays == {3: 2, 2: 2, 1: 2}
    with ThreadPoolExecutor(3) as pool:  # its own thread runs them all the same
        list(pool.map(lambda count: bound.run(["flow"], pictures(count)), (1, 3, 2, 3)))
    assert with_graphs.replays == {3: 4, 2: 3, 1: 3}
    assert caplog.records == []


class Refusing(WithGraphs):
    """Records no graph."""

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
        (lambda: WithGraphs(is_stale=True), "flow of a replay is not that of a run"),
    ],
)
def test_where_graphs_fail_it_goes_on_without_and_says_so_once(first, why, caplog):
    plain, opened = session(), []

    def opening(has_graphs: bool) -> Any:
        opened.append(has_graphs)
        return first() if has_graphs else plain

    with caplog.at_level(logging.INFO):
        bound = open_bound(opening, MOST, has_graphs=True)
        for count in (1, 2, 1):
            inputs = pictures(count)
            expected = plain.run(["flow"], inputs)[0]
            np.testing.assert_array_equal(bound.run(["flow"], inputs)[0], expected)
    assert opened == [True, False]
    (record,) = caplog.records
    assert record.getMessage().startswith("the network runs without CUDA graphs")
    assert why in record.getMessage()


def test_what_fails_without_graphs_too_is_raised(caplog):
    with pytest.raises(RuntimeError, match="not all nodes"):
        open_bound(lambda has_graphs: refused(), MOST, has_graphs=True)
    assert caplog.records == []
