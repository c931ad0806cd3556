"""Waiting for what may never come, in ways that can be cancelled."""

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

Result = TypeVar("Result")


class BackgroundTasks:
    """Runs coroutines that their caller does not wait for.

    asyncio holds only weak references to tasks; this holds them until they end. Iterating gives
    those that still run.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Future[Any]] = set()

    def __iter__(self) -> Iterator[asyncio.Future[Any]]:
        return iter(list(self._tasks))

    def start(self, work: Coroutine[Any, Any, Any]) -> None:
        """Starts a coroutine in the running event loop; asyncio logs what it raises."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self) -> None:
        """Cancels all that still run, without waiting for their end."""
        for task in self:
            task.cancel()


async def first(*events: asyncio.Event, seconds: float | None = None) -> bool:
    """Waits for any of the events; returns whether one came in time."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        done, _ = await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return bool(done)
    finally:
        for wait in waits:
            wait.cancel()


async def run_until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Runs `work` until it ends or `stop` comes, which cancels it whatever it waits for.

    Raises what `work` raises.
    """
    working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        error = await stopped(working)
    if error is not None:
        raise error


async def finished(work: Coroutine[Any, Any, Result], seconds: float) -> Result:
    """Awaits `work`; if that is cancelled, `work` still has `seconds` to finish.

    For a request that opens a session: only its answer names what is to be closed.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,), timeout=seconds)
        await stopped(task)
        raise


async def stopped(task: asyncio.Future[Any]) -> BaseException | None:
    """Cancels a task, unless it has ended, and returns the error that it ended with, if any."""
    task.cancel()
    await asyncio.wait((task,))
    return None if task.cancelled() else task.exception()
