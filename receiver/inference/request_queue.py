"""Lets threads share a network: one run at a time, waiting requests batched into the next."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition
from typing import TypeAlias

import numpy as np

from receiver.inference.signature import Arrays

Run: TypeAlias = Callable[[Arrays], Arrays]
"""Runs the network on its inputs by name; returns its outputs by name, of the same batch."""


class QueueClosedError(Exception):
    """The queue was closed while a request waited in it; its result is unknown."""


@dataclass(eq=False)
class _Request:
    inputs: Arrays
    result: Arrays | None = None
    error: BaseException | None = None

    @property
    def count(self) -> int:
        """The request's batch; 1 if its first input is a scalar."""
        first = next(iter(self.inputs.values()))
        return len(first) if first.ndim else 1

    @property
    def done(self) -> bool:
        return self.result is not None or self.error is not None

    def can_join(self, other: "_Request") -> bool:
        """Whether both can be in one batch: same inputs, same sizes but for the first."""
        return self.inputs.keys() == other.inputs.keys() and all(
            array.shape[1:] == other.inputs[name].shape[1:] for name, array in self.inputs.items()
        )


class InferenceQueue:
    """Queues the requests of several threads for one network, first come, first served.

    A request never waits in order to be batched, and the queue has no thread: a caller's thread
    that finds the network free runs it itself, on its own arrays. Of the requests that arrive
    during a run, the first runs next, together with as many behind it as fit into one batch.
    """

    def __init__(self, run: Run) -> None:
        """`run` is called by one thread at a time."""
        self._run = run
        self._changed = Condition()
        self._waiting: deque[_Request] = deque()
        self._running = False
        self._closed = False

    def __call__(self, inputs: Arrays, most: int) -> Arrays:
        """Runs the network, or waits until another thread has run it for this request.

        Args:
            inputs: arrays by name, Nx...; not changed.
            most: the largest batch that joins several requests; a larger request runs alone.

        Returns:
            This request's part of the outputs.

        Raises:
            QueueClosedError: if the queue is closed, before or while the request waits.
            Exception: the run's error, in every thread whose request was in the batch.
        """
        request = _Request(inputs)
        with self._changed:
            self._waiting.append(request)
            try:
                self._changed.wait_for(lambda: self._need_not_wait(request))
                batch = [] if request.done or self._closed else self._take(most)
            finally:  # an interrupted thread must not block the requests behind its own
                if request in self._waiting:
                    self._waiting.remove(request)
                    self._changed.notify_all()
        if batch:
            self._lead(batch)
        if request.error is not None:
            raise request.error
        if request.result is None:
            raise QueueClosedError
        return request.result

    def close(self) -> None:
        """Raises QueueClosedError in every waiting thread, even if the run in progress hangs."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _need_not_wait(self, request: _Request) -> bool:
        """Whether the request is done, refused, or the next one to run."""
        is_next = bool(self._waiting) and self._waiting[0] is request and not self._running
        return request.done or self._closed or is_next

    def _take(self, most: int) -> list[_Request]:
        """Removes the first request and those behind it that fit into its batch; returns them."""
        batch = [self._waiting.popleft()]
        count = batch[0].count
        while (
            self._waiting
            and count + self._waiting[0].count <= most
            and self._waiting[0].can_join(batch[0])
        ):
            batch.append(self._waiting.popleft())
            count += batch[-1].count
        self._running = True
        return batch

    def _lead(self, batch: list[_Request]) -> None:
        """Runs a batch and wakes the other threads, whatever happens."""
        results: list[Arrays] = []
        error: BaseException = RuntimeError("the run was interrupted")
        try:
            results = _run_together(self._run, batch)
        except Exception as raised:
            error = raised
        finally:
            with self._changed:
                for request, result in zip(batch, results, strict=False):
                    request.result = result
                for request in batch[len(results) :]:
                    request.error = error
                self._running = False
                self._changed.notify_all()


def _run_together(run: Run, batch: list[_Request]) -> list[Arrays]:
    """Returns each request's part of one run. The arrays of a single request are not copied."""
    if len(batch) == 1:
        return [run(batch[0].inputs)]
    names = batch[0].inputs
    together = run({name: np.concatenate([one.inputs[name] for one in batch]) for name in names})
    ends = np.cumsum([request.count for request in batch])
    for name, array in together.items():
        if array.shape[:1] != (ends[-1],):
            raise ValueError(f"{name} is {list(array.shape)} for a batch of {ends[-1]}")
    return [
        {name: array[end - one.count : end] for name, array in together.items()}
        for end, one in zip(ends, batch, strict=True)
    ]
