"""A thread that may hang: nobody has to wait for it, not even the process that wants to end."""

import atexit
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, ParamSpec, TypeAlias, TypeVar

ENDS_WITHIN = 2.0
"""Seconds that the process waits at its end for work under way: a library whose thread still runs
while the interpreter goes may crash."""

P = ParamSpec("P")
Result = TypeVar("Result")
Job: TypeAlias = "tuple[Future[Any], Callable[[], Any]] | None"


class Worker(Executor):
    """One thread that does one piece of work after the other, begun with the first.

    Like ThreadPoolExecutor(1), but for its end: that one's threads are waited for when the process
    ends, so one that hangs within a library would keep the process for ever.
    """

    def __init__(self, name: str) -> None:
        """`name` is the thread's."""
        self._name = name
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self._lock = Lock()
        self._thread: Thread | None = None
        self._closed = False
        self._began = 0.0  # of the work under way, by time.monotonic; 0 while there is none

    @property
    def busy_s(self) -> float:
        """Seconds for which the work under way has been going on, 0 while there is none."""
        began = self._began
        return time.monotonic() - began if began else 0.0

    def submit(
        self, fn: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[Result]:
        """As `Executor.submit`. Raises RuntimeError after `shutdown` or `abandon`."""
        future: Future[Result] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("this worker takes no work any more")
            if self._thread is None:
                self._thread = Thread(target=self._run, name=self._name, daemon=True)
                atexit.register(self._end)
                self._thread.start()
            self._jobs.put((future, lambda: fn(*args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no work any more; the thread ends with what was given to it so far."""
        with self._lock:
            self._closed = True
            if cancel_futures:
                self._cancel_waiting()
            self._jobs.put(None)
        if wait and self._thread is not None:
            self._thread.join()

    def abandon(self) -> None:
        """Leaves the thread to itself: it ends once its work under way does, if that ever ends."""
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
            del job, future, work  # a picture is not to be kept until the next one comes
        atexit.unregister(self._end)


def _do(future: "Future[Any]", work: Callable[[], Any]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:
        future.set_exception(error)
