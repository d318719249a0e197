"""Which VMs there are and were: running ones, and those that ended in the last ten minutes."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from exitscope_probes.records import MODES, VCPU_OTHER
from exitscope_probes.settings import MOST_VMS

from .peer import PeerVm
from .rows import BLANK, Rows
from .shared_queue import Queue
from .window import NS_PER_S

GONE_KEPT_NS: Final = 600 * NS_PER_S
"""A VM that ended stays listed for ten minutes (DESIGN.md)."""

MAX_UNNAMED: Final = MOST_VMS
"""VMs that counted before discovery had named them."""

MAX_GONE: Final = 512
"""VMs that ended and stay listed; of more the oldest are forgotten sooner."""

MAX_VMS: Final = MOST_VMS + MAX_GONE
"""As many VMs as a collector may follow (its --max-vms), and those that ended."""

ALL: Final = "all"
"""The id that stands for every running VM together; its row in per-VM arrays is 0."""


@dataclass(slots=True)
class Vm:
    """One VM. row: its row in per-VM arrays; rows: vCPU number (or VCPU_OTHER) -> row of the counters."""

    number: int
    id: str
    row: int
    peer: PeerVm
    gone_ns: int | None = None
    rows: dict[int, int] = field(default_factory=dict)
    final: dict[int, npt.NDArray[Any]] = field(default_factory=dict)
    pending: int = 0
    total: int = 0
    inferred: Queue = field(default_factory=Queue)  # where no userfaultfd is known to be the VM's
    events_read: int = 0  # of its userfaultfds, without those that named a vCPU

    @property
    def name(self) -> str:
        """For a person: its own, else its id."""
        return self.peer.name or self.id

    @property
    def state(self) -> str:
        """running or gone."""
        return "running" if self.gone_ns is None else "gone"

    def vcpus(self) -> list[int]:
        """Numbers of its vCPUs, sorted: those that discovery names, and those that have counted."""
        known = {vcpu.vcpu for vcpu in self.peer.vcpus}
        return sorted((known | self.rows.keys() | self.final.keys()) - {VCPU_OTHER})

    def vcpu_rows(self) -> npt.NDArray[np.int64]:
        """The row of each of vcpus(), BLANK where nothing was counted."""
        return np.array([self.rows.get(vcpu, BLANK) for vcpu in self.vcpus()], np.int64)

    def totals(self, rows: Rows) -> npt.NDArray[Any]:
        """The last totals of each of vcpus(), VCPU_DTYPE."""
        totals: npt.NDArray[Any] = rows.totals[self.vcpu_rows()]
        for index, vcpu in enumerate(self.vcpus()):
            if vcpu in self.final and vcpu not in self.rows:
                totals[index] = self.final[vcpu]
        return totals

    def faults(self, rows: Rows) -> dict[str, int]:
        """Faults per mode since it was first seen, by its vCPUs and their async waiters."""
        counts = self.totals(rows)["series"]["count"][:, : len(MODES)].sum(axis=0)
        return dict(zip(MODES, counts.tolist(), strict=True))


class Vms:
    """All VMs by id, oldest first. Numbers are the collector's and mean nothing after it has restarted."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._by_id: dict[str, Vm] = {}
        self._by_number: dict[int, Vm] = {}
        self._unnamed: dict[int, Vm] = {}
        self._gone: dict[str, Vm] = {}  # those of them that ended, the first first
        self._free = list(range(MAX_VMS, 0, -1))
        self._refused: set[str] = set()  # ids

    def __iter__(self) -> Iterator[Vm]:
        return iter(self._by_id.values())

    @property
    def refused(self) -> int:
        """VMs for which there was no room."""
        return len(self._refused)

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, vm_id: str) -> Vm | None:
        """The VM with this id."""
        return self._by_id.get(vm_id)

    def by_number(self, number: int) -> Vm | None:
        """The VM of this number, named by discovery already or not; None if there is no room."""
        vm = self._by_number.get(number) or self._unnamed.get(number)
        if vm is None and number > 0 and len(self._unnamed) < MAX_UNNAMED:
            vm = self._unnamed[number] = Vm(number, "", 0, PeerVm(vm=number, id="", pid=0))
        return vm

    def named(self, number: int) -> Vm | None:
        """The VM of this number, if discovery has named it."""
        return self._by_number.get(number)

    def running(self) -> list[Vm]:
        """Those that have not ended, oldest first."""
        return [vm for vm in self if vm.gone_ns is None]

    def new_session(self) -> None:
        """Another collector: forget its predecessor's numbers; the VMs stay until it says what it finds."""
        self._by_number.clear()
        for number in list(self._unnamed):
            self._forget_unnamed(number)

    def see(self, peers: list[PeerVm], time_ns: int) -> list[Vm]:
        """Take over what discovery found now. Returns the VMs that are new.

        One with the id of an earlier one (of a collector that was restarted) takes over its rows, cleared.
        """
        new: list[Vm] = []
        for peer in peers:
            vm = self._by_number.get(peer.vm)
            if vm is None or vm.id != peer.id:
                if peer.state == "gone" and peer.id in self._by_id:
                    continue
                vm = self._admit(peer)
                if vm is None:
                    continue
                new.append(vm)
            vm.peer = peer
            vm.pending = sum(uffd.pending for uffd in peer.uffds) if peer.uffds else vm.inferred.pending
            vm.total = sum(uffd.total for uffd in peer.uffds) if peer.uffds else vm.inferred.total
        alive = {peer.vm for peer in peers if peer.state == "running"}
        for vm in self:
            if vm.gone_ns is None and (vm.number not in alive or self._by_number.get(vm.number) is not vm):
                self._end(vm, time_ns)
        return new

    def forget_old(self, time_ns: int) -> None:
        """Drop VMs that ended more than ten minutes ago."""
        while (vm := self._oldest_gone()) and (vm.gone_ns or 0) <= time_ns - GONE_KEPT_NS:
            self._drop(vm)

    def make_room(self) -> bool:
        """Free counter rows: the VM that ended first keeps its totals only. False if there is none."""
        vm = next((vm for vm in self._gone.values() if vm.rows), None)
        if vm is None:
            return False
        for vcpu, row in vm.rows.items():
            vm.final[vcpu] = self._rows.totals[row].copy()
            self._rows.release(row)
        vm.rows.clear()
        return True

    def _admit(self, peer: PeerVm) -> Vm | None:
        vm = self._unnamed.pop(peer.vm, None) or Vm(peer.vm, peer.id, 0, peer)
        vm.id = peer.id
        old = self._by_id.pop(peer.id, None)
        if old is not None:
            self._gone.pop(peer.id, None)
            vm.row = old.row
            for vcpu, row in old.rows.items():
                if vcpu in vm.rows:
                    self._rows.release(row)
                else:
                    vm.rows[vcpu] = row
                    self._rows.detach(row)
                    self._rows.clear(row)
            if self._by_number.get(old.number) is old:
                del self._by_number[old.number]
        else:
            if (oldest := self._oldest_gone()) and (len(self._gone) >= MAX_GONE or not self._free):
                self._drop(oldest)
            if not self._free:
                self._refused.add(peer.id)
                for row in vm.rows.values():
                    self._rows.release(row)
                return None
            vm.row = self._free.pop()
        self._by_id[vm.id] = self._by_number[vm.number] = vm
        return vm

    def _oldest_gone(self) -> Vm | None:
        return next(iter(self._gone.values()), None)

    def _end(self, vm: Vm, time_ns: int) -> None:
        vm.gone_ns = time_ns
        self._gone[vm.id] = vm
        vm.pending, vm.total, vm.inferred = 0, 0, Queue()
        for row in vm.rows.values():
            self._rows.rest(row)

    def _forget_unnamed(self, number: int) -> None:
        for row in self._unnamed.pop(number).rows.values():
            self._rows.release(row)

    def _drop(self, vm: Vm) -> None:
        for row in vm.rows.values():
            self._rows.release(row)
        if self._by_number.get(vm.number) is vm:
            del self._by_number[vm.number]
        del self._by_id[vm.id], self._gone[vm.id]
        self._free.append(vm.row)
