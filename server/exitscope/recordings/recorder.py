"""From the collector's socket into a spool: a client of its own, so that a recording never holds up the page.

While the disk is slow nothing is read from the socket: the collector then drops records for this client alone,
counts them, and the tracing goes on. When the collector ends, the recorder waits for the next one.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from exitscope_probes.wire import Kind, Message, WireError, encode

from ..framing import Frame, read_frame
from .clock import FolderTime
from .preroll import Opening
from .room import room_left
from .spool import SpoolWriter

log = logging.getLogger("exitscope")

FLUSH_S: Final = 0.1
"""What a kill -9 of the recorder can lose, and what it takes to write it."""

_FLUSH_BYTES: Final = 1 << 20
_READ_LIMIT_BYTES: Final = 1 << 20
_BACKOFF_S: Final = 0.1
_STOP_S: Final = 1.0
_DRAIN_S: Final = 0.15  # records are published at most this long after the totals that count them

_FINISHED_SHARE: Final = 0.67  # of the spool's size is what the records take in the finished file
_FOOTER_BYTES: Final = 128 << 10


class Recorder:
    """One recording in progress. `run` until `stop`, or until the disk or `max_bytes` is full.

    vm: id of the only VM to record; None: all. opening: what came before, and the connection that it came by. begun: it
    really records. over: nothing more can be written, `failure` says why, None if it is max_bytes.
    """

    def __init__(
        self,
        spool: SpoolWriter,
        socket_path: str,
        vm: str | None = None,
        max_bytes: int | None = None,
        opening: Opening | None = None,
    ) -> None:
        self.spool = spool
        self.failure: str | None = None
        self.note = ""
        self.records = 0
        self.connected = False
        self.begun = asyncio.Event()  # the totals at the start are there
        self._socket_path = socket_path
        self._vms = None if vm is None else [vm]
        self._opening = opening
        self._listed: Message | None = None
        self._max_bytes = max_bytes
        self._numbers: set[int] = set()
        self._faults_ns = 0  # time of the newest FAULTS
        self._frames: list[bytes] = []
        self._pending_bytes = 0
        self._writing = asyncio.Lock()
        self._stopping = asyncio.Event()
        self.over = asyncio.Event()
        self._stop_ns: int | None = None
        self._silent = False  # the collector did not say what happened until the end

    @property
    def listed(self) -> list[str]:
        """Ids of the VMs that the collector sees; known where only one VM is recorded, once it has begun."""
        vms = self._listed.meta.get("vms") if self._listed is not None else None
        return [str(vm.get("id")) for vm in vms if isinstance(vm, dict)] if isinstance(vms, list) else []

    def stop(self, note: str = "") -> None:
        """Let `run` return once what happened until now is there."""
        self.note = self.note or note
        self._stop_ns = self._stop_ns or time.monotonic_ns()
        self._stopping.set()

    def include(self, vm: str, earlier: Sequence[Frame] = ()) -> None:
        """Record this VM, too, from now on. earlier: frames of before (preroll.py): those of its records are taken."""
        if self._vms is None or vm in self._vms:
            return
        self._vms.append(vm)
        known = self._numbers.copy()
        if self._listed is not None:
            self._learn(self._listed)
        fresh = list(self._numbers - known)
        for frame in earlier:
            if frame.kind is not Kind.FAULTS or frame.time_ns > self._faults_ns:  # those are still to come
                continue
            message = frame.message()
            records = message.arrays["records"]
            arrays = {"records": records[np.isin(records["vm"], fresh)]}
            self._put(Message(Kind.FAULTS, time.monotonic_ns(), message.meta, arrays, message.sequence))

    async def run(self) -> None:
        """Record; then say in the spool how it ended, and close it."""
        reading = asyncio.create_task(self._connections())
        flushing = asyncio.create_task(self._flushes())
        stopping = asyncio.create_task(self._stopping.wait())
        over = asyncio.create_task(self.over.wait())
        tasks = (reading, flushing, stopping, over)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if self.connected and not self.over.is_set():
                await asyncio.wait((reading, over), timeout=_STOP_S, return_when=asyncio.FIRST_COMPLETED)
            self._silent = not reading.done() and not self.over.is_set()
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            for error in results:
                if isinstance(error, Exception):
                    log.error("recording: %s", error, exc_info=error)
                    self._fail(f"a defect stopped the recording: {type(error).__name__}: {error}")
            self._end()

    async def _connections(self) -> None:
        opening, self._opening = self._opening, None
        while True:
            try:
                if opening is not None:
                    reader, writer = opening.reader, opening.writer
                else:
                    reader, writer = await asyncio.open_unix_connection(self._socket_path, limit=_READ_LIMIT_BYTES)
            except OSError:
                await asyncio.sleep(_BACKOFF_S)
                continue
            earlier, opening = opening.frames if opening is not None else [], None
            try:
                if await self._frames_of(reader, earlier):
                    return
            except (WireError, asyncio.IncompleteReadError, OSError) as error:
                if not isinstance(error, asyncio.IncompleteReadError):
                    log.warning("recording from %s: %s; connecting again", self._socket_path, error)
            finally:
                self.connected = False
                writer.close()
            await self._flush()
            await asyncio.sleep(_BACKOFF_S)

    async def _frames_of(self, reader: asyncio.StreamReader, earlier: list[Frame]) -> bool:
        """Take frames until the connection ends (IncompleteReadError); True once what was wanted is there."""
        for frame in earlier:  # a VM's first records come before discovery names it
            if self._vms is not None and frame.kind is Kind.VMS:
                self._learn(frame.message())
        for frame in earlier:
            self.connected = True
            await self._take(frame)
        while True:
            frame = await read_frame(reader)
            self.connected = True
            if await self._take(frame):
                await self._drain(reader)
                return True

    async def _take(self, frame: Frame) -> bool:
        """Add it; whether it is the last that is wanted."""
        final = False
        if frame.kind is Kind.VMS and self._vms is not None:
            self._listed = frame.message()
            self._learn(self._listed)
        elif frame.kind is Kind.FAULTS:
            message = frame.message()
            self._faults_ns = frame.time_ns
            self._put(self._only(message))
        elif frame.kind is Kind.TOTALS:
            said = frame.message().meta
            polled_ns = said.get("polled_ns", frame.time_ns)
            if said.get("snapshot") is not True:  # survey.py: from here on records and totals are the same faults
                self.begun.set()
            final = self._stop_ns is not None and polled_ns >= self._stop_ns
        if frame.kind is not Kind.FAULTS:
            self._add(frame.data)
        if self._pending_bytes >= _FLUSH_BYTES:
            await self._flush()
        return final

    def _put(self, faults: Message) -> None:
        """Add FAULTS, if there are any in it."""
        if len(faults.arrays["records"]):
            self.records += len(faults.arrays["records"])
            self._add(encode(faults))

    async def _drain(self, reader: asyncio.StreamReader) -> None:
        """Records of faults that the last totals count, and nothing else."""
        deadline = time.monotonic() + _DRAIN_S
        try:
            while (left_s := deadline - time.monotonic()) > 0:
                async with asyncio.timeout(left_s):
                    frame = await read_frame(reader)
                if frame.kind is Kind.FAULTS:
                    self._put(self._only(frame.message()))
        except (TimeoutError, asyncio.IncompleteReadError, WireError, OSError):
            return

    def _learn(self, message: Message) -> None:
        """Numbers of the VMs that are wanted."""
        vms = message.meta.get("vms")
        for vm in vms if isinstance(vms, list) else []:
            if isinstance(vm, dict) and vm.get("id") in (self._vms or ()) and isinstance(vm.get("vm"), int):
                self._numbers.add(vm["vm"])

    def _only(self, message: Message) -> Message:
        if self._vms is None:
            return message
        records = message.arrays["records"]
        wanted = np.isin(records["vm"], list(self._numbers))
        return Message(message.kind, message.time_ns, message.meta, {"records": records[wanted]}, message.sequence)

    def _add(self, frame: bytes) -> None:
        self._frames.append(frame)
        self._pending_bytes += len(frame)

    async def _flushes(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            await self._flush()

    async def _flush(self) -> None:
        async with self._writing:
            frames, self._frames, self._pending_bytes = self._frames, [], 0
            if not frames or self.over.is_set():
                return
            writing = asyncio.ensure_future(asyncio.to_thread(self._write, b"".join(frames)))
            try:
                await asyncio.shield(writing)
            finally:  # a thread cannot be cancelled: nobody else may write before it has ended
                await writing

    def _write(self, data: bytes) -> None:
        try:
            self.spool.frames(data)
            if not self.spool.in_place():
                self._fail(f"ended because somebody removed or moved {self.spool.path}: nothing of it is left there")
            elif self._max_bytes is not None and self.spool.size_bytes > self._max_bytes:
                self.note = f"ended because it alone is larger than the limit of {self._max_bytes} bytes"
            elif room_left(self.spool.path) < self.spool.size_bytes * _FINISHED_SHARE + _FOOTER_BYTES:
                self._fail("the disk is full: recorded up to here, and the tracing goes on")
            else:
                return
        except OSError as error:
            self._fail(f"cannot write any more: {error.strerror or error}; recorded up to here, the tracing goes on")
        self.over.set()

    def _fail(self, reason: str) -> None:
        self.failure = self.failure or reason
        self.note = self.failure

    def _end(self) -> None:
        try:
            if self._frames and self.failure is None:
                self.spool.frames(b"".join(self._frames))
            self.spool.end("failed" if self.failure else "finished", self.note, self._silent, (self._vms or ())[1:])
        except OSError as error:
            log.warning("%s: %s", self.spool.path, error)
            self._fail(f"cannot write any more: {error.strerror or error}; recorded up to here, the tracing goes on")
        self.spool.close()


def head(id: str, name: str, vm: str | None, made: FolderTime | None = None) -> dict[str, Any]:
    """The first block of a spool that begins now. made: in this folder of a server's, at this moment of its clock."""
    found: dict[str, Any] = {"id": id, "name": name, "vm": vm, "started_wall_ms": time.time_ns() // 1_000_000}
    return found | ({"shelf": made.id, "shelved_ns": made.passed_ns} if made else {})
