"""The server's own tasks: each runs for ever; one that ends is started again, its reason in the log and in /health."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from exitscope_probes.wire import WireError

from .errors import UserError

log = logging.getLogger("exitscope")

RECENT_NS: Final = 60_000_000_000
"""A part that ended so recently is not well: it may end again."""

_BACKOFF_S: Final = (0.2, 1.0, 5.0)
_MAX_REASON: Final = 300


@dataclass(slots=True)
class Failure:
    """A part that ended although it should not.

    times: how often; at_ns: the last time, CLOCK_MONOTONIC of this host.
    """

    part: str
    reason: str
    times: int
    at_ns: int


class Works:
    """See the module. failures: part -> its last one."""

    def __init__(self) -> None:
        self.failures: dict[str, Failure] = {}

    @property
    def well(self) -> bool:
        """Whether no part has ended lately."""
        return all(time.monotonic_ns() - one.at_ns > RECENT_NS for one in self.failures.values())

    async def keep(self, part: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work` again whenever it ends, until cancelled."""
        while True:
            try:
                await work()
                self._failed(part, "it returned")
            except Exception as error:  # a defect of one part must not leave a server that only looks alive
                self._failed(part, reason_of(error), error)
            times = self.failures[part].times
            await asyncio.sleep(_BACKOFF_S[min(times, len(_BACKOFF_S)) - 1])

    def _failed(self, part: str, reason: str, error: Exception | None = None) -> None:
        before = self.failures.get(part)
        times = 1 + (before.times if before else 0)
        known = before is not None and before.reason == reason
        self.failures[part] = Failure(part, reason, times, time.monotonic_ns())
        # Said once in full: it may end in the same way again and again.
        log.error("%s ended and is started again: %s", part, reason, exc_info=None if known else error)


def reason_of(error: BaseException) -> str:
    """One line for a person: the message of an error that was foreseen, else its kind, too."""
    said = " ".join(str(error).split())[:_MAX_REASON]
    return said if isinstance(error, UserError | WireError) and said else f"{type(error).__name__}: {said}"
