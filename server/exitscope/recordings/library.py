"""The recordings of this server: started, stopped, listed, deleted, recovered, kept within limits of size and age."""

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from ..errors import ApiError
from ..framing import Frame
from .file import RecordingFile
from .finish import finish
from .meta import RecordingMeta, State
from .preroll import Opening
from .quiet import in_quiet_thread
from .recorder import Recorder, head
from .shelf import Shelf, find, new_id
from .spool import SpoolError, SpoolWriter, claimed

log = logging.getLogger("exitscope")

MAX_RUNNING: Final = 4
"""Recordings at once: each is a client of the collector and may buffer some MB."""

MAX_NAME: Final = 120
_BEGIN_S: Final = 3.0
_STOP_S: Final = 60.0
_UPKEEP_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Limits:
    """max_bytes of all recordings together; max_age_ns since a recording began. 0: no limit."""

    max_bytes: int = 0
    max_age_ns: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One recording, as listed. vms: names for a person; migrations: how many it has seen."""

    id: str
    name: str
    state: State
    started_wall_ms: int
    duration_ns: int
    records: int
    bytes: int
    vms: list[str]
    note: str
    migrations: int = 0


@dataclass(slots=True, eq=False)
class _Running:
    recorder: Recorder
    name: str
    vm: str | None
    started_wall_ms: int
    task: asyncio.Task[None] | None = None
    finishing: bool = False
    unwanted: bool = False


class Library:
    """See the module. socket_path: the collector's; None: nothing can be recorded here. One event loop."""

    def __init__(self, directory: str | os.PathLike[str], limits: Limits, socket_path: str | None) -> None:
        self.shelf = Shelf(directory)
        self.limits = limits
        self._socket_path = socket_path
        self._running: dict[str, _Running] = {}
        self._one_finish = asyncio.Lock()

    async def run(self) -> None:
        """Recover what a killed server left, then keep the limits, until cancelled."""
        with suppress(OSError):
            self.shelf.try_again()
        while True:
            for recording_id in self.shelf.orphans():
                if recording_id not in self._running:
                    log.info("recovering the recording %s", recording_id)
                    await self._finish(recording_id)
            try:
                self.keep_limits()
            except OSError as error:
                log.warning("recordings cannot be kept within their limits: %s", error)
            await asyncio.sleep(_UPKEEP_S)

    async def close(self) -> None:
        """End what runs; its spools are finished by the next server."""
        running = [one for one in self._running.values() if one.task and not one.finishing]
        for one in running:
            one.recorder.stop("ended with the server")
            if one.task:
                one.task.cancel()
        await asyncio.gather(*(one.task for one in running if one.task), return_exceptions=True)

    @property
    def socket_path(self) -> str | None:
        """The collector's; None: nothing can be recorded here."""
        return self._socket_path

    def recording(self, vm: str) -> str | None:
        """Id of a recording that runs and has all of this VM; None if there is none."""
        return next((id for id, one in self._running.items() if one.vm in (None, vm) and not one.finishing), None)

    def include(self, recording_id: str, vm: str, earlier: Sequence[Frame] = ()) -> None:
        """Record this VM, too: see Recorder.include."""
        if one := self._running.get(recording_id):
            one.recorder.include(vm, earlier)

    async def start(self, name: str = "", vm: str | None = None, opening: Opening | None = None) -> str:
        """Begin a recording of one VM or of all; returns its id once it really records. Raises ApiError 409.

        opening: what preroll.py had kept; it is closed if the recording does not begin.
        """
        try:
            return await self._start(name, vm, opening)
        except ApiError:
            if opening is not None:
                opening.writer.close()
            raise

    async def _start(self, name: str, vm: str | None, opening: Opening | None) -> str:
        if self._socket_path is None:
            raise ApiError(
                409, "not_live", "nothing is traced here: this server shows a recording", "Start it without --source."
            )
        if len(self._running) >= MAX_RUNNING:
            raise ApiError(409, "too_many_recordings", f"{MAX_RUNNING} recordings run already", "Stop one of them.")
        recording_id = new_id()
        said = head(recording_id, name, vm)
        if opening is not None:
            said["started_wall_ms"] -= (time.monotonic_ns() - opening.since_ns) // 1_000_000
        try:
            self.shelf.make()
            spool = SpoolWriter(self.shelf.path(recording_id, "spool"), said)
        except OSError as error:
            why = f"cannot write to {self.shelf.directory}: {error.strerror or error}"
            raise ApiError(409, "not_writable", why, "See --recordings.") from None
        recorder = Recorder(spool, self._socket_path, vm, self.limits.max_bytes or None, opening)
        one = self._running[recording_id] = _Running(recorder, name, vm, said["started_wall_ms"])
        one.task = asyncio.create_task(self._record(recording_id, one))
        begun = asyncio.create_task(recorder.begun.wait())
        await asyncio.wait((begun, one.task), timeout=_BEGIN_S, return_when=asyncio.FIRST_COMPLETED)
        if begun.done():
            return recording_id
        begun.cancel()
        one.unwanted = True
        one.recorder.stop()
        await asyncio.wait((one.task,))
        self.shelf.remove(recording_id)
        raise ApiError(
            409, "no_collector", f"no collector on {self._socket_path}: nothing to record", "Start `exitscope collect`."
        )

    async def stop(self, recording_id: str, note: str = "") -> Entry:
        """End a recording. Returns it finished, or still `recording` with a note if finishing takes long.

        note: why, if somebody may wonder. Stopping one that has ended already changes nothing. Raises ApiError 404.
        """
        one = self._running.get(recording_id)
        if one is not None and one.task is not None:
            one.recorder.stop(note)
            await asyncio.wait((one.task,), timeout=_STOP_S)
        return self.entry(recording_id)

    def entries(self) -> list[Entry]:
        """All, newest first."""
        found = []
        for recording_id in {*self.shelf.ids(), *self._running}:
            with suppress(ApiError):  # deleted by somebody meanwhile
                found.append(self.entry(recording_id))
        return sorted(found, key=lambda entry: (entry.started_wall_ms, entry.id), reverse=True)

    def entry(self, recording_id: str) -> Entry:
        """One of them. Raises ApiError 404."""
        one = self._running.get(recording_id)
        if one is not None:
            return self._entry_of_running(recording_id, one)
        try:
            meta, size_bytes = self.shelf.meta_and_size(recording_id)
        except FileNotFoundError:
            raise _unknown(recording_id) from None
        names = [vm.name or vm.id for vm in meta.vms]
        return Entry(
            recording_id, meta.name, meta.state, meta.started_wall_ms, meta.duration_ns, meta.records, size_bytes,
            names, meta.note, len(meta.migrations),
        )  # fmt: skip

    def meta(self, recording_id: str) -> RecordingMeta:
        """All that a recording says of itself; little while it runs. Raises ApiError 404."""
        one = self._running.get(recording_id)
        if one is not None:
            entry = self._entry_of_running(recording_id, one)
            return RecordingMeta(
                id=recording_id, name=one.name, state="recording", started_wall_ms=one.started_wall_ms,
                records=entry.records, complete=False, note=entry.note,
            )  # fmt: skip
        try:
            return self.shelf.meta_and_size(recording_id)[0]
        except FileNotFoundError:
            raise _unknown(recording_id) from None

    def open(self, recording_id: str) -> RecordingFile:
        """The file. Raises ApiError 404, or 409 while there is none yet or if nothing could be kept."""
        entry = self.entry(recording_id)
        path = self.shelf.path(recording_id, "parquet")
        if entry.state == "recording" or not path.exists():
            hint = "Stop it first." if entry.state == "recording" else "Delete it."
            raise ApiError(
                409, "not_finished", f"recording {recording_id} has no file: {entry.note or 'it runs'}", hint
            )
        return self.shelf.file(recording_id)

    async def delete(self, recording_id: str) -> None:
        """Remove a recording; one that runs is ended first. Raises ApiError 404."""
        one = self._running.get(recording_id)
        if one is not None and one.task is not None:
            one.unwanted = True
            one.recorder.stop()
            await asyncio.wait((one.task,))
        self.entry(recording_id)
        self.shelf.remove(recording_id)

    def keep_limits(self) -> None:
        """Delete the oldest recordings that have ended, until all are within the limits."""
        ended = [entry for entry in self.entries() if entry.id not in self._running]
        total = sum(entry.bytes for entry in self.entries())
        now_ms = time.time_ns() // 1_000_000
        for entry in reversed(ended):
            old = self.limits.max_age_ns and (now_ms - entry.started_wall_ms) * 1_000_000 > self.limits.max_age_ns
            large = self.limits.max_bytes and total > self.limits.max_bytes
            if old or large:
                total -= entry.bytes
                log.info("recording %s deleted: older or larger than the limits allow", entry.id)
                self.shelf.remove(entry.id)

    async def _record(self, recording_id: str, one: _Running) -> None:
        await one.recorder.run()
        one.finishing = True
        try:
            if not one.unwanted:
                await self._finish(recording_id)
        finally:
            del self._running[recording_id]
        self.keep_limits()

    async def _finish(self, recording_id: str) -> None:
        """Make the file, and give the spool's room back once it is there."""
        async with self._one_finish:
            spool, path = self.shelf.path(recording_id, "spool"), self.shelf.path(recording_id, "parquet")
            try:
                with claimed(spool):
                    await in_quiet_thread(lambda: finish(str(spool), str(path)))
            except BlockingIOError:  # by another process
                return
            except SpoolError as error:
                log.warning("recording %s: %s", recording_id, error)
                self.shelf.keep_reason(recording_id, str(error))
                spool.unlink(missing_ok=True)
            except OSError as error:
                reason = f"cannot be finished: {error.strerror or error}; tried again when the server starts"
                log.warning("recording %s %s", recording_id, reason)
                self.shelf.keep_reason(recording_id, reason)
            except Exception as error:  # a defect of ours must not end the recovery of the others
                log.exception("recording %s could not be finished", recording_id)
                self.shelf.keep_reason(recording_id, f"cannot be finished: {type(error).__name__}: {error}")
            else:
                spool.unlink(missing_ok=True)
                self.shelf.path(recording_id, "failed").unlink(missing_ok=True)

    def _entry_of_running(self, recording_id: str, one: _Running) -> Entry:
        note = "being finished" if one.finishing else "" if one.recorder.connected else "waiting for the collector"
        age_ns = time.time_ns() - one.started_wall_ms * 1_000_000
        return Entry(
            recording_id, one.name, "recording", one.started_wall_ms, age_ns, one.recorder.records,
            one.recorder.spool.size_bytes, [one.vm] if one.vm else [], note,
        )  # fmt: skip


def _unknown(recording_id: str) -> ApiError:
    return ApiError(
        404, "unknown_recording", f"no recording {recording_id[:80]!r}", "See GET /api/v1/recordings.", "id"
    )


__all__ = ["Entry", "Library", "Limits", "find"]
