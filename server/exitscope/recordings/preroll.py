"""The last seconds of what the collector says, kept so that a recording can begin before anybody asked for it.

A client of the collector of its own. What is older is folded: into the newest VMS, into one snapshot of TOTALS, into
the newest word of each VMM; so that what is handed over begins as every connection does. What comes later is passed on:
several that begin at once all have the seconds before.
"""

import asyncio
import logging
import socket
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from exitscope_probes.histogram import BUCKETS
from exitscope_probes.records import CELL_DTYPE, HARDWARE_DTYPE, SERIES
from exitscope_probes.wire import Kind, Message, WireError

from ..framing import Frame, read_frame

log = logging.getLogger("exitscope")

KEEP_NS: Final = 3_000_000_000
"""A migration is noticed a moment after its first sign: totals come five times a second."""

MAX_BYTES: Final = 32 << 20
_READ_LIMIT_BYTES: Final = 1 << 20
_BACKOFF_S: Final = 0.2
_TAKE_S: Final = 1.0  # a frame comes at least five times a second
_SLOT_CELLS: Final = SERIES * BUCKETS


@dataclass(frozen=True, slots=True)
class Opening:
    """frames: the beginning of a connection that goes on in reader. since_ns: when its totals were read.

    The connection ends if its reader is MAX_BYTES behind, as the collector's own would.
    """

    frames: list[Frame]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    since_ns: int


class Folded:
    """What the frames that are not kept any more came to."""

    def __init__(self, hello: Message) -> None:
        self._hello = hello
        self._vms: Frame | None = None
        self._totals: Message | None = None
        self._cells: dict[int, npt.NDArray[np.uint64]] = {}  # slot -> counts (_SLOT_CELLS,)
        self._hardware: dict[tuple[int, int, int], Any] = {}  # slot, isa, cell -> HARDWARE_DTYPE
        self._owners: dict[int, tuple[int, int]] = {}  # slot -> VM number, vCPU
        self._said: dict[int, Frame] = {}  # VM number -> MIGRATION
        self._dropped = 0

    @property
    def complete(self) -> bool:
        """Whether all is there that a connection begins with."""
        return self._vms is not None and self._totals is not None

    @property
    def time_ns(self) -> int:
        """When the totals were read."""
        return self._totals.time_ns if self._totals else 0

    def take(self, frame: Frame) -> None:
        """One frame more, in order. Raises WireError if it does not fit."""
        if frame.kind is Kind.VMS:
            self._vms = frame
            return
        message = frame.message()
        if frame.kind is Kind.TOTALS:
            self._count(message)
        elif frame.kind is Kind.FAULTS:
            self._dropped = message.meta.get("dropped", 0)
        elif frame.kind is Kind.MIGRATION and isinstance(message.meta.get("vm"), int):
            self._said.pop(message.meta["vm"], None)
            self._said[message.meta["vm"]] = frame

    def frames(self) -> list[Frame]:
        """HELLO, VMS, a snapshot of TOTALS, and what VMMs said."""
        if self._totals is None or self._vms is None:
            return []
        # Records that were dropped before are not missing in what begins here.
        hello = Message(Kind.HELLO, self._hello.time_ns, self._hello.meta | {"dropped": self._dropped})
        totals = self._totals
        arrays = totals.arrays | {"cells": self._all_cells(), "hardware": self._all_hardware()}
        snapshot = Message(Kind.TOTALS, totals.time_ns, totals.meta | {"snapshot": True}, arrays, totals.sequence)
        return [Frame.of(hello), self._vms, Frame.of(snapshot), *self._said.values()]

    def _count(self, message: Message) -> None:
        slots, rows = message.arrays["slots"].tolist(), message.arrays["vcpus"]
        owners = dict(zip(slots, zip(rows["vm"].tolist(), rows["vcpu"].tolist(), strict=True), strict=True))
        for slot in [slot for slot, owner in self._owners.items() if owners.get(slot) != owner]:
            self._cells.pop(slot, None)
            for key in [key for key in self._hardware if key[0] == slot]:
                del self._hardware[key]
        self._owners, self._totals = owners, message
        known = set(message.arrays["vms"]["vm"].tolist())
        self._said = {number: said for number, said in self._said.items() if number in known}
        cells = message.arrays["cells"]
        of_slot = cells["cell"] // _SLOT_CELLS
        for slot in np.unique(of_slot).tolist():
            if slot in owners:
                mine = cells[of_slot == slot]
                counts = self._cells.setdefault(slot, np.zeros(_SLOT_CELLS, np.uint64))
                counts[mine["cell"] % _SLOT_CELLS] = mine["count"]
        for one in message.arrays["hardware"]:
            self._hardware[int(one["slot"]), int(one["isa"]), int(one["cell"])] = one

    def _all_cells(self) -> npt.NDArray[Any]:
        parts = [np.empty(0, CELL_DTYPE)]
        for slot, counts in self._cells.items():
            where = np.flatnonzero(counts)
            cells = np.zeros(len(where), CELL_DTYPE)
            cells["cell"], cells["count"] = slot * _SLOT_CELLS + where, counts[where]
            parts.append(cells)
        return np.concatenate(parts)

    def _all_hardware(self) -> npt.NDArray[Any]:
        return np.array([one for key, one in self._hardware.items() if key[0] in self._owners], HARDWARE_DTYPE)


