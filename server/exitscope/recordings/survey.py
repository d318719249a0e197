"""The first look through a spool: who was there, what the kernel counted, what was lost; no record is kept.

Owners of counters are (session, VM number, vCPU): numbers mean nothing after the collector has restarted, and the
same VM's parts are put together by its id at the end.
"""

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from exitscope_probes.exit_reasons import HARDWARE_CELLS, name_of
from exitscope_probes.histogram import BUCKETS
from exitscope_probes.records import MEMSLOT_UNKNOWN, MODE_ASYNC, MODE_KERNEL, VCPU_OTHER
from exitscope_probes.wire import Kind, Message, WireError

from ..peer import Hello, PeerVms, checked
from .buckets import SLOT_CELLS, Buckets
from .counters import (
    BACKGROUND,
    BYTES_BACKGROUND,
    COUNTS,
    DEMAND,
    EXITS,
    FAILED,
    HARDWARE_COUNTS,
    HARDWARE_SUMS_NS,
    KERNEL_CELLS,
    PREFETCH,
    SCALARS,
    STALL_NS,
    SUMS_NS,
    VM_SCALARS,
    CounterLog,
)

_MAX_SLOTS: Final = 1 << 16
_MAX_HANDLERS: Final = 64

Key = tuple[int, int]  # session, VM number
_Int64s = npt.NDArray[np.int64]


@dataclass(slots=True, eq=False)
class Counted:
    """One vCPU's counters (vcpu -1: other threads) or, with vcpu None, one VM's. start: when the recording began."""

    key: Key
    vcpu: int | None
    tid: int
    start: _Int64s
    grown: _Int64s
    last: _Int64s
    number: int
    hardware: dict[str, list[int]] = field(default_factory=dict)  # reason -> [count, sum in ns]


@dataclass(slots=True)
class _Slot:
    owner: Counted
    hardware: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)


