"""HTTP connections that are let live: bounded in number, and in the time that the other side may do nothing.

Whoever connects and does not send a request, or does not read what it asked for, is ended. Where there are too many
connections, the one that has waited for its request for the longest makes room.
"""

import asyncio
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_S: Final = 10.0
"""From the connection, or the first byte of a further request, until all its headers are there."""

STALLED_S: Final = 10.0
"""A reader that takes nothing for so long is ended; the kernel's buffers and 64 KiB of ours are ahead of it."""


class Connection(H11Protocol):
    """One connection. Of a server: limit, of connections at once; waiting, those without a request, oldest first."""

    limit: ClassVar[int]
    waiting: ClassVar[dict["Connection", None]]

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._requested: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take it, or end one for it."""
        super().connection_made(transport)
        self._wait_for_request()
        if len(self.connections) > self.limit:
            oldest = next(iter(self.waiting))
            del self.waiting[oldest]  # at once: many may come before the loop has told it that it is over
            self.connections.discard(oldest)
            oldest.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Some of a request, or of its body."""
        super().data_received(data)
        if self.transport.get_protocol() is not self or (self.cycle and not self.cycle.response_complete):
            self._requested = _cancelled(self._requested)
            self.waiting.pop(self, None)
        elif self._requested is None:
            self._wait_for_request()

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the rest to be read."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._end_if_stalled()
        elif self.cycle.response_complete:
            self.waiting[self] = None

    def timeout_keep_alive_handler(self) -> None:
        """No further request came."""
        super().timeout_keep_alive_handler()
        self._end_if_stalled()

    def pause_writing(self) -> None:
        """It does not read as fast as we write."""
        super().pause_writing()
        self._end_if_stalled()

    def resume_writing(self) -> None:
        """It has read."""
        super().resume_writing()
        self._stalled = _cancelled(self._stalled)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._requested, self._stalled = _cancelled(self._requested), _cancelled(self._stalled)
        self.waiting.pop(self, None)
        super().connection_lost(exc)

    def _wait_for_request(self) -> None:
        self._requested = self.loop.call_later(REQUEST_S, self.transport.abort)
        self.waiting[self] = None

    def _end_if_stalled(self) -> None:
        if self._stalled is None:
            self._stalled = self.loop.call_later(STALLED_S, self.transport.abort)


def connections_of(limit: int) -> type[Connection]:
    """The protocol of a server with so many connections at most."""
    return type("Connection", (Connection,), {"limit": limit, "waiting": {}})


def _cancelled(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """None, for the timer's place."""
    if timer is not None:
        timer.cancel()
    return None