class Preroll:
    """See the module. `run` until cancelled; `take` at any time."""

    def __init__(self, socket_path: str, keep_ns: int = KEEP_NS, max_bytes: int = MAX_BYTES) -> None:
        self._path = socket_path
        self._keep_ns = keep_ns
        self._max_bytes = max_bytes
        self._folded: Folded | None = None
        self._frames: deque[Frame] = deque()
        self._bytes = 0
        self._ready = asyncio.Event()  # all is there that a connection begins with
        self._passed_on: list[asyncio.StreamWriter] = []

    async def run(self) -> None:
        """Be connected, and again after the connection was lost."""
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(self._path, limit=_READ_LIMIT_BYTES)
            except OSError:
                await asyncio.sleep(_BACKOFF_S)
                continue
            try:
                await self._read(reader)
            except (WireError, OSError) as error:
                log.warning("waiting for migrations on %s: %s; connecting again", self._path, error)
            except asyncio.IncompleteReadError:
                pass
            finally:
                self._forget()
                writer.close()
            await asyncio.sleep(_BACKOFF_S)

    async def take(self) -> Opening | None:
        """What is kept, and a connection that brings all that comes; None if the collector says nothing."""
        try:
            async with asyncio.timeout(_TAKE_S):
                await self._ready.wait()
        except TimeoutError:
            return None
        ours, theirs = socket.socketpair()
        _, passing_on = await asyncio.open_unix_connection(sock=ours)
        reader, writer = await asyncio.open_unix_connection(sock=theirs, limit=_READ_LIMIT_BYTES)
        if self._folded is None or not self._folded.complete:  # lost meanwhile
            passing_on.close()
            writer.close()
            return None
        frames = [*self._folded.frames(), *self._frames]
        self._passed_on.append(passing_on)
        return Opening(frames, reader, writer, self._folded.time_ns)

    async def kept(self) -> list[Frame]:
        """Frames of the last seconds, oldest first."""
        return list(self._frames)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """Take frames until the connection ends: IncompleteReadError."""
        while True:
            frame = await read_frame(reader)
            if self._folded is None:
                self._folded = Folded(frame.message())
            elif not self._folded.complete:
                self._folded.take(frame)
            else:
                self._ready.set()
                self._keep(frame)
                self._pass_on(frame.data)

    def _keep(self, frame: Frame) -> None:
        self._frames.append(frame)
        self._bytes += len(frame.data)
        while self._folded is not None and self._frames:
            first = self._frames[0]
            if first.time_ns > frame.time_ns - self._keep_ns and self._bytes <= self._max_bytes:
                break
            self._frames.popleft()
            self._bytes -= len(first.data)
            self._folded.take(first)

    def _pass_on(self, data: bytes) -> None:
        for writer in list(self._passed_on):
            if writer.is_closing() or writer.transport.get_write_buffer_size() > self._max_bytes:
                writer.close()
                self._passed_on.remove(writer)
            else:
                writer.write(data)

    def _forget(self) -> None:
        """The connection has ended, and those that it was passed on to."""
        self._ready.clear()
        self._folded, self._bytes = None, 0
        self._frames.clear()
        for writer in self._passed_on:
            writer.close()
        self._passed_on.clear()
