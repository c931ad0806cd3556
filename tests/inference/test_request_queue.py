"""One network for many threads: order, batches, failures."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.inference.request_queue import InferenceQueue, Inputs, QueueClosedError


class Held:
    """Doubles its input; every run waits until it is let go."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.seen: list[list[float]] = []
        self.threads: list[str] = []
        self.gate = threading.Semaphore(0)
        self.began = threading.Semaphore(0)
        self.raises: Exception | None = None

    def __call__(self, inputs: Inputs) -> np.ndarray:
        self.sizes.append(len(inputs["x"]))
        self.seen.append(inputs["x"][:, 0].tolist())
        self.threads.append(threading.current_thread().name)
        self.began.release()
        assert self.gate.acquire(timeout=10)
        if self.raises is not None:
            raise self.raises
        return 2 * inputs["x"]


def pictures(*values: float) -> Inputs:
    return {"x": np.array([[value] for value in values], np.float32)}


@pytest.fixture
def pool():
    with ThreadPoolExecutor(16) as pool:
        yield pool


def queue_up(
    pool: ThreadPoolExecutor, queue: InferenceQueue, *requests: Inputs, most: int = 8
) -> list["Future[np.ndarray]"]:
    """Requests one after the other: each waits in the queue before the next one comes."""
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


def begin(pool: ThreadPoolExecutor, queue: InferenceQueue, held: Held, request: Inputs) -> "Future":
    """A request whose run is under way, and stays so."""
    future = pool.submit(queue, request, 8)
    assert held.began.acquire(timeout=10)
    return future


def values(future: "Future[np.ndarray]") -> list[float]:
    return future.result(10)[:, 0].tolist()


def test_who_finds_it_free_runs_it_himself_on_his_own_arrays():
    seen = []
    queue = InferenceQueue(
        lambda inputs: seen.append((threading.current_thread(), inputs)) or inputs["x"]
    )
    mine = pictures(1, 2)
    assert queue(mine, 8) is mine["x"]
    assert seen == [(threading.current_thread(), mine)]


def test_those_who_wait_anyway_are_run_together_and_get_their_own_part(pool):
    held = Held()
    queue = InferenceQueue(held)
    first = begin(pool, queue, held, pictures(1))
    waiting = queue_up(pool, queue, pictures(2), pictures(3, 4), pictures(5))
    for _ in range(2):
        held.gate.release()
    assert values(first) == [2]
    assert [values(future) for future in waiting] == [[4], [6, 8], [10]]
    assert held.seen == [[1], [2, 3, 4, 5]]


def test_a_batch_has_a_bound_and_keeps_the_order(pool):
    """What does not fit is not overtaken by a smaller one behind it."""
    held = Held()
    queue = InferenceQueue(held)
    begin(pool, queue, held, pictures(1))
    waiting = queue_up(pool, queue, *(pictures(*[n] * n) for n in (5, 2, 4, 1, 9)))
    for _ in range(4):
        held.gate.release()
    assert [values(future) for future in waiting] == [[2 * n] * n for n in (5, 2, 4, 1, 9)]
    assert held.sizes == [1, 7, 5, 9]


def test_with_a_bound_of_one_they_go_one_after_the_other(pool):
    held = Held()
    queue = InferenceQueue(held)
    begin(pool, queue, held, pictures(1))
    waiting = queue_up(pool, queue, pictures(2), pictures(3), most=1)
    for _ in range(3):
        held.gate.release()
    assert [values(future) for future in waiting] == [[4], [6]]
    assert held.seen == [[1], [2], [3]]


def test_a_failure_reaches_all_who_were_in_the_run_and_nobody_else(pool):
    held = Held()
    queue = InferenceQueue(held)
    first = begin(pool, queue, held, pictures(1))
    together = queue_up(pool, queue, pictures(2), pictures(3))
    held.gate.release()
    assert values(first) == [2]
    assert held.began.acquire(timeout=10)
    later = queue_up(pool, queue, pictures(4))
    held.raises = RuntimeError("CUDA failure 999")
    held.gate.release()
    for future in together:
        with pytest.raises(RuntimeError, match="999"):
            future.result(10)
    held.raises = None
    held.gate.release()
    assert values(later[0]) == [8]


def test_an_interrupted_run_ends_for_the_others_too(pool):
    held = Held()
    queue = InferenceQueue(held)
    begin(pool, queue, held, pictures(1))
    leader, follower = queue_up(pool, queue, pictures(2), pictures(3))
    held.raises = KeyboardInterrupt()  # type: ignore[assignment]
    held.gate.release(2)
    with pytest.raises(KeyboardInterrupt):
        leader.result(10)
    with pytest.raises(RuntimeError, match="interrupted"):
        follower.result(10)


def test_a_closed_line_lets_all_go_who_wait_for_a_run_that_hangs(pool):
    held = Held()
    queue = InferenceQueue(held)
    hanging = begin(pool, queue, held, pictures(1))
    waiting = queue_up(pool, queue, pictures(2), pictures(3))
    queue.close()
    for future in waiting:
        with pytest.raises(QueueClosedError):
            future.result(10)
    with pytest.raises(QueueClosedError):
        queue(pictures(4), 8)
    held.gate.release()
    assert values(hanging) == [2]


@given(
    sizes=st.lists(st.integers(1, 10), min_size=1, max_size=10),
    most=st.integers(1, 8),
)
def test_everybody_gets_his_own_whatever_comes_together(sizes, most):
    ran: list[int] = []

    def run(inputs: Inputs) -> np.ndarray:
        ran.append(len(inputs["x"]))
        return 2 * inputs["x"]

    queue = InferenceQueue(run)
    requests = [pictures(*[100 * index + n for n in range(n)]) for index, n in enumerate(sizes)]
    with ThreadPoolExecutor(len(sizes)) as pool:
        results = list(pool.map(lambda request: queue(request, most), requests, timeout=20))
    for request, result in zip(requests, results, strict=True):
        np.testing.assert_array_equal(result, 2 * request["x"])
    assert sum(ran) == sum(sizes)
    assert all(size <= most or size in sizes for size in ran)
