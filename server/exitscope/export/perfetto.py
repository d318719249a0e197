"""A Perfetto trace: a process per VM, a track per vCPU and handler, a slice per fault and stage, flows to the fills.

Field numbers: protos/perfetto/trace/trace_packet.proto and track_event/*.proto of github.com/google/perfetto; the
tests read what this writes with that project's own classes.
"""

from collections.abc import Hashable, Iterable, Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from exitscope_probes.records import EXIT_STAGES, SEEN_FILL, UFFD_STAGES

from ..lengths import STAGE_COLUMNS
from ..modes import EXIT_MODES
from ..recordings.columns import OTHER_THREADS
from ..recordings.meta import RecordingMeta
from .lanes import Lanes
from .protobuf import Part, fixed64, join, message, one, same, varint

BATCH: Final = 8192
"""Faults encoded at once, about 40 MB."""

_MONOTONIC, _REALTIME = 3, 1  # BuiltinClock
_BEGIN, _END = 1, 2  # TrackEvent.Type
_CLEARED, _NEEDS_STATE = 1, 2  # TracePacket.SequenceFlags
_EXPLICIT: Final = 3  # TrackDescriptor.ChildTracksOrdering
_SEQUENCE: Final = one(10, 1)
_ACCESS: Final = (
    "not seen",
    "read",
    "write",
    "read, write",
    "fetch",
    "read, fetch",
    "write, fetch",
    "read, write, fetch",
)
_FIRST_LANE: Final = 1 << 20  # uuids below are the VMs'


class _Track(NamedTuple):
    """vcpu: also -1, other threads; kind: 0 the vCPU's own, 1 its async faults, 2 another thread, 3 a handler."""

    vm: str
    kind: int
    number: int


