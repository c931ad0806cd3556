"""A worker thread that may hang without blocking its callers or the end of the process."""

import atexit
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, ParamSpec, TypeAlias, TypeVar

ENDS_WITHIN = 2.0
"""Seconds for which the process waits at its end for work in progress: a library whose thread still
runs while the interpreter shuts down may crash."""

P = ParamSpec("P")
Result = TypeVar("Result")
Job: TypeAlias = "tuple[Future[Any], Callable[[], Any]] | None"


class Worker(Executor):
    """Runs one function after another in a thread that starts with the first one.

    Like ThreadPoolExecutor(1), except that a process waits for that one's threads at its end: a
    thread that hangs in a library would keep the process from ending.
    """

    def __init__(self, name: str) -> None:
        """Creates a worker whose thread gets this name."""
        self._name = name
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self._lock = Lock()
        self._thread: Thread | None = None
        self._closed = False
        self._began = 0.0  # start of the work in progress, by time.monotonic; 0 if idle

    @property
    def busy_s(self) -> float:
        """Seconds since the start of the work in progress; 0 if idle."""
        began = self._began
        return time.monotonic() - began if began else 0.0

    def submit(
        self, fn: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[Result]:
        """Schedules a call like `Executor.submit`. Raises RuntimeError after `shutdown`."""
        future: Future[Result] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("this worker was shut down")
            if self._thread is None:
                self._thread = Thread(target=self._run, name=self._name, daemon=True)
                atexit.register(self._end)
                self._thread.start()
            self._jobs.put((future, lambda: fn(*args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accepts no more work; the thread ends after the work submitted so far."""
        with self._lock:
            self._closed = True
            if cancel_futures:
                self._cancel_waiting()
            self._jobs.put(None)
        if wait and self._thread is not None:
            self._thread.join()

    def abandon(self) -> None:
        """Abandons the thread: it ends when its work in progress ends, if ever."""
        self.shutdown(wait=False, cancel_futures=True)
        atexit.unregister(self._end)

    def _end(self) -> None:
        self.shutdown(wait=False, cancel_futures=True)
        if self._thread is not None:
            self._thread.join(ENDS_WITHIN)

    def _cancel_waiting(self) -> None:
        while not self._jobs.empty():
            job = self._jobs.get()
            if job is not None:
                job[0].cancel()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, work = job
            if future.set_running_or_notify_cancel():
                self._began = time.monotonic()
                _do(future, work)
                self._began = 0.0
            del job, future, work  # do not keep a frame alive until the next one arrives
        atexit.unregister(self._end)


def _do(future: "Future[Any]", work: Callable[[], Any]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:
        future.set_exception(error)
