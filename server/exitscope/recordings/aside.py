"""An event loop in a thread of its own, for recordings: they must not wait for the server's, which may be busy."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

_T = TypeVar("_T")


class Aside:
    """Its thread starts with the first `run` and ends with the process."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """What it returns or raises. Whoever is cancelled meanwhile cancels it, and waits until it has ended."""
        loop, done, tasks = self._running(), Future[_T](), list[asyncio.Task[_T]]()

        def begin() -> None:
            tasks.append(loop.create_task(work))
            tasks[0].add_done_callback(lambda task: _hand_over(task, done))

        def end() -> None:
            tasks[0].cancel()  # begin has been called by then

        loop.call_soon_threadsafe(begin)
        waiting = asyncio.wrap_future(done)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            loop.call_soon_threadsafe(end)
            await asyncio.wait((waiting,))
            raise

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Call it there, soon."""
        self._running().call_soon_threadsafe(function, *arguments)

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, daemon=True, name="recordings").start()
        return self._loop


def _hand_over(task: "asyncio.Task[_T]", done: "Future[_T]") -> None:
    if task.cancelled():
        done.cancel()
    elif error := task.exception():
        done.set_exception(error)
    else:
        done.set_result(task.result())
