"""Networks with small files in real sessions: whole frames, recurrent ones, many streams."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from receiver.errors import ModelError
from receiver.inference.model_files import Model
from receiver.inference.network import Network
from receiver.inference.request_queue import QueueClosedError
from receiver.inference.signature import Shape, Signature, StateTensor
from tests.inference.small_networks import accumulator, doubler
from tests.inference.test_request_queue import until

FRAMES = Signature({"luma": (None, 1, None, None)}, {"large": (None, 1, None, None)}, "doubler")
PAIR: Shape = (None, 2)
MEANS = Signature({"x": PAIR}, {"mean": PAIR}, "running mean")
SUM = StateTensor("sum", "new_sum", PAIR)


def model(path: Path) -> Model:
    return Model(path.stem, path)


@pytest.fixture
def doubling(tmp_path) -> Network:
    return Network.open(model(doubler(tmp_path / "doubler.onnx")), FRAMES, batch=4)


@pytest.fixture
def summing(tmp_path) -> Network:
    return Network.open(model(accumulator(tmp_path / "sums.onnx")), MEANS, [SUM], batch=4)


def x(*values: float) -> dict[str, np.ndarray]:
    return {"x": np.array([[value, -value] for value in values], np.float32)}


# Whole frames


@pytest.mark.parametrize("size", [(1, 1), (6, 8), (48, 64)])
def test_a_whole_frame_network_takes_frames_of_any_size(doubling, size):
    luma = np.random.default_rng(0).random((1, 1, *size), np.float32)
    outputs, state = doubling.run({"luma": luma})
    np.testing.assert_array_equal(outputs["large"], luma.repeat(2, axis=2).repeat(2, axis=3))
    assert (list(outputs), state) == (["large"], {})
    assert doubling.device == "cpu"


def test_frames_of_different_sizes_wait_for_each_other_but_are_not_batched(doubling):
    session = Held(doubling)
    shapes = [(1, 1, 4, 6), (1, 1, 4, 6), (1, 1, 4, 6), (1, 1, 8, 2), (1, 1, 4, 6)]
    frames = [np.full(shape, n, np.float32) for n, shape in enumerate(shapes)]
    for frame, (outputs, _) in zip(
        frames, session.run_all([({"luma": frame}, None) for frame in frames]), strict=True
    ):
        np.testing.assert_array_equal(outputs["large"], frame.repeat(2, axis=2).repeat(2, axis=3))
    assert session.batches == [1, 2, 1, 1]


# State


def test_a_stream_s_state_is_carried_from_run_to_run(summing):
    state, means = None, []
    for value in (1.0, 2.0, 4.0):
        outputs, state = summing.run(x(value), state)
        assert list(outputs) == ["mean"]
        means.append(outputs["mean"][0].tolist())
    assert means == [[0.5, -0.5], [1.5, -1.5], [3.5, -3.5]]
    assert state["sum"].tolist() == [[7.0, -7.0]]


def test_streams_that_share_a_network_do_not_share_a_state(summing):
    """Each goes on from its own state, and a run leaves the state that it took as it was."""
    _, one = summing.run(x(1))
    _, other = summing.run(x(10))
    before = one["sum"].copy()
    for _ in range(2):  # the same run again gives the same
        assert summing.run(x(2), one)[1]["sum"].tolist() == [[3.0, -3.0]]
    np.testing.assert_array_equal(one["sum"], before)
    assert summing.run(x(2), other)[1]["sum"].tolist() == [[12.0, -12.0]]


def test_several_tracks_may_go_in_one_request(summing):
    _, state = summing.run(x(1, 2, 3))
    outputs, state = summing.run(x(1, 1, 1), state)
    assert outputs["mean"][:, 0].tolist() == [1.0, 1.5, 2.0]
    assert state["sum"].shape == (3, 2)


def test_waiting_streams_are_batched_with_their_own_states(summing):
    session = Held(summing)
    streams = [(x(n), {"sum": x(10 * n)["x"]}) for n in range(5)]
    results = session.run_all(streams)
    assert session.batches == [1, 4]
    assert [state["sum"][0, 0] for _, state in results] == [11 * n for n in range(5)]
    assert [outputs["mean"][0, 0] for outputs, _ in results] == [5.5 * n for n in range(5)]


def test_a_state_may_be_an_output_as_well(tmp_path):
    """The output of the previous frame as a further input, for one."""
    signature = Signature({"x": PAIR}, {"mean": PAIR, "new_sum": PAIR})
    network = Network.open(model(accumulator(tmp_path / "sums.onnx")), signature, [SUM])
    outputs, state = network.run(x(3))
    assert outputs["new_sum"].tolist() == state["sum"].tolist() == [[3.0, -3.0]]


def test_the_first_state_takes_its_free_sizes_from_the_inputs(tmp_path):
    sizes = ("n", 1, "h", "w")
    shape: Shape = (None, 1, None, None)
    network = Network.open(
        model(accumulator(tmp_path / "sums.onnx", sizes)),
        Signature({"x": shape}, {"mean": shape}),
        [StateTensor("sum", "new_sum", shape)],
    )
    frame = np.ones((2, 1, 3, 5), np.float32)
    assert network.first_state({"x": frame})["sum"].shape == frame.shape
    assert network.run({"x": frame})[1]["sum"].tolist() == frame.tolist()


@pytest.mark.parametrize("sizes", [(("n", 2), ("m", 2)), ((None, 2), (None, 2))])
def test_a_first_state_of_unknown_size_has_to_be_given(tmp_path, sizes):
    network = Network.open(model(accumulator(tmp_path / "sums.onnx", *sizes)), MEANS, [SUM])
    with pytest.raises(ValueError, match=r"give the first sum: no input has all of its sizes"):
        network.run(x(1))
    assert network.run(x(1), {"sum": x(2)["x"]})[1]["sum"].tolist() == [[3.0, -3.0]]


# What it rejects


@pytest.mark.parametrize(
    ("inputs", "state", "message"),
    [
        ({"y": np.zeros((1, 2), np.float32)}, None, r"takes \['sum', 'x'\], not \['sum', 'y'\]"),
        ({"x": np.zeros((1, 3), np.float32)}, None, r"x is float32 \[1, 3\] instead of float32"),
        ({"x": np.zeros((1, 2), np.float64)}, None, r"x is float64 \[1, 2\] instead of float32"),
        ({"x": np.zeros(2, np.float32)}, {"sum": np.zeros((1, 2), np.float32)}, r"x is .* \[2\]"),
        ({"x": np.zeros((0, 2), np.float32)}, None, r"x is float32 \[0, 2\]"),
        (x(1), {}, r"not \['x'\]"),
        (x(1), {"sum": np.zeros((2, 2), np.float32)}, r"sum is float32 \[2, 2\] instead of"),
    ],
)
def test_arrays_that_the_network_does_not_take_are_rejected(summing, inputs, state, message):
    if state is None and "y" in inputs:
        state = {"sum": inputs["y"]}
    with pytest.raises(ValueError, match=message):
        summing.run(inputs, state)
    assert summing.run(x(1))[1]["sum"].tolist() == [[1.0, -1.0]]


def test_a_file_of_another_signature_is_rejected(tmp_path):
    file = model(accumulator(tmp_path / "sums.onnx"))
    with pytest.raises(ModelError) as raised:
        Network.open(file, FRAMES)
    assert str(raised.value) == (
        f"{file.path} is not a doubler: it takes x ['n', 2], sum ['n', 2] and returns "
        "mean ['n', 2], new_sum ['n', 2], instead of luma Nx1xHxW and large Nx1xHxW; "
        "export one with python -m models.export"
    )
    with pytest.raises(ModelError, match="is not a running mean"):
        Network.open(file, MEANS)  # its state is not named


# Several threads


class Held:
    """Holds the first run of a network's real session until all other requests wait.

    Attributes:
        batches: of the runs.
    """

    def __init__(self, network: Network) -> None:
        self._network, self._session = network, network.session
        self.batches: list[int] = []
        self.began, self.goes_on = threading.Event(), threading.Event()
        network.session = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, names: list[str], inputs: dict[str, np.ndarray]) -> Any:
        self.batches.append(len(next(iter(inputs.values()))))
        self.began.set()
        assert self.goes_on.wait(10)
        return self._session.run(names, inputs)

    def run_all(self, requests: list[tuple[dict[str, np.ndarray], Any]]) -> list[Any]:
        """Each request from a separate thread, in this order; the first one's run is held."""
        queue = self._network._queue
        with ThreadPoolExecutor(len(requests)) as pool:
            futures = []
            for index, request in enumerate(requests):
                futures.append(pool.submit(self._network.run, *request))
                assert self.began.wait(10)
                until(lambda goal=index: len(queue._waiting) == goal)
            self.goes_on.set()
            return [future.result(10) for future in futures]