class Survey:
    """See the module. Feed it every message of the spool in order, with `take`."""

    def __init__(self) -> None:
        self.session = -1
        self.hello: dict[str, Any] = {}
        self.vms: dict[Key, dict[str, Any]] = {}  # what VMS said last of each while it ran
        self.counted: list[Counted] = []
        self.histograms = Buckets()  # what was counted; a row is the number of a Counted
        self.log: CounterLog | None = None
        self.started_ns: int | None = None
        self.ended_ns = 0  # when the totals were last read
        self.last_ns = 0  # when the last message was made
        self.loss: dict[str, int] = {}
        self.dropped = 0
        self.damaged = 0  # times that blocks of the spool could not be read
        self.records = 0
        self.gaps: list[tuple[int, int]] = []
        self.handlers: dict[tuple[Key, int], int] = {}
        self.memslots: dict[Key, set[int]] = {}
        self.async_faults: set[Key] = set()
        self.recorded: set[Key] = set()  # VMs with records
        self.bye: str | None = None
        self._slots: dict[int, _Slot] = {}
        self._owner_of = np.full(_MAX_SLOTS, -1, np.int64)  # slot -> number of its Counted
        self._last_cells = Buckets()  # a row is a slot
        self._vm_rows: dict[int, Counted] = {}
        self._last_loss: dict[str, int] = {}
        self._dropped_here = 0
        self._beginning = True

    def take(self, message: Message) -> None:
        """One message more; numbers that fit no row are left out. Raises WireError if it does not fit."""
        try:
            self._take(message)
        except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
            raise WireError(f"{message.kind.name} frame: {type(error).__name__}: {error}") from None

    def _take(self, message: Message) -> None:
        match message.kind:
            case Kind.HELLO:
                checked(Hello, message)
                self._hello(message)
            case Kind.VMS:
                checked(PeerVms, message)
                for vm in _dicts(message.meta.get("vms")):
                    if isinstance(vm.get("vm"), int) and isinstance(vm.get("id"), str):
                        key = (self.session, vm["vm"])
                        if vm.get("state") != "gone" or key not in self.vms:
                            self.vms[key] = _merged(self.vms.get(key, {}), vm)
            case Kind.TOTALS:
                self._totals(message)
            case Kind.FAULTS:
                self._faults(message)
            case Kind.BYE:
                self.bye = str(message.meta.get("reason", ""))[:200]
        self.last_ns = max(self.last_ns, message.time_ns)

    def vm_id(self, key: Key) -> str:
        """Of a VM that discovery never named: vm-N."""
        return str(self.vms.get(key, {}).get("id") or f"vm-{key[1]}")

    def ids(self, session: int) -> dict[int, str]:
        """VM number -> id in a session."""
        return {number: self.vm_id((one, number)) for one, number in self.vms if one == session}

    def _hello(self, message: Message) -> None:
        said = message.meta
        if self.session >= 0 and self.last_ns:
            self.gaps.append((self.last_ns, message.time_ns))
        if self.session < 0 or said.get("started_ns") != self.hello.get("started_ns"):
            self.session += 1
            self._slots.clear()
            self._owner_of[:] = -1
            self._last_cells = Buckets()
            self._vm_rows.clear()
            self._last_loss = {}
        self.hello, self.bye = said, None
        dropped = said.get("dropped")  # before what preroll.py handed over
        self._dropped_here = dropped if isinstance(dropped, int) else 0

    def _totals(self, message: Message) -> None:
        polled_ns = int(message.meta.get("polled_ns") or message.time_ns)
        # A new client's snapshot is up to 0.2 s old, and it is not sent the records of that time: begin one later.
        first = self._beginning
        if first:
            self.started_ns, self.log = polled_ns, CounterLog(polled_ns)
        self.ended_ns = max(polled_ns, self.ended_ns)
        self._losses(message.meta.get("loss"), first)
        arrays = message.arrays
        self._vcpus(arrays["slots"], arrays["vcpus"], first)
        self._cells(arrays["cells"], first)
        self._hardware(arrays.get("hardware"), first)
        self._vms(arrays["vms"], first)
        self._beginning = first and message.meta.get("snapshot") is True

    def _losses(self, loss: object, first: bool) -> None:
        if not isinstance(loss, dict):
            return
        now = {str(name)[:64]: n for name, n in list(loss.items())[:64] if isinstance(n, int) and name != "slow_client"}
        if first:
            self.loss = dict.fromkeys(now, 0)
        else:
            for name, n in now.items():
                self.loss[name] = self.loss.get(name, 0) + max(n - self._last_loss.get(name, 0), 0)
        self._last_loss = now

    def _vcpus(self, slots: npt.NDArray[Any], rows: npt.NDArray[Any], first: bool) -> None:
        fits = (rows["vm"] != 0) & (slots < _MAX_SLOTS)
        for slot, row, values in zip(slots[fits].tolist(), rows[fits], _vcpu_values(rows[fits]), strict=True):
            key = (self.session, int(row["vm"]))
            vcpu = -1 if row["vcpu"] == VCPU_OTHER else int(row["vcpu"])
            at = self._slots.get(slot)
            if (
                at is None
                or (at.owner.key, at.owner.vcpu) != (key, vcpu)
                or (values[COUNTS] < at.owner.last[COUNTS]).any()
            ):
                at = self._slots[slot] = _Slot(self._owner(key, vcpu, int(row["tid"]), SCALARS))
                self._owner_of[slot] = at.owner.number
                self._last_cells.clear(slot)
            self._count(at.owner, values, first)

    def _cells(self, cells: npt.NDArray[Any], first: bool) -> None:
        slots = cells["cell"] // SLOT_CELLS
        owners = np.where(slots < _MAX_SLOTS, self._owner_of[np.minimum(slots, _MAX_SLOTS - 1)], -1)
        known = owners >= 0
        where, counts = cells["cell"][known].astype(np.int64), cells["count"][known].astype(np.int64)
        grown = counts - self._last_cells.at(where)
        self._last_cells.put(where, counts)
        if first:
            return
        grew = grown > 0
        owners, columns, grown = owners[known][grew], where[grew] % SLOT_CELLS, grown[grew]
        self.histograms.add(owners * SLOT_CELLS + columns, grown)
        kernel = (columns >= MODE_KERNEL * BUCKETS) & (columns < (MODE_KERNEL + 1) * BUCKETS)
        if kernel.any() and self.log:
            columns = KERNEL_CELLS.start + columns[kernel] - MODE_KERNEL * BUCKETS
            self.log.add(self.ended_ns, owners[kernel], columns, grown[kernel])

    def _hardware(self, exits: npt.NDArray[Any] | None, first: bool) -> None:
        for one in () if exits is None else exits:
            at = self._slots.get(int(one["slot"]))
            if at is None:
                continue
            cell = int(one["isa"]), int(one["cell"])
            now = int(one["count"]), int(one["sum_ns"])
            before = at.hardware.get(cell, (0, 0))
            at.hardware[cell] = now
            if not first and now[0] > before[0]:
                total = at.owner.hardware.setdefault(name_of(*cell), [0, 0])
                total[0] += now[0] - before[0]
                total[1] += max(now[1] - before[1], 0)
                if self.log and cell[1] < HARDWARE_CELLS:
                    self.log.isa = cell[0]
                    columns = np.array((HARDWARE_COUNTS.start, HARDWARE_SUMS_NS.start)) + cell[1]
                    grown = np.array((now[0] - before[0], max(now[1] - before[1], 0)))
                    self.log.add(self.ended_ns, at.owner.number, columns, grown)

    def _vms(self, rows: npt.NDArray[Any], first: bool) -> None:
        for row in rows:
            number = int(row["vm"])
            if not number:
                continue
            owner = self._vm_rows.get(number)
            if owner is None:
                owner = self._vm_rows[number] = self._owner((self.session, number), None, 0, VM_SCALARS)
            values = np.empty(VM_SCALARS, np.int64)
            values[DEMAND], values[BACKGROUND] = row["fills_demand"], row["fills_background"]
            values[FAILED], values[BYTES_BACKGROUND] = row["fills_failed"], row["bytes_background"]
            self._count(owner, values, first)

    def _owner(self, key: Key, vcpu: int | None, tid: int, width: int) -> Counted:
        zeros = np.zeros((3, width), np.int64)
        owner = Counted(key, vcpu, tid, zeros[0], zeros[1], zeros[2], len(self.counted))
        self.counted.append(owner)
        return owner

    def _count(self, owner: Counted, values: _Int64s, first: bool) -> None:
        if first:
            owner.start[:] = values
        else:
            grown = np.maximum(values - owner.last, 0)
            if self.log and grown.any():
                owner.grown += grown
                self.log.add(self.ended_ns, owner.number, slice(0, len(grown)), grown)
        owner.last[:] = values

    def _faults(self, message: Message) -> None:
        records = message.arrays["records"]
        dropped = message.meta.get("dropped")
        if isinstance(dropped, int) and dropped > self._dropped_here:
            self.dropped += dropped - self._dropped_here
            self._dropped_here = dropped
        self.records += len(records)
        self.recorded.update((self.session, number) for number in np.unique(records["vm"]).tolist())
        pairs, fills = np.unique(
            records["vm"].astype(np.uint64) << np.uint64(32) | records["handler_tid"], return_counts=True
        )
        for pair, n in zip(pairs.tolist(), fills.tolist(), strict=True):
            handler = (self.session, pair >> 32), pair & 0xFFFF_FFFF
            if handler[1] and (handler in self.handlers or len(self.handlers) < _MAX_HANDLERS * 64):
                self.handlers[handler] = self.handlers.get(handler, 0) + n
        slots = np.unique(records["vm"].astype(np.int64) << 16 | (records["memslot"].astype(np.int64) & 0xFFFF))
        for pair in slots.tolist():
            if pair & 0xFFFF != MEMSLOT_UNKNOWN & 0xFFFF:
                self.memslots.setdefault((self.session, pair >> 16), set()).add(pair & 0xFFFF)
        for number in np.unique(records["vm"][records["mode"] == MODE_ASYNC]).tolist():
            self.async_faults.add((self.session, number))


def _vcpu_values(rows: npt.NDArray[Any]) -> _Int64s:
    values = np.empty((len(rows), SCALARS), np.int64)
    values[:, COUNTS] = rows["series"]["count"]
    values[:, SUMS_NS] = rows["series"]["sum_ns"]
    values[:, EXITS] = rows["exits"]
    values[:, STALL_NS] = rows["stall_ns"]
    values[:, PREFETCH] = rows["prefetch"]
    return values


def _dicts(found: object) -> list[dict[str, Any]]:
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The newest, but what was known once stays: threads end, userfaultfds are closed."""
    merged = old | {name: value for name, value in new.items() if value not in (None, [], "") or name not in old}
    for name, of in (("vcpus", "vcpu"), ("handlers", "tid")):
        known = {one.get(of): one for one in _dicts(old.get(name))}
        merged[name] = list((known | {one.get(of): one for one in _dicts(new.get(name))}).values())
    return merged
