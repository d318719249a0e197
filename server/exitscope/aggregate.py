"""The state of everything seen: takes the collector's messages, keeps counters, windows and time series.

Nothing here knows of sockets, clocks or clients: time is the messages' own. One thread.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from exitscope_probes.exit_reasons import ISA_NONE
from exitscope_probes.records import HARDWARE_DTYPE, LOSSES, VCPU_OTHER
from exitscope_probes.wire import Kind, Message, WireError

from . import tick
from .gpa import GpaCounts
from .hardware import HardwareExits
from .migrations.recognise import look
from .migrations.tracker import Tracker
from .peer import Hello, PeerMigration, PeerUser, PeerVms, checked
from .rows import MAX_RESTING, MAX_ROWS, MAX_SLOTS, Rows
from .scalars import COUNTS, EXITS, HISTOGRAM_WIDTH, SCALARS, STALL_NS, SUMS_NS, VM_SCALARS
from .series import Series
from .shared_queue import Queue, inferred
from .slowest import Slowest
from .stalled import Stalled
from .threads import Threads
from .unanswered import Unanswered
from .vms import MAX_VMS, Vms
from .window import Counters

_CELLS_AT_ONCE: Final = 1 << 17  # what is made of them takes twice their room

MAX_WRAPPED: Final = 1 << 16
"""Buckets beyond 2^32: 2^48 faults of one length, of which a host has a million in a second, in nine years."""

_FILLS: Final = ("fills_demand", "fills_background", "fills_failed", "failed_by")
"""Columns of VM_DTYPE, in the order of the per-VM scalars (scalars.py)."""


class Aggregate:
    """See the module. Readers use rows, vms, histograms, scalars, hardware, fills, series, slowest and losses."""

    def __init__(self) -> None:
        self.hello = Hello()
        self.time_ns = 0
        self.sessions = 0
        self.losses: dict[str, int] = dict.fromkeys(LOSSES, 0)
        self.records_dropped = 0
        self.records = 0
        self.rows = Rows()
        self.vms = Vms(self.rows)
        self.histograms = Counters(MAX_ROWS, HISTOGRAM_WIDTH, np.uint32)
        self.scalars = Counters(MAX_ROWS, SCALARS, np.int64)
        self.fills = Counters(MAX_VMS + 1, VM_SCALARS, np.int64)
        self.hardware = HardwareExits()
        self.series = Series()
        self.slowest = Slowest()
        self.stalled = Stalled()
        self.gpa = GpaCounts()
        self.threads = Threads()
        # Not of this object itself: a cycle would keep it, and all that it has counted, long after its end.
        self._counted = tick.Counted(
            self.rows, self.vms, self.histograms, self.scalars, self.fills, self.stalled, self.gpa
        )
        self.unanswered = Unanswered()
        self.migrations = Tracker(self.vms, self._counted, self.unanswered)
        self.users: list[PeerUser] = []  # whose VMs take which room in the collector
        self._refused: set[tuple[int, int]] = set()  # (VM number, vCPU) that found no row
        self.wrapped: dict[int, dict[int, int]] = {}  # row -> column of a bucket -> times that it passed 2^32
        self._first = True  # no TOTALS of this collector yet
        self._named = False  # no VMS of this collector yet
        self._started = False

    @property
    def ready(self) -> bool:
        """Whether this collector has said which VMs there are."""
        return self._named

    @property
    def ledger(self) -> dict[str, int]:
        """The losses that the collector has told, and those of this server; place -> count."""
        # The collector counts the records that it dropped for its slow clients, us among them, in both places.
        slow = max(self.losses.get("slow_client", 0), self.records_dropped)
        return self.losses | {"slow_client": slow, "server_full": len(self._refused) + self.vms.refused}

    def handle(self, message: Message) -> None:
        """Take one message over. Raises WireError if its meta does not fit, or what it says cannot be."""
        time_ns = max(message.time_ns, self.time_ns)
        match message.kind:
            case Kind.HELLO:
                self._hello(checked(Hello, message))
            case Kind.VMS:
                self._see_vms(checked(PeerVms, message), time_ns)
            case Kind.TOTALS:
                self._totals(message, time_ns)
            case Kind.FAULTS:
                self.records_dropped = _count(message.meta.get("dropped"))
                self._faults(message.arrays["records"], time_ns)
            case Kind.MIGRATION:
                self.migrations.migration(checked(PeerMigration, message), message.meta, time_ns)
            case Kind.BYE:
                pass

    def _hello(self, hello: Hello) -> None:
        again = self.sessions > 0 and (hello.started_ns, hello.host) == (
            self.hello.started_ns,
            self.hello.host,
        )
        self.hello = hello
        self.migrations.hello(again, hello.migrations)
        if again:
            return  # the same collector after a lost connection: its counts go on
        self.sessions += 1
        self._first, self._named = True, False
        self.rows.detach_all()
        self.vms.new_session()
        self.slowest.clear()
        self.stalled.clear()
        self.gpa.forget()
        self.threads.forget()
        self.unanswered.new_collector(sees_fills=not hello.lacks("resolve"), sees_ends=not hello.lacks("thread_exit"))
        self.hardware.isa = ISA_NONE
        self.losses = dict.fromkeys(LOSSES, 0)
        self.records_dropped = 0

    def _see_vms(self, peers: PeerVms, time_ns: int) -> None:
        self._named = True
        counting = self.rows.of_slot[self.rows.of_slot >= 0]
        known = {vm.row for vm in self.vms}
        for vm in self.vms.see(peers.vms, time_ns):
            for row in set(vm.rows.values()).difference(counting.tolist()):
                self._reset_row(row)
            self.fills.reset_row(vm.row)
            if vm.row not in known:
                self.series.clear_vm(vm.row)
        self.vms.forget_old(time_ns)
        while self.rows.resting > MAX_RESTING and self.vms.make_room():
            pass
        self.users = peers.users
        self.threads.see(self.vms, time_ns)
        self.unanswered.vms(self.vms, time_ns)
        self.migrations.vms(time_ns)

    def _faults(self, records: npt.NDArray[Any], time_ns: int) -> None:
        self.records += len(records)
        self.slowest.add(records, time_ns)
        self.stalled.add(records)
        self.gpa.add(records, self.vms)
        self.threads.serve(records, self.vms, time_ns)
        self.unanswered.records(records)
        self.migrations.faults(records)

    def _totals(self, message: Message, time_ns: int) -> None:
        if not self._started:  # windows begin with the first data, not with the epoch of the clock
            self._started = True
            for counters in self._counters():
                counters.start(time_ns)
        self.time_ns = time_ns
        if not self._named:
            return
        seen = look(message)
        self.migrations.before(seen, time_ns)
        loss = message.meta.get("loss")
        if isinstance(loss, dict):
            self.losses.update({str(name)[:64]: _count(value) for name, value in list(loss.items())[:64]})
        self.unanswered.totals(seen, time_ns, self.losses["unmatched_begin"])
        slots, totals = message.arrays["slots"], message.arrays["vcpus"]
        if len(slots) == len(totals):
            self._vcpus(slots, totals)
        cells = message.arrays["cells"]
        for begin in range(0, len(cells), _CELLS_AT_ONCE):
            self._cells(cells[begin : begin + _CELLS_AT_ONCE])
        hardware = message.arrays.get("hardware", np.empty(0, HARDWARE_DTYPE))
        self.hardware.take(hardware, self.rows.of_slot, self._first)
        self._vms(message.arrays["vms"])
        self._first = False
        open_since_ns = self.rows.open_since_ns
        standing = (open_since_ns != 0) & (self.rows.totals["vcpu"] != VCPU_OTHER)
        self.stalled.look(self.rows.totals["vm"][standing], open_since_ns[standing])
        if self.histograms.tick_due(time_ns):
            self.migrations.stalled(tick.write(self.series, self._counted, time_ns, self.migrations.away()))
        for counters in self._counters():
            counters.close(time_ns)
        self.migrations.after(time_ns)

    def _counters(self) -> tuple[Counters, ...]:
        return self.histograms, self.scalars, self.hardware.counters, self.fills, self.threads.counters

    def _vcpus(self, slots: npt.NDArray[Any], totals: npt.NDArray[Any]) -> None:
        fits = (slots < MAX_SLOTS) & (totals["vm"] != 0)
        for slot in slots[(slots < MAX_SLOTS) & (totals["vm"] == 0)]:
            self.rows.detach_slot(int(slot))
        slots, totals = slots[fits], totals[fits]
        rows = self.rows.of_slot[slots]
        known = self.rows.totals[rows]
        new = (rows < 0) | (known["vm"] != totals["vm"]) | (known["vcpu"] != totals["vcpu"])
        new |= (totals["series"]["count"] < known["series"]["count"]).any(axis=1)
        for i in np.flatnonzero(new):
            rows[i] = self._attach(int(slots[i]), int(totals["vm"][i]), int(totals["vcpu"][i]))
        rows, totals = rows[rows >= 0], totals[rows >= 0]
        self.rows.totals[rows] = totals

        # Time stood still so far: in finished faults and in the one still open. It grows without jumps, so
        # that its difference over a window is the stall in just that window.
        rows = np.union1d(rows, np.flatnonzero(self.rows.alive))
        state = self.rows.totals[rows]
        values = np.empty((len(rows), SCALARS), np.int64)
        values[:, COUNTS] = state["series"]["count"]
        values[:, SUMS_NS] = state["series"]["sum_ns"]
        values[:, EXITS] = state["exits"]
        opened, finished = self.rows.open_since_ns[rows], state["stall_ns"].astype(np.int64)
        stood = finished + np.where(opened > 0, np.maximum(self.time_ns - opened, 0), 0)
        before = np.maximum(finished, self.scalars.now[rows, STALL_NS])
        values[:, STALL_NS] = np.where(self.rows.running[rows], stood, before)
        self._update(self.scalars, rows, values)

    def _attach(self, slot: int, number: int, vcpu: int) -> int:
        """The row for the new owner of a slot, -1 if there is no room."""
        self.rows.detach_slot(slot)
        vm = self.vms.by_number(number)
        if vm is None:
            self._refused.add((number, vcpu))
            return -1
        if vcpu not in vm.rows:
            if self.rows.free == 0 and not self.vms.make_room():
                self._refused.add((number, vcpu))
                return -1
            vm.rows[vcpu] = self.rows.take()
            vm.final.pop(vcpu, None)
            self.series.clear_row(vm.rows[vcpu])
        row = vm.rows[vcpu]
        self.rows.attach(row, slot)
        if vm.gone_ns is not None:
            self.rows.rest(row)
        self._reset_row(row)
        return row

    def _reset_row(self, row: int) -> None:
        self.histograms.reset_row(row)
        self.scalars.reset_row(row)
        self.hardware.reset_row(row)
        self.wrapped.pop(row, None)

    def _update(self, counters: Counters, rows: npt.NDArray[Any], values: npt.NDArray[Any]) -> None:
        """Bring rows (n,) to the cumulative values (n, width)."""
        index, column = np.nonzero(values != counters.now[rows])
        cells = rows[index] * counters.width + column
        if self._first:
            counters.set_base(cells, values[index, column])
        else:
            counters.add(cells, values[index, column] - counters.now.at(cells))

    def _cells(self, cells: npt.NDArray[Any]) -> None:
        slots = cells["cell"] // HISTOGRAM_WIDTH
        rows = np.where(slots < MAX_SLOTS, self.rows.of_slot[np.minimum(slots, MAX_SLOTS - 1)], -1)
        flat = rows.astype(np.int64) * HISTOGRAM_WIDTH + cells["cell"] % HISTOGRAM_WIDTH
        ours = rows >= 0
        flat, counts = flat[ours], cells["count"][ours]
        beyond = counts >> np.uint64(32)
        if (passed := np.flatnonzero(beyond)).size:  # buckets are kept modulo 2^32
            self._wrap(flat[passed], beyond[passed])
        low = counts.astype(np.uint32)
        if self._first:
            self.histograms.set_base(flat, low)
            return
        increments = low - self.histograms.now.at(flat)
        grew = (increments > 0) & (increments < 1 << 31)  # else it fell: the slot is between two owners
        self.histograms.add(flat[grew], increments[grew])

    def _wrap(self, cells: npt.NDArray[Any], times: npt.NDArray[Any]) -> None:
        if sum(map(len, self.wrapped.values())) + len(cells) > 2 * MAX_WRAPPED:  # one may be told again
            raise WireError(f"TOTALS frame: more than {MAX_WRAPPED} buckets are beyond 2^32")
        rows, columns = np.divmod(cells, HISTOGRAM_WIDTH)
        for row, column, passed in zip(rows.tolist(), columns.tolist(), times.tolist(), strict=True):
            self.wrapped.setdefault(row, {})[column] = passed

    def _vms(self, totals: npt.NDArray[Any]) -> None:
        rows, values = [], []
        open_since_ns = self.rows.open_since_ns
        for record in totals:
            vm = self.vms.by_number(int(record["vm"]))
            if vm is None or vm.row == 0:
                continue
            vm.events_read = int(record["events_read"])
            if not vm.peer.uffds and vm.gone_ns is None:
                waits = open_since_ns[vm.vcpu_rows()].any()
                vm.inferred = inferred(vm.peer, record, vm.totals(self.rows), self.time_ns) if waits else Queue()
                vm.pending, vm.total = vm.inferred.pending, vm.inferred.total
            rows.append(vm.row)
            values.append(np.concatenate([np.atleast_1d(record[name]) for name in _FILLS]))
        if rows:
            self._update(self.fills, np.array(rows), np.array(values).astype(np.int64))


def _count(value: object) -> int:
    return value if isinstance(value, int) and value >= 0 else 0
