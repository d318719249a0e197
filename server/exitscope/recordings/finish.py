"""From a spool to one Parquet file, exactly sorted by begin_ns, in bounded memory at any size.

Records reach the spool when their fault has ended, so nearly all of them within moments of each other's begin. Those
that came later than LATE_NS after their begin are few by nature (a thread can be in one fault at a time) and are
collected in a first pass; in the second, everything that began LATE_NS before the newest block can be written.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from exitscope_probes.histogram import BUCKETS
from exitscope_probes.records import FAULT_DTYPE
from exitscope_probes.wire import Kind as Frame
from exitscope_probes.wire import Message, WireError

from .. import words
from ..lengths import end_ns
from ..modes import user_faults
from . import conditions
from .columns import to_table
from .file import HISTOGRAM_CELL_DTYPE, ROW_GROUP, RecordingWriter
from .load import Running
from .meta import Gap, RecordingMeta, State, origin
from .retrace import Retrace
from .spool import Block, Kind, SpoolError, read_spool
from .survey import Survey

LATE_NS: Final = 500_000_000
LOST_NS: Final = 1_000_000_000
"""At most this much is missing when the writer was killed: the spool is written four times as often."""

MAX_LATE: Final = 1 << 20
_CHUNK: Final = 1 << 16
_GAP_NS: Final = 2_000_000_000  # silence before the end: the collector speaks five times a second

Records = npt.NDArray[Any]


class _Pieces:
    """Collects tables up to a row group, so that the records need not be kept twice."""

    def __init__(self, writer: RecordingWriter) -> None:
        self._writer = writer
        self._tables: list[pa.Table] = []
        self._rows = 0

    def add(self, records: Records, vm_ids: Mapping[int, str]) -> None:
        for first in range(0, len(records), _CHUNK):
            table = to_table(records[first : first + _CHUNK], vm_ids)
            room = ROW_GROUP - self._rows
            self._tables.append(table.slice(0, room))
            self._rows += min(table.num_rows, room)
            if self._rows == ROW_GROUP:
                self.flush()
                if table.num_rows > room:
                    self._tables.append(table.slice(room))
                    self._rows = table.num_rows - room

    def flush(self) -> None:
        if self._rows:
            tables, self._tables, self._rows = self._tables, [], 0
            self._writer.write_table(pa.concat_tables(tables).unify_dictionaries())


def finish(spool_path: str, path: str) -> RecordingMeta:
    """Write the recording of a spool to `path` (made whole before it appears there); the spool stays.

    Returns what the file says about itself. Raises SpoolError if there is nothing in it, OSError if it cannot be
    read, or the file not be written.
    """
    retrace, running = Retrace(), Running()
    survey, head, end, late_ns, late = _first_pass(spool_path, retrace, running)
    if survey.started_ns is None:
        raise SpoolError("no totals had come from the collector yet: nothing was recorded")
    meta = _meta(survey, head, end)
    meta.migrations = retrace.found(meta.id, conditions.only(head, end, survey), meta.started_ns, meta.started_wall_ms)
    del retrace  # as large as a server's state
    meta.load_start, meta.load_stop = running.loads(head, end)
    part = f"{path}.part"
    try:
        with RecordingWriter(part, meta.started_ns) as writer:
            pieces = _Pieces(writer)
            window_ns = survey.started_ns, survey.ended_ns if _is_whole(end) else None
            for ids, records in _ordered(spool_path, survey, late, late_ns):
                pieces.add(_inside(records, window_ns), ids)
            pieces.flush()
            meta.records = writer.records
            _conclude(meta, survey)
            owners = conditions.owners(survey)
            counters = survey.log.pack(owners, {vm.id for vm in meta.vms}) if survey.log else b""
            writer.close(meta, _histograms(survey, meta), counters)
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(part)
        raise
    return meta


def _messages(blocks: Iterator[Block]) -> Iterator[Message]:
    """Of all frames; what follows a frame that does not fit is left out, and its end is missing then."""
    for block in blocks:
        if block.kind is Kind.FRAMES:
            with suppress(WireError):
                yield from block.messages()


def _first_pass(
    path: str, retrace: Retrace, running: Running
) -> tuple[Survey, dict[str, Any], dict[str, Any] | None, int, list[tuple[int, Records]]]:
    """(survey, head, end or None, how late a record may be, the later ones of each session)."""
    survey, head, end, last_ns = Survey(), {}, None, 0
    late_ns, late, late_count = LATE_NS, [], 0
    for block in read_spool(path, past_damage=True):
        survey.damaged += block.after_damage
        if block.kind is Kind.HEAD:
            head = block.json()
        elif block.kind is Kind.END:
            end = block.json() | {"time_ns": (last_ns, block.time_ns)}  # of the block before, and of this one
        else:
            last_ns = block.time_ns
        for message in _messages(iter([block])):
            with suppress(WireError):
                survey.take(message)
                running.take(message)
                retrace.take(message)
            if message.kind is Frame.FAULTS:
                records = message.arrays["records"]
                later = records[_lateness(message) > late_ns].copy()
                if len(later):
                    late.append((survey.session, message.time_ns, later))
                    late_count += len(later)
        while late_count > MAX_LATE:
            late_ns *= 2
            late = [(s, t, r[t - _begin(r) > late_ns]) for s, t, r in late]
            late_count = sum(len(records) for _, _, records in late)
    return survey, head, end, late_ns, [(session, records) for session, _, records in late]


def _ordered(
    path: str, survey: Survey, late: list[tuple[int, Records]], late_ns: int
) -> Iterator[tuple[Mapping[int, str], Records]]:
    """(ids, records) in order of begin_ns. A VM's number is made unique over the sessions."""
    ids: dict[int, str] = {}
    numbers: dict[tuple[int, int], int] = {}

    def renumbered(session: int, records: Records) -> Records:
        records = records.copy()
        for number in np.unique(records["vm"]).tolist():
            unique = numbers.setdefault((session, number), len(numbers) + 1)
            ids[unique] = survey.vm_id((session, number))
        if len(records):
            known, codes = np.unique(records["vm"], return_inverse=True)
            records["vm"] = np.array([numbers[session, number] for number in known.tolist()], "<u4")[codes]
        return records

    waiting = _sorted([renumbered(session, records) for session, records in late])
    fresh: list[Records] = []
    fresh_count = 0
    session, started_ns, newest_ns = -1, None, 0
    for message in _messages(read_spool(path, past_damage=True)):
        newest_ns = max(newest_ns, message.time_ns)
        if message.kind is Frame.HELLO and (session < 0 or message.meta.get("started_ns") != started_ns):
            session, started_ns = session + 1, message.meta.get("started_ns")
        if message.kind is not Frame.FAULTS:
            continue
        records = message.arrays["records"]
        fresh.append(renumbered(session, records[_lateness(message) <= late_ns]))
        fresh_count += len(fresh[-1])
        if fresh_count >= 2 * _CHUNK:
            waiting = _sorted([waiting, *fresh])
            fresh, fresh_count = [], 0
            ready = int(np.searchsorted(_begin(waiting), newest_ns - late_ns))
            yield ids, waiting[:ready]
            waiting = waiting[ready:]
    yield ids, _sorted([waiting, *fresh])