class _Names:
    """Strings that packets refer to by number (InternedData)."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._iids: dict[str, int] = {}
        self._new = b""

    def iid(self, name: str) -> int:
        """Its number, new ones are kept for `packet`."""
        if name not in self._iids:
            self._iids[name] = len(self._iids) + 1
            self._new += one(self._number, one(1, self._iids[name]) + one(2, name))
        return self._iids[name]

    def iids(self, names: Iterable[str], codes: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
        """The numbers of names[codes], (n,)."""
        table: npt.NDArray[np.uint64] = np.array([self.iid(name) for name in names] or [0], np.uint64)
        found: npt.NDArray[np.uint64] = table[codes]
        return found

    def take(self) -> bytes:
        """What was new since the last call, as fields of InternedData."""
        new, self._new = self._new, b""
        return new


def stream(batches: Iterable[pa.RecordBatch], meta: RecordingMeta) -> Iterator[bytes]:
    """The trace of faults, which come with the columns of query.faults.COLUMNS, best in the order of begin_ns."""
    trace = _Trace(meta)
    yield trace.head()
    for batch in batches:
        for first in range(0, batch.num_rows, BATCH):
            yield trace.encode(batch.slice(first, BATCH))


class _Trace:
    def __init__(self, meta: RecordingMeta) -> None:
        self._meta = meta
        self._vms: dict[str, int] = {}
        self._descriptors = b""
        self._lanes = Lanes(self._describe, _FIRST_LANE)
        self._events, self._texts, self._arguments = _Names(2), _Names(29), _Names(3)
        self._handlers = {
            (vm.id, handler.tid): handler.name for vm in meta.vms for handler in vm.handlers if handler.name
        }
        self._faults = 0

    def head(self) -> bytes:
        """The clock, and that all timestamps are of it."""
        clocks = one(1, one(1, _MONOTONIC) + one(2, self._meta.started_ns))
        if self._meta.started_wall_ms:
            clocks += one(1, one(1, _REALTIME) + one(2, self._meta.started_wall_ms * 1_000_000))
        snapshot = one(6, clocks + one(2, _MONOTONIC))
        defaults = one(59, one(58, _MONOTONIC))
        return one(1, one(87, 1) + one(13, _CLEARED) + defaults + _SEQUENCE) + one(1, snapshot + _SEQUENCE)

    def encode(self, batch: pa.RecordBatch) -> bytes:
        """All packets of these faults, and before them what is new that they refer to."""
        faults = _Faults(batch)
        packets = self._fault_packets(faults) + self._fill_packets(faults)
        new = self._events.take() + self._arguments.take() + self._texts.take()
        interned = one(1, one(12, new) + one(13, _NEEDS_STATE) + _SEQUENCE) if new else b""
        descriptors, self._descriptors = self._descriptors, b""
        self._faults += len(faults)
        return interned + descriptors + packets

    def _fault_packets(self, faults: "_Faults") -> bytes:
        uuids = self._lanes.place(*faults.tracks(), faults.begin_ns, faults.begin_ns + faults.latency_ns)
        modes, mode = faults.names("mode")
        flow = fixed64(47, self._flows(faults)).where(faults.handled)
        names = varint(10, self._events.iids([f"{name} fault" for name in modes], mode))
        packets = [_event(faults.begin_ns, uuids, _BEGIN, names, flow, *self._annotations(faults))]
        begin_ns = faults.begin_ns
        for number, column in enumerate(STAGE_COLUMNS):
            length_ns = faults.column(column)
            stages = [_stage(name, number) for name in modes]
            name = varint(10, self._events.iids(stages, mode))
            there = length_ns > 0
            packets.append(_event(begin_ns, uuids, _BEGIN, name).where(there))
            begin_ns = begin_ns + length_ns
            packets.append(_event(begin_ns, uuids, _END).where(there))
        packets.append(_event(begin_ns, uuids, _END))
        return join(*packets).tobytes()

    def _fill_packets(self, faults: "_Faults") -> bytes:
        """The fill as the handler's work, in the order in which it did it."""
        begin_ns = sum((faults.column(name) for name in STAGE_COLUMNS[:3]), faults.begin_ns)
        order = np.flatnonzero(faults.handled)
        order = order[np.argsort(begin_ns[order], kind="stable")]
        if not len(order):
            return b""
        begin_ns = begin_ns[order]
        end_ns = begin_ns + faults.column("fill_ns")[order]
        tracks, codes = faults.handlers()
        uuids = self._lanes.place(tracks, codes[order], begin_ns, end_ns)
        resolvers, resolver = faults.names("resolver")
        name = varint(10, self._events.iids([f"fill {one}" for one in resolvers], resolver[order]))
        flow = fixed64(48, self._flows(faults)[order])
        arguments = [
            self._number("vCPU", faults.column("vcpu")[order]),
            self._address("gpa", *(part[order] for part in faults.address("gpa"))),
            self._address("hva", *(part[order] for part in faults.address("hva"))),
        ]
        return join(
            _event(begin_ns, uuids, _BEGIN, name, flow, *arguments),
            _event(end_ns, uuids, _END),
        ).tobytes()

    def _flows(self, faults: "_Faults") -> npt.NDArray[np.uint64]:
        return np.arange(self._faults + 1, self._faults + 1 + len(faults), dtype=np.uint64)

    def _annotations(self, faults: "_Faults") -> list[Part]:
        """What a click on a fault shows."""
        modes, mode = faults.names("mode")
        exits = np.isin(modes, EXIT_MODES)[mode] if len(modes) else np.zeros(0, bool)
        named = exits & (faults.column("exit_reason") != 0)
        memslot, known = faults.address("memslot")
        handler = faults.column("handler_tid")
        return [
            self._text("mode", modes, mode),
            *(self._text(name, *faults.names(name)) for name in ("resolver", "waiter", "presence")),
            self._text("access", _ACCESS, faults.column("access") & 7),
            self._address("gpa", *faults.address("gpa")),
            self._address("hva", *faults.address("hva")),
            self._number("memslot", memslot).where(known),
            self._number("latency_ns", faults.latency_ns),
            self._number("tid", faults.column("tid")),
            self._number("handler_tid", handler).where(handler != 0),
            self._number("exit_errno", faults.column("exit_errno")).where(exits),
            self._number("exit_reason", faults.column("exit_reason")).where(named),
            self._number("exit_flags", faults.column("exit_flags"), 3).where(named),
            self._number("exit_size", faults.column("exit_size"), 3).where(named),
        ]

    def _text(self, name: str, values: Iterable[str], codes: npt.NDArray[Any]) -> Part:
        iids = self._texts.iids(values, codes)
        return message(4, same(one(1, self._arguments.iid(name)), len(iids)), varint(17, iids))

    def _number(self, name: str, values: npt.NDArray[Any], kind: int = 4) -> Part:
        """kind: 4 signed, 3 unsigned, 7 shown as an address."""
        return message(4, same(one(1, self._arguments.iid(name)), len(values)), varint(kind, values))

    def _address(self, name: str, values: npt.NDArray[Any], known: npt.NDArray[np.bool_]) -> Part:
        return self._number(name, values, 7).where(known)

    def _describe(self, track: _Track, uuid: int) -> None:
        """A packet that says what a new lane is, and the VM's before it."""
        if track.vm not in self._vms:
            self._vms[track.vm] = len(self._vms) + 1
            vm = self._meta.vm(track.vm)
            pid = vm.pid if vm and vm.pid else self._vms[track.vm]
            process = one(1, pid) + one(6, (vm and vm.name) or track.vm)
            descriptor = one(1, self._vms[track.vm]) + one(3, process) + one(11, _EXPLICIT)
            self._descriptors += one(1, one(60, descriptor) + _SEQUENCE)
        number = track.number
        name, rank = (
            (f"vCPU {number}", 2 * number),
            (f"vCPU {number} async", 2 * number + 1),
            (f"thread {number}", 1 << 24),
            (f"handler {self._handlers.get((track.vm, number), '')} {number}".replace("  ", " "), 1 << 25),
        )[track.kind]
        descriptor = one(1, uuid) + one(5, self._vms[track.vm]) + one(2, name) + one(12, rank)
        self._descriptors += one(1, one(60, descriptor) + _SEQUENCE)


