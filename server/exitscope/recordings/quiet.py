"""Long work beside an event loop that must not wait."""

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from ..mallocs import give_back

_NICE: Final = 10


async def in_quiet_thread(work: Callable[[], object]) -> None:
    """In a thread of its own, that lets others go first and does not hold up the server's end; its memory goes back."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def tell(error: BaseException | None) -> None:
        if not done.done():
            done.set_exception(error) if error else done.set_result(None)

    def run() -> None:
        error: BaseException | None = None
        try:
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
            work()
        except BaseException as raised:  # whoever waits for it gets it
            error = raised
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell, error)
        give_back()

    threading.Thread(target=run, daemon=True, name="finish").start()
    await done