def _begin(records: Records) -> npt.NDArray[np.int64]:
    begin: npt.NDArray[np.int64] = records["begin_ns"].astype(np.int64)
    return begin


def _lateness(message: Message) -> npt.NDArray[np.int64]:
    return message.time_ns - _begin(message.arrays["records"])


def _sorted(parts: list[Records]) -> Records:
    records = np.concatenate([np.empty(0, FAULT_DTYPE), *parts])
    ordered: Records = records[np.argsort(records["begin_ns"], kind="stable")]
    return ordered


def _inside(records: Records, window_ns: tuple[int, int | None]) -> Records:
    """Those that ended within the window of the totals: the totals count exactly these."""
    ended = end_ns(records)
    inside = ended > window_ns[0]
    if window_ns[1] is not None:
        inside &= ended <= window_ns[1]
    chosen: Records = records if inside.all() else records[inside]
    return chosen


def _is_whole(end: dict[str, Any] | None) -> bool:
    """Whether the last totals came when everything else had: then the records end with them."""
    return end is not None and end.get("state") == "finished" and end.get("silent") is not True


def _meta(survey: Survey, head: dict[str, Any], end: dict[str, Any] | None) -> RecordingMeta:
    state: State = "finished" if end is None or end.get("state") != "failed" else "failed"
    only = conditions.only(head, end, survey)
    hello = survey.hello
    cpus = hello.get("cpus")
    shelf, shelved_ns = origin(head)
    return RecordingMeta(
        id=str(head.get("id", "")),
        name=str(head.get("name", "")),
        state=state,
        started_ns=survey.started_ns or 0,
        ended_ns=max(survey.ended_ns, 0 if _is_whole(end) else survey.last_ns),
        started_wall_ms=int(head.get("started_wall_ms") or 0),
        shelf=shelf,
        shelved_ns=shelved_ns,
        host=str(hello.get("host") or "") or None,
        kernel=str(hello.get("kernel") or "") or None,
        cpus=cpus if isinstance(cpus, int) else None,
        cpu_model=conditions.cpu_model(),
        hooks=conditions.hooks(survey),
        profile=conditions.profile(survey),
        vms=conditions.vms(survey, only),
        totals=conditions.totals(survey, only),
        loss=survey.loss | {"slow_client": survey.dropped},
        lost_ns=LOST_NS if end is None else 0,
        gaps=[Gap(from_ns=first, to_ns=last) for first, last in _gaps(survey, end)],
        note=str((end or {}).get("note") or ""),
    )