class _Faults:
    """A batch's columns as numpy arrays, (n,)."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._batch = batch
        self.begin_ns = self.column("begin_ns")
        self.latency_ns = self.column("latency_ns")
        handler = self.column("handler_tid")
        self.handled = (handler != 0) & (handler != self.column("tid")) & (self.column("seen") & SEEN_FILL != 0)
        """Filled by another thread, whose track shows it."""

    def __len__(self) -> int:
        return int(self._batch.num_rows)

    def column(self, name: str) -> npt.NDArray[Any]:
        """A column of numbers."""
        array: npt.NDArray[Any] = self._batch.column(name).to_numpy(zero_copy_only=False)
        return array

    def address(self, name: str) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """A column of numbers, 0 where not known, and where they are known."""
        column = self._batch.column(name)
        known: npt.NDArray[np.bool_] = column.is_valid().to_numpy(zero_copy_only=False)
        return column.fill_null(0).to_numpy(zero_copy_only=False), known

    def names(self, name: str) -> tuple[list[str], npt.NDArray[Any]]:
        """A column of strings: those there are, and the index of each row's."""
        column = self._batch.column(name)
        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        return column.dictionary.to_pylist(), column.indices.to_numpy(zero_copy_only=False)

    def tracks(self) -> tuple[list[Hashable], npt.NDArray[np.int64]]:
        """Whose fault each is."""
        waiters, waiter = self.names("waiter")
        vcpu = self.column("vcpu").astype(np.int64)
        other = vcpu == OTHER_THREADS
        kind = np.where(other, 2, np.isin(waiters, ("async",))[waiter].astype(np.int64))
        return self._distinct(kind, np.where(other, self.column("tid"), vcpu))

    def handlers(self) -> tuple[list[Hashable], npt.NDArray[np.int64]]:
        """Whose fill each is."""
        return self._distinct(np.full(len(self), 3), self.column("handler_tid").astype(np.int64))

    def _distinct(
        self, kind: npt.NDArray[np.int64], number: npt.NDArray[np.int64]
    ) -> tuple[list[Hashable], npt.NDArray[np.int64]]:
        vms, vm = self.names("vm")
        rows = np.stack((vm.astype(np.int64), kind, number), axis=1)
        distinct, codes = np.unique(rows, axis=0, return_inverse=True)
        return [_Track(vms[vm], kind, number) for vm, kind, number in distinct.tolist()], codes.reshape(-1)


def _event(at_ns: npt.NDArray[Any], uuids: npt.NDArray[np.uint64], kind: int, *parts: Part) -> Part:
    """A packet with one TrackEvent, of the field Trace.packet."""
    event = message(11, same(one(9, kind), len(at_ns)), varint(11, uuids), *parts)
    return message(1, varint(8, at_ns), same(_SEQUENCE + one(13, _NEEDS_STATE), len(at_ns)), event)


def _stage(mode: str, number: int) -> str:
    """Name of the stage that is this column in this mode."""
    if mode in EXIT_MODES:
        return ("raise", "raise", *EXIT_STAGES[1:])[number]  # exit modes have no notify: that column is 0
    return UFFD_STAGES[number]