def test_a_batch_of_one_runs_requests_in_turn(tmp_path):
    network = Network.open(model(accumulator(tmp_path / "sums.onnx")), MEANS, [SUM])
    session = Held(network)
    assert len(session.run_all([(x(n), None) for n in range(3)])) == 3
    assert session.batches == [1, 1, 1]


def test_a_file_of_a_fixed_batch_is_never_batched(tmp_path):
    network = Network.open(
        model(accumulator(tmp_path / "sums.onnx", (1, 2))), MEANS, [SUM], batch=4
    )
    session = Held(network)
    assert [
        state["sum"][0, 0] for _, state in session.run_all([(x(n), None) for n in range(3)])
    ] == [0, 1, 2]
    assert session.batches == [1, 1, 1]


def test_a_closed_network_refuses_requests_that_wait_and_later_ones(summing):
    session = Held(summing)
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(summing.run, x(1))
        assert session.began.wait(10)
        waiting = pool.submit(summing.run, x(2))
        until(lambda: len(summing._queue._waiting) == 1)
        summing.close()
        with pytest.raises(QueueClosedError):
            waiting.result(10)
        with pytest.raises(QueueClosedError):
            summing.run(x(3))
        session.goes_on.set()
        assert running.result(10)[1]["sum"][0, 0] == 1