def _gaps(survey: Survey, end: dict[str, Any] | None) -> list[tuple[int, int]]:
    gaps = list(survey.gaps)
    if end is not None and (end.get("silent") is True or end["time_ns"][1] - end["time_ns"][0] > _GAP_NS):
        gaps.append(end["time_ns"])
    return gaps


def _conclude(meta: RecordingMeta, survey: Survey) -> None:
    """Whether it is complete, and one sentence on what is special."""
    expected = _faults(meta)
    lost = {name: n for name, n in meta.loss.items() if n and name not in ("hook_missing", "recording_error")}
    notes = [meta.note] if meta.note else []
    if meta.lost_ns:
        notes.append(f"the recorder was killed: at most the last {meta.lost_ns / 1e9:g} s before that is missing")
    if survey.damaged:
        times = "once" if survey.damaged == 1 else f"{survey.damaged} times"
        notes.append(f"the spool was damaged {times} on the disk: what was there is missing")
    if meta.gaps:
        missing_s = sum(gap.to_ns - gap.from_ns for gap in meta.gaps) / 1e9
        notes.append(f"no collector ran for {missing_s:.1f} s of the time")
    if lost:
        notes.append("lost: " + ", ".join(f"{n} {name}" for name, n in sorted(lost.items())))
    if expected > meta.records + max(expected // 1000, 64):
        missing = expected - meta.records
        have = "has" if missing == 1 else "have"
        notes.append(f"{missing} of {words.counted(expected, 'fault')} {have} no record; the totals count them")
    meta.complete = meta.state == "finished" and not (meta.lost_ns or meta.gaps or lost or survey.damaged)
    meta.note = "; ".join(notes)
    if survey.bye is not None and not meta.note:
        meta.note = f"the collector ended: {survey.bye}"


def _faults(meta: RecordingMeta) -> int:
    """Faults that should have a record, by the totals."""
    counts = [
        sum(user_faults(vcpu.faults) for vm in snapshot.vms.values() for vcpu in vm.vcpus)
        for snapshot in (meta.totals.start, meta.totals.stop)
    ]
    return counts[1] - counts[0]


def _histograms(survey: Survey, meta: RecordingMeta) -> npt.NDArray[Any]:
    index = {vm.id: number for number, vm in enumerate(meta.vms)}
    parts = []
    for owner in survey.counted:
        vm = index.get(survey.vm_id(owner.key))
        if owner.vcpu is None or vm is None:
            continue
        histogram = survey.histograms.row(owner.number)
        where = np.flatnonzero(histogram)
        cells = np.zeros(len(where), HISTOGRAM_CELL_DTYPE)
        cells["vm"], cells["vcpu"] = vm, owner.vcpu
        cells["series"], cells["bucket"], cells["count"] = where // BUCKETS, where % BUCKETS, histogram[where]
        parts.append(cells)
    return np.concatenate([np.empty(0, HISTOGRAM_CELL_DTYPE), *parts])
