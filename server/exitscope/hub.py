"""Fan-out to WebSocket clients: a frame is built once per subscription, and the newest one wins.

A client owns one slot for the next frame. If it has not taken the last one when the next is there, the last
is skipped and counted. So a slow client costs the same as a fast one, and one that never reads is closed.
"""

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from pydantic_core import to_json

from . import frame
from .aggregate import Aggregate
from .alarms.alarms import Alarms
from .errors import error_body
from .source import Status
from .window import DEFAULT_WINDOW, WINDOWS

MAX_CLIENTS: Final = 64
"""Each may hold one frame of at most some 100 KB and what the kernel buffers for its socket."""

SEND_TIMEOUT_S: Final = 10.0
_PERIOD_S: Final = 0.2
_HISTORY_PERIOD_S: Final = 2.0
MAX_ID: Final = 256


class WebSocket(Protocol):
    """What the hub needs of a connection."""

    async def send_text(self, data: str) -> None:
        """Returns when the data is on its way: later, if the other side does not read."""


@dataclass(slots=True, eq=False)
class Client:
    """One connection: what it wants, and the newest that it has not been sent yet."""

    vm_id: str = ""
    window: str = DEFAULT_WINDOW
    error: dict[str, Any] | None = None
    history: str | None = None
    frame: str | None = None  # JSON without its last brace and without its tick
    tick: str = "null"
    ticks_told: int = -1  # columns of the time series that it has; -1: none, it needs the history
    layout: tuple[tuple[str, int], ...] = ()
    history_due: float = 0.0
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def subscribe(self, vm_id: str, window: str) -> None:
        """Another VM or window; unknown windows leave the old one and are told."""
        if window in WINDOWS:
            self.window = window
        else:
            self.fail(
                "invalid_parameter",
                f"window: {window[:20]!r} is not on offer",
                f"One of {', '.join(WINDOWS)}.",
            )
        self.vm_id = vm_id[:MAX_ID]
        self.ticks_told, self.history_due = -1, 0.0
        self.frame = self.history = None

    def fail(self, code: str, message: str, hint: str) -> None:
        """Tell an error; the newest wins."""
        self.error = {"type": "error", **error_body(code, message, hint)}
        self.wake.set()


class Hub:
    """All clients. skipped: frames that were not sent because their client was slow."""

    def __init__(self, aggregate: Aggregate, status: Status, alarms: Alarms | None = None) -> None:
        self.clients: set[Client] = set()
        self.skipped = 0
        self.aggregate = aggregate
        self._status = status
        self._alarms = alarms or Alarms()
        self._sequence = 0
        self._data = asyncio.Event()

    def notify(self) -> None:
        """There is new data: send a frame now rather than a little later."""
        self._data.set()

    def show(self, aggregate: Aggregate, status: Status, alarms: Alarms | None = None) -> None:
        """Show another state from now on: every client needs its history."""
        self.aggregate, self._status, self._alarms = aggregate, status, alarms or Alarms()
        for client in self.clients:
            client.ticks_told, client.history_due = -1, 0.0

    async def run(self) -> None:
        """A frame to every client five times a second, also when there is no data."""
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            self.publish(started)
            await asyncio.sleep(max(0.8 * _PERIOD_S - (loop.time() - started), 0))
            self._data.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.4 * _PERIOD_S):  # Python 3.11's wait_for may swallow the server's end
                    await self._data.wait()

    def publish(self, now: float) -> None:
        """Build what is asked for, and offer it."""
        self._sequence += 1
        groups: dict[tuple[str, str], list[Client]] = {}
        for client in self.clients:
            groups.setdefault((client.vm_id, client.window), []).append(client)
        for (vm_id, window), clients in groups.items():
            self._offer(vm_id, WINDOWS[window], clients, now)

    async def serve(self, client: Client, socket: WebSocket) -> None:
        """Send what is offered until the connection fails; TimeoutError if the other side does not read."""
        while True:
            await client.wake.wait()
            client.wake.clear()
            texts = []
            if client.error is not None:
                texts.append(json.dumps(client.error))
                client.error = None
            if client.history is not None:
                texts.append(client.history)
                client.history = None
            if client.frame is not None:
                texts.append(f'{client.frame},"tick":{client.tick}}}')
                client.frame, client.tick = None, "null"
            for text in texts:
                await asyncio.wait_for(socket.send_text(text), SEND_TIMEOUT_S)

    def _offer(self, vm_id: str, length_ns: int, clients: list[Client], now: float) -> None:
        aggregate = self.aggregate
        selection = frame.select(aggregate, vm_id)
        if selection is None and vm_id and aggregate.ready:
            for client in clients:
                client.fail("unknown_vm", f"no VM {vm_id!r}", "It has ended; another one is shown.")
                client.vm_id = ""
            selection = frame.select(aggregate, "")
        body = _json(
            frame.build(
                aggregate, self._status, selection, length_ns, self._sequence, self.skipped, self._alarms.shown()
            )
        ).removesuffix("}")
        layout = selection.layout if selection else ()
        ticks = aggregate.series.count
        tick = history = None
        for client in clients:
            # A replay may be faster than frames are sent, and a client slower: no column is to be left out.
            untaken = client.frame is not None and client.tick != "null"
            missed = ticks - client.ticks_told > (0 if untaken else 1)
            if client.ticks_told < 0 or client.layout != layout or missed:
                client.ticks_told = -1
                if now >= client.history_due:
                    history = history or _json(frame.history(aggregate, selection, length_ns))
                    client.history, client.ticks_told, client.layout = history, ticks, layout
                    client.tick = "null"  # an older one after it would be a step back
                    client.history_due = now + _HISTORY_PERIOD_S
            elif client.ticks_told < ticks:
                tick = tick or _json(frame.tick(aggregate, selection))
                client.tick, client.ticks_told = tick, ticks
            if client.frame is not None:
                self.skipped += 1
            client.frame = body
            client.wake.set()


def _json(data: Any) -> str:
    return to_json(data).decode()  # several times as fast as json.dumps, and pydantic brings it along anyway
