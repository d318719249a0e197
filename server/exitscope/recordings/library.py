"""The recordings of this server: started, stopped, listed, deleted, recovered, kept within limits of size and age."""

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from typing import Final

from ..errors import ApiError
from ..framing import Frame
from .apart import finish_by_size
from .aside import Aside
from .file import RecordingFile
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
_MAX_WAIT_S: Final = 300.0
_DELETED_TOLD: Final = 32


@dataclass(frozen=True, slots=True)
class Limits:
    """Of the recordings that the server made in its folder, those copied there left alone. 0: no limit.

    max_bytes of all together; max_age_ns since a recording began, by the folder's own clock (clock.py).
    """

    max_bytes: int = 0
    max_age_ns: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One recording, as listed. vms: names for a person; migrations: how many it has seen.

    made_here: by a server, in its folder: the limits are about these. shelved_ns: when, by the folder's own clock.
    """

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
    made_here: bool = False
    shelved_ns: int = 0


@dataclass(frozen=True, slots=True)
class Deleted:
    """A recording that was deleted to keep the limits. why: one sentence."""

    id: str
    name: str
    started_wall_ms: int
    bytes: int
    deleted_wall_ms: int
    why: str


@dataclass(slots=True, eq=False)
class _Running:
    recorder: Recorder
    name: str
    vm: str | None
    started_wall_ms: int
    shelved_ns: int
    task: asyncio.Task[None] | None = None
    finishing: bool = False
    unwanted: bool = False


@dataclass(frozen=True, slots=True)
class _Again:
    """When to try to finish a recording again: soon after the first time, then less and less often."""

    due_s: float = 0.0
    wait_s: float = _UPKEEP_S / 2

    def later(self) -> "_Again":
        wait_s = min(2 * self.wait_s, _MAX_WAIT_S)
        return _Again(time.monotonic() + wait_s, wait_s)


_NEVER: Final = _Again(due_s=inf)
"""Nothing changes by trying again: the next server does once more."""


class Library:
    """See the module. socket_path: the collector's; None: nothing can be recorded here. One event loop."""

    def __init__(self, directory: str | os.PathLike[str], limits: Limits, socket_path: str | None) -> None:
        self.shelf = Shelf(directory)
        self.limits = limits
        self.aside = Aside()
        self._socket_path = socket_path
        self._running: dict[str, _Running] = {}
        self._one_finish = asyncio.Lock()
        self._again: dict[str, _Again] = {}  # recordings that could not be finished yet
        self._no_limits: str | None = None  # why they cannot be kept now
        self.deleted: deque[Deleted] = deque(maxlen=_DELETED_TOLD)
        self.must_write = False  # recordings begin by themselves: look whether they can
        self.unwritable: str | None = None  # why they cannot

    async def run(self) -> None:
        """Recover what a killed server left or could not be finished, and keep the limits, until cancelled."""
        while True:
            if self.must_write:
                self._see_whether_it_can_write()
            for recording_id in self.shelf.orphans():
                again = self._again.get(recording_id)
                if recording_id not in self._running and (again is None or time.monotonic() >= again.due_s):
                    log.info("recovering the recording %s", recording_id)
                    await self._finish(recording_id)
            self.keep_limits()
            await asyncio.sleep(_UPKEEP_S)

    async def close(self) -> None:
        """End what runs; its spools are finished by the next server."""
        running = [one for one in self._running.values() if one.task and not one.finishing]
        for one in running:
            self.aside.call(one.recorder.stop, "ended with the server")
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
            self.aside.call(one.recorder.include, vm, earlier)

    async def start(self, name: str = "", vm: str | None = None, opening: Opening | None = None) -> str:
        """Begin a recording of one VM or of all; returns its id once it really records. Raises ApiError 409.

        opening: what preroll.py had kept; it is closed if the recording does not begin.
        """
        try:
            return await self._start(name, vm, opening)
        except ApiError:
            if opening is not None:
                self.aside.call(opening.writer.close)
            raise

    async def _start(self, name: str, vm: str | None, opening: Opening | None) -> str:
        if self._socket_path is None:
            raise ApiError(
                409, "not_live", "nothing is traced here: this server shows a recording", "Start it without --source."
            )
        if len(self._running) >= MAX_RUNNING:
            raise ApiError(409, "too_many_recordings", f"{MAX_RUNNING} recordings run already", "Stop one of them.")
        recording_id = new_id()
        try:
            self.shelf.make()
            said = head(recording_id, name, vm, self.shelf.clock.now())
            if opening is not None:
                said["started_wall_ms"] -= (time.monotonic_ns() - opening.since_ns) // 1_000_000
            spool = SpoolWriter(self.shelf.path(recording_id, "spool"), said)
        except OSError as error:
            why = f"cannot write to {self.shelf.directory}: {error.strerror or error}"
            raise ApiError(409, "not_writable", why, "See --recordings.") from None
        recorder = Recorder(spool, self._socket_path, vm, self.limits.max_bytes or None, opening)
        one = self._running[recording_id] = _Running(recorder, name, vm, said["started_wall_ms"], said["shelved_ns"])
        one.task = asyncio.create_task(self._record(recording_id, one))
        begun = asyncio.create_task(self.aside.run(recorder.begun.wait()))
        await asyncio.wait((begun, one.task), timeout=_BEGIN_S, return_when=asyncio.FIRST_COMPLETED)
        if begun.done():
            return recording_id
        begun.cancel()
        one.unwanted = True
        self.aside.call(one.recorder.stop)
        await asyncio.wait((one.task,))
        self.shelf.remove(recording_id)
        if failure := one.recorder.failure:
            raise ApiError(409, "not_writable", f"not recorded: {failure}", "Free room for it, or see --recordings.")
        raise ApiError(
            409, "no_collector", f"no collector on {self._socket_path}: nothing to record", "Start `exitscope collect`."
        )

    async def stop(self, recording_id: str, note: str = "") -> Entry:
        """End a recording. Returns it finished, or still `recording` with a note if finishing takes long.

        note: why, if somebody may wonder. Stopping one that has ended already changes nothing. Raises ApiError 404.
        """
        one = self._running.get(recording_id)
        if one is not None and one.task is not None:
            self.aside.call(one.recorder.stop, note)
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
            names, meta.note, len(meta.migrations), self._made_here(meta), meta.shelved_ns,
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
            self.aside.call(one.recorder.stop)
            await asyncio.wait((one.task,))
        self.entry(recording_id)
        self.shelf.remove(recording_id)

    def keep_limits(self) -> None:
        """Delete the oldest recordings that have ended and were made here, until these are within the limits.

        One that cannot be read is not deleted, nor is any while the folder's clock cannot be read.
        """
        try:
            if not self.shelf.directory.exists():
                return
            now_ns = self.shelf.clock.now().passed_ns
        except OSError as error:
            why = f"recordings cannot be kept within their limits: {error.strerror or error}"
            if why != self._no_limits:
                log.warning("%s (%s)", why, self.shelf.directory)
            self._no_limits = why
            return
        self._no_limits = None
        made = sorted((entry for entry in self.entries() if entry.made_here), key=lambda entry: entry.shelved_ns)
        total = sum(entry.bytes for entry in made)
        for entry in made:
            age_ns, limits = now_ns - entry.shelved_ns, self.limits
            if entry.id in self._running or entry.state == "recording":
                continue
            if limits.max_age_ns and age_ns > limits.max_age_ns:
                why = f"it is {age_ns / 1e9:.0f} s old, and {limits.max_age_ns / 1e9:.0f} s are allowed"
            elif limits.max_bytes and total > limits.max_bytes:
                why = f"it was the oldest, and together they had {total} bytes, {limits.max_bytes} are allowed"
            else:
                continue
            self._delete_for_limits(entry, why)
            total -= entry.bytes

    def _see_whether_it_can_write(self) -> None:
        before, self.unwritable = self.unwritable, self.shelf.unwritable()
        if self.unwritable and not before:
            log.warning("migrations are not recorded: %s", self.unwritable)

    def _delete_for_limits(self, entry: Entry, why: str) -> None:
        log.warning("recording %s (%s) deleted: %s", entry.id, entry.name, why)
        try:
            self.shelf.remove(entry.id)
        except OSError as error:
            log.warning("recording %s cannot be deleted: %s", entry.id, error.strerror or error)
            return
        now_ms = time.time_ns() // 1_000_000
        self.deleted.append(Deleted(entry.id, entry.name, entry.started_wall_ms, entry.bytes, now_ms, why))

    def _made_here(self, meta: RecordingMeta) -> bool:
        try:
            return meta.shelf is not None and meta.shelf == self.shelf.clock.now().id
        except OSError:
            return False

    async def _record(self, recording_id: str, one: _Running) -> None:
        await self.aside.run(one.recorder.run())
        one.finishing = True
        try:
            if not one.unwanted:
                await self._finish(recording_id)
        finally:
            del self._running[recording_id]
        self.keep_limits()

    async def _finish(self, recording_id: str) -> None:
        """Make the file, and give the spool's room back once it is there. Else the spool stays, and says why."""
        async with self._one_finish:
            spool, path = self.shelf.path(recording_id, "spool"), self.shelf.path(recording_id, "parquet")
            again = self._again.pop(recording_id, _Again())
            try:
                with claimed(spool):
                    await in_quiet_thread(lambda: finish_by_size(spool, path))
                    spool.unlink(missing_ok=True)
            except BlockingIOError:  # by another process
                return
            except FileNotFoundError:
                reason, repeat = "its file is not there any more: somebody removed or moved it", False
            except SpoolError as error:
                reason, repeat = str(error), False
            except OSError as error:
                reason, repeat = f"cannot be finished yet: {error.strerror or error}; it is kept, and tried again", True
            except Exception as error:  # a defect of ours must not end the recovery of the others
                log.exception("recording %s could not be finished", recording_id)
                reason, repeat = f"cannot be finished: {type(error).__name__}: {error}; it is kept", False
            else:
                self.shelf.forget_reason(recording_id)
                return
            log.warning("recording %s: %s", recording_id, reason)
            self.shelf.keep_reason(recording_id, reason)
            self._again[recording_id] = again.later() if repeat else _NEVER

    def _entry_of_running(self, recording_id: str, one: _Running) -> Entry:
        note = "being finished" if one.finishing else "" if one.recorder.connected else "waiting for the collector"
        age_ns = time.time_ns() - one.started_wall_ms * 1_000_000
        return Entry(
            recording_id, one.name, "recording", one.started_wall_ms, age_ns, one.recorder.records,
            one.recorder.spool.size_bytes, [one.vm] if one.vm else [], note, made_here=True,
            shelved_ns=one.shelved_ns,
        )  # fmt: skip


def _unknown(recording_id: str) -> ApiError:
    return ApiError(
        404, "unknown_recording", f"no recording {recording_id[:80]!r}", "See GET /api/v1/recordings.", "id"
    )


__all__ = ["Entry", "Library", "Limits", "find"]
