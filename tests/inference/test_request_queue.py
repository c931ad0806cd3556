"""One network for many threads: order, batches, failures."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.inference.request_queue import InferenceQueue, QueueClosedError
from receiver.inference.signature import Arrays


class Held:
    """Doubles its input `x`; every run waits for a permit of `gate`."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.seen: list[list[float]] = []
        self.gate = threading.Semaphore(0)
        self.began = threading.Semaphore(0)
        self.raises: BaseException | None = None

    def __call__(self, inputs: Arrays) -> Arrays:
        self.sizes.append(len(inputs["x"]))
        self.seen.append(inputs["x"][:, 0].tolist())
        self.began.release()
        assert self.gate.acquire(timeout=10)
        if self.raises is not None:
            raise self.raises
        return doubled(inputs)


def doubled(inputs: Arrays) -> Arrays:
    return {"y": 2 * inputs["x"]}


def crops(*values: float) -> Arrays:
    return {"x": np.array([[value] for value in values], np.float32)}


@pytest.fixture
def pool():
    with ThreadPoolExecutor(16) as pool:
        yield pool


def queue_up(
    pool: ThreadPoolExecutor, queue: InferenceQueue, *requests: Arrays, most: int = 8
) -> "list[Future[Arrays]]":
    """Sends requests from separate threads; each waits in the queue before the next one."""
    futures, waiting = [], len(queue._waiting)
    for request in requests:
        futures.append(pool.submit(queue, request, most))
        waiting += 1
        until(lambda goal=waiting: len(queue._waiting) == goal)
    return futures


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.001)


def begin(
    pool: ThreadPoolExecutor, queue: InferenceQueue, held: Held, request: Arrays
) -> "Future[Arrays]":
    """Sends a request and returns when its run is in progress."""
    future = pool.submit(queue, request, 8)
    assert held.began.acquire(timeout=10)
    return future


def values(future: "Future[Arrays]") -> list[float]:
    return future.result(10)["y"][:, 0].tolist()


def test_a_thread_that_finds_the_network_free_runs_it_on_its_own_arrays():
    seen = []

    def run(inputs: Arrays) -> Arrays:
        seen.append((threading.current_thread(), inputs))
        return inputs

    own = crops(1, 2)
    assert InferenceQueue(run)(own, 8) is own
    assert seen == [(threading.current_thread(), own)]


def test_waiting_requests_are_batched_and_get_their_own_part(pool):
    held = Held()
    queue = InferenceQueue(held)
    first = begin(pool, queue, held, crops(1))
    waiting = queue_up(pool, queue, crops(2), crops(3, 4), crops(5))
    for _ in range(2):
        held.gate.release()
    assert values(first) == [2]
    assert [values(future) for future in waiting] == [[4], [6, 8], [10]]
    assert held.seen == [[1], [2, 3, 4, 5]]


def test_all_outputs_are_split(pool):
    held = Held()

    def run(inputs: Arrays) -> Arrays:
        return {**held(inputs), "negative": -inputs["x"], "second": inputs["z"]}

    queue = InferenceQueue(run)
    first = begin(pool, queue, held, crops(1) | {"z": np.ones((1, 3, 4), np.float32)})
    requests = [crops(*[n] * n) | {"z": np.full((n, 3, 4), n, np.float32)} for n in (1, 2, 3)]
    waiting = queue_up(pool, queue, *requests)
    held.gate.release(2)
    first.result(10)
    for request, future in zip(requests, waiting, strict=True):
        result = future.result(10)
        assert list(result) == ["y", "negative", "second"]
        np.testing.assert_array_equal(result["negative"], -request["x"])
        np.testing.assert_array_equal(result["second"], request["z"])
    assert held.sizes == [1, 6]


def test_a_batch_has_a_bound_and_keeps_the_order(pool):
    """A request that does not fit is not overtaken by a smaller one behind it."""
    held = Held()
    queue = InferenceQueue(held)
    begin(pool, queue, held, crops(1))
    waiting = queue_up(pool, queue, *(crops(*[n] * n) for n in (5, 2, 4, 1, 9)))
    for _ in range(4):
        held.gate.release()
    assert [values(future) for future in waiting] == [[2 * n] * n for n in (5, 2, 4, 1, 9)]
    assert held.sizes == [1, 7, 5, 9]


