"""Where messages come from: the collector's socket, or a recording. Never raises for what the peer does."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from exitscope_probes.wire import HEADER_BYTES, Kind, Message, WireError, decode_body, decode_header

from .framing import read_bytes

log = logging.getLogger("exitscope")

STALE_NS: Final = 2_000_000_000
"""Totals come five times a second: silence for ten times as long is told."""

_BACKOFF_S: Final = (0.1, 0.2, 0.5, 1.0)
_READ_LIMIT_BYTES: Final = 1 << 20  # asyncio's buffer; a frame may be longer, up to the protocol's own limits

State = Literal["connected", "waiting", "stale"]


@dataclass(slots=True)
class Status:
    """How the source is. reason: why there are no live data; data_ns: monotonic time of the last message."""

    kind: Literal["live", "replay", "none"]
    reason: str | None = None
    connected: bool = False
    data_ns: int = 0
    errors: int = 0

    def state(self, now_ns: int) -> State:
        """connected, waiting (for the other side to be there) or stale (it is there and says nothing)."""
        if not self.connected:
            return "waiting"
        return "stale" if now_ns - self.data_ns > STALE_NS else "connected"

    def explain(self, now_ns: int) -> str | None:
        """One sentence for a person; None when all is well."""
        if self.state(now_ns) == "stale":
            return f"the collector has said nothing for {(now_ns - self.data_ns) // 1_000_000_000} s"
        return self.reason


Handler = Callable[[Message], None]
"""Takes a message over; raises WireError if it does not fit."""


class Source(Protocol):
    """An endless stream of messages."""

    status: Status

    async def run(self, handle: Handler) -> None:
        """Hand every message to `handle`, in order, until cancelled."""


class SocketSource:
    """The collector's unix socket; connects again, at most a second later, whatever happens."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.status = Status("live", f"connecting to {path}")

    async def run(self, handle: Handler) -> None:
        """Every message of every connection, in order. A frame that does not fit ends its connection."""
        attempt = 0
        while True:
            heard = self.status.data_ns
            try:
                await self._connection(handle)
            except WireError as error:
                self._fail(error)
            except OSError as error:
                self.status.reason = self._why(error)
            finally:
                self.status.connected = False
            attempt = 0 if self.status.data_ns != heard else attempt + 1
            await asyncio.sleep(_BACKOFF_S[min(attempt, len(_BACKOFF_S) - 1)])

    async def _connection(self, handle: Handler) -> None:
        reader, writer = await asyncio.open_unix_connection(self.path, limit=_READ_LIMIT_BYTES)
        self.status.reason = f"the collector on {self.path} is starting: it has said nothing yet"
        try:
            async for message in read_frames(reader):
                self.status.connected = True
                self.status.data_ns = time.monotonic_ns()
                handle(message)
                self.status.reason = None
                if message.kind is Kind.BYE:
                    self.status.reason = f"the collector ended: {str(message.meta.get('reason', ''))[:200]}"
                    return
            self.status.reason = "the collector closed the connection"
        finally:
            writer.close()

    def _fail(self, error: WireError) -> None:
        self.status.errors += 1
        self.status.reason = f"the collector sent what does not fit the protocol: {error}"
        log.warning("%s: %s; connecting again", self.path, error)

    def _why(self, error: OSError) -> str:
        match error:
            case FileNotFoundError() | ConnectionRefusedError():
                return f"no collector on {self.path}: start it with `sudo exitscope collect`"
            case PermissionError():
                return f"not allowed to open {self.path}: run as one of its group (`exitscope collect --group`)"
        return f"cannot open {self.path}: {error.strerror or error}"


async def read_frames(reader: asyncio.StreamReader) -> AsyncIterator[Message]:
    """Messages until the end of the stream. Raises WireError for garbage, also for an end amid a frame."""
    while True:
        try:
            head = await reader.readexactly(HEADER_BYTES)
        except asyncio.IncompleteReadError as error:
            if not error.partial:
                return
            raise WireError(f"the stream ended {len(error.partial)} bytes into a frame's header") from None
        header = decode_header(head)
        try:
            rest = await read_bytes(reader, header.rest_bytes)
        except asyncio.IncompleteReadError as error:
            raise WireError(
                f"the stream ended {len(error.partial)} bytes into a frame of {header.rest_bytes}"
            ) from None
        yield decode_body(header, rest)
