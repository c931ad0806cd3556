"""Many threads, one network: one run at a time, and those who wait anyway are run together."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Inputs: TypeAlias = "dict[str, NDArray[np.float32]]"
"""A network's inputs by name; all have the same first dimension, that of the pictures."""
Run: TypeAlias = Callable[[Inputs], NDArray[np.float32]]
"""Runs the network; the result's first dimension is that of the inputs."""


class QueueClosedError(Exception):
    """The queue was closed while one waited in it: nothing is known of the result."""


@dataclass(eq=False)
class _Request:
    inputs: Inputs
    count: int  # of pictures
    result: NDArray[np.float32] | None = None
    error: BaseException | None = None

    @property
    def done(self) -> bool:
        return self.result is not None or self.error is not None


class InferenceQueue:
    """Where requests of several threads wait for one network, first come, first served.

    Nobody ever waits in order to be run together with others, and there is no thread of its own:
    who finds the network free runs it itself, on its own arrays. Of those who come meanwhile the
    first then runs it for itself and for as many behind it as may go in one run.
    """

    def __init__(self, run: Run) -> None:
        """`run` is called by one thread at a time."""
        self._run = run
        self._changed = Condition()
        self._waiting: deque[_Request] = deque()
        self._running = False
        self._closed = False

    def __call__(self, inputs: Inputs, most: int) -> NDArray[np.float32]:
        """Runs the network, perhaps for others too, or lets another do it; returns its own part.

        Args:
            inputs: Nx... arrays; not changed.
            most: pictures in a run together with others; more than these are run alone.

        Raises:
            QueueClosedError: if the queue is or becomes closed.
            Exception: whatever the run raised, to all whose pictures were in it.
        """
        request = _Request(inputs, len(next(iter(inputs.values()))))
        with self._changed:
            self._waiting.append(request)
            try:
                self._changed.wait_for(lambda: self._is_over_for(request))
                batch = [] if request.done or self._closed else self._take(most)
            finally:  # by an interrupt too: nobody shall wait behind one who has gone
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
        """Sends all away who wait, also for a run that is under way and perhaps never ends."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _is_over_for(self, request: _Request) -> bool:
        """Whether there is nothing left to wait for: it is done, or to be done by the asker."""
        is_next = bool(self._waiting) and self._waiting[0] is request and not self._running
        return request.done or self._closed or is_next

    def _take(self, most: int) -> list[_Request]:
        """The first in queue, and those behind it who may come along."""
        batch = [self._waiting.popleft()]
        count = batch[0].count
        while self._waiting and count + self._waiting[0].count <= most:
            batch.append(self._waiting.popleft())
            count += batch[-1].count
        self._running = True
        return batch

    def _lead(self, batch: list[_Request]) -> None:
        """Runs a batch; whatever happens, all in it and behind it go on."""
        results: list[NDArray[np.float32]] = []
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


def _run_together(run: Run, batch: list[_Request]) -> list[NDArray[np.float32]]:
    """Everyone's own part of one run; a single one's arrays are not copied."""
    if len(batch) == 1:
        return [run(batch[0].inputs)]
    names = batch[0].inputs
    together = run({name: np.concatenate([one.inputs[name] for one in batch]) for name in names})
    ends = np.cumsum([request.count for request in batch])
    return [together[end - one.count : end] for end, one in zip(ends, batch, strict=True)]