@pytest.mark.parametrize(
    "other",
    [
        {"x": np.ones((1, 2), np.float32)},
        {"x": np.ones((1, 1, 1), np.float32)},
        crops(1) | {"z": np.ones((1, 1), np.float32)},
    ],
)
def test_requests_of_other_sizes_are_not_batched(pool, other):
    held = Held()
    queue = InferenceQueue(held)
    begin(pool, queue, held, crops(1))
    waiting = queue_up(pool, queue, crops(2), other, crops(3))
    held.gate.release(4)
    for future in waiting:
        future.result(10)
    assert held.sizes == [1, 1, 1, 1]


def test_scalars_count_as_one(pool):
    held = Held()
    queue = InferenceQueue(lambda inputs: held(crops(1)))
    begin(pool, queue, held, crops(1))
    waiting = queue_up(pool, queue, *[{"x": np.float32([3])[0:1].reshape(())}] * 2, most=1)
    held.gate.release(3)
    assert [values(future) for future in waiting] == [[2], [2]]
    assert held.sizes == [1, 1, 1]


def test_with_a_bound_of_one_requests_run_in_turn(pool):
    held = Held()
    queue = InferenceQueue(held)
    begin(pool, queue, held, crops(1))
    waiting = queue_up(pool, queue, crops(2), crops(3), most=1)
    for _ in range(3):
        held.gate.release()
    assert [values(future) for future in waiting] == [[4], [6]]
    assert held.seen == [[1], [2], [3]]


def test_a_failure_reaches_all_requests_of_the_batch_and_no_other(pool):
    held = Held()
    queue = InferenceQueue(held)
    first = begin(pool, queue, held, crops(1))
    together = queue_up(pool, queue, crops(2), crops(3))
    held.gate.release()
    assert values(first) == [2]
    assert held.began.acquire(timeout=10)
    later = queue_up(pool, queue, crops(4))
    held.raises = RuntimeError("CUDA failure 999")
    held.gate.release()
    for future in together:
        with pytest.raises(RuntimeError, match="999"):
            future.result(10)
    held.raises = None
    held.gate.release()
    assert values(later[0]) == [8]


def test_an_interrupted_run_ends_for_the_other_requests_too(pool):
    held = Held()
    queue = InferenceQueue(held)
    begin(pool, queue, held, crops(1))
    leader, follower = queue_up(pool, queue, crops(2), crops(3))
    held.raises = KeyboardInterrupt()
    held.gate.release(2)
    with pytest.raises(KeyboardInterrupt):
        leader.result(10)
    with pytest.raises(RuntimeError, match="interrupted"):
        follower.result(10)


def test_closing_a_queue_releases_requests_that_wait_for_a_hanging_run(pool):
    held = Held()
    queue = InferenceQueue(held)
    hanging = begin(pool, queue, held, crops(1))
    waiting = queue_up(pool, queue, crops(2), crops(3))
    queue.close()
    for future in waiting:
        with pytest.raises(QueueClosedError):
            future.result(10)
    with pytest.raises(QueueClosedError):
        queue(crops(4), 8)
    held.gate.release()
    assert values(hanging) == [2]


@given(
    sizes=st.lists(st.integers(1, 10), min_size=1, max_size=10),
    most=st.integers(1, 8),
)
def test_every_request_gets_its_own_result_whatever_is_batched(sizes, most):
    ran: list[int] = []

    def run(inputs: Arrays) -> Arrays:
        ran.append(len(inputs["x"]))
        return doubled(inputs)

    queue = InferenceQueue(run)
    requests = [crops(*[100 * index + n for n in range(n)]) for index, n in enumerate(sizes)]
    with ThreadPoolExecutor(len(sizes)) as pool:
        results = list(pool.map(lambda request: queue(request, most), requests, timeout=20))
    for request, result in zip(requests, results, strict=True):
        np.testing.assert_array_equal(result["y"], 2 * request["x"])
    assert sum(ran) == sum(sizes)
    assert all(size <= most or size in sizes for size in ran)


@pytest.mark.parametrize("output", [np.zeros((1, 3)), np.zeros((5, 3)), np.zeros(())])
def test_an_output_without_a_part_for_each_request_is_an_error(pool, output):
    """Slices of it would be empty, or another request's."""
    held = Held()

    def run(inputs: Arrays) -> Arrays:
        return {**held(inputs), "z": output.astype(np.float32)}

    queue = InferenceQueue(run)
    first = begin(pool, queue, held, crops(1))
    waiting = queue_up(pool, queue, crops(2), crops(3))
    for _ in range(2):
        held.gate.release()
    assert values(first) == [2]
    for future in waiting:
        with pytest.raises(ValueError, match="for a batch of 2"):
            future.result(10)
