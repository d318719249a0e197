"""Reading the totals that the kernel keeps: mapped BPF arrays, no system call and no Python per row.

A histogram is looked at only when the count of its series has moved, so that an idle vCPU costs nothing.
"""

from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from .hardware import HardwareReader
from .histogram import BUCKETS
from .maps import map_array
from .records import CELL_DTYPE, HARDWARE_DTYPE, LOSSES, SERIES, VCPU_DTYPE, VM_DTYPE


class Maps(Protocol):
    """What this reader needs of loader.Probes: BPF_F_MMAPABLE arrays, and their lengths."""

    @property
    def vcpus_fd(self) -> int:
        """Array of struct vcpu_totals."""

    @property
    def max_vcpus(self) -> int:
        """Its length."""

    @property
    def histograms(self) -> npt.NDArray[Any]:
        """(max_vcpus, SERIES, BUCKETS) u4: struct latency_histogram, shared with the kernel."""

    @property
    def hardware(self) -> npt.NDArray[Any]:
        """(max_vcpus,) HARDWARE_ROW_DTYPE, shared with the kernel."""

    @property
    def vms_fd(self) -> int:
        """Array of struct vm_totals."""

    @property
    def max_vms(self) -> int:
        """Its length."""

    @property
    def loss_fd(self) -> int:
        """Array of one u64[LOSSES]."""


@dataclass(frozen=True, slots=True)
class Totals:
    """The kernel's totals at one moment, as copies, in the shape of wire.Kind.TOTALS.

    slots: (n,) u4, and vcpus: (n,) VCPU_DTYPE, the live rows. vm_slots: (m,) i8, and vms: (m,) VM_DTYPE, the
    kernel's addresses taken out. cells: (k,) CELL_DTYPE. hardware: (h,) HARDWARE_DTYPE. ended, of `rows` alone:
    numbers of the VMs whose last descriptor is closed, whatever their process does.
    """

    slots: npt.NDArray[np.uint32]
    vcpus: npt.NDArray[Any]
    vm_slots: npt.NDArray[np.int64]
    vms: npt.NDArray[Any]
    cells: npt.NDArray[Any]
    hardware: npt.NDArray[Any] = field(default_factory=lambda: np.empty(0, HARDWARE_DTYPE))
    ended: frozenset[int] = frozenset()


_SLOT_CELLS: Final = SERIES * BUCKETS


class TotalsReader:
    """Maps the arrays for as long as it lives; widens the kernel's u32 buckets to u64."""

    def __init__(self, maps: Maps) -> None:
        self._vcpus = map_array(maps.vcpus_fd, VCPU_DTYPE, maps.max_vcpus)
        series = maps.max_vcpus * SERIES
        self._buckets = maps.histograms.reshape(-1, BUCKETS)
        self._hardware = HardwareReader(maps.hardware)
        self._vms = map_array(maps.vms_fd, VM_DTYPE, maps.max_vms)
        self._loss = map_array(maps.loss_fd, np.dtype("<u8"), len(LOSSES))
        # Zero pages until a slot is used: 512 slots cost no memory before they have a vCPU.
        self._last = np.zeros((series, BUCKETS), np.uint32)
        self._cell_counts = np.zeros(series * BUCKETS, np.uint64)
        self._series_counts = np.zeros((maps.max_vcpus, SERIES), np.uint64)
        self._row_vms = np.zeros(maps.max_vcpus, np.uint32)
        self._moved = np.zeros((maps.max_vcpus, SERIES), np.bool_)

    def rows_changed(self) -> bool:
        """Whether a vCPU row has come into use since the last poll: cheap enough to ask all the time."""
        return not np.array_equal(self._vcpus["vm"], self._row_vms)

    def rows(self) -> Totals:
        """The live rows alone, without the addresses' being taken out."""
        slots, vm_slots = np.flatnonzero(self._vcpus["vm"]), np.flatnonzero(self._vms["vm"])
        vcpus, vms = self._vcpus[slots], self._vms[vm_slots]
        ended = frozenset(vms["vm"][vms["kvm"] == 0].tolist())
        return Totals(slots.astype(np.uint32), vcpus, vm_slots, vms, np.empty(0, CELL_DTYPE), ended=ended)

    def poll(self) -> Totals:
        """The live rows, and the histogram cells and hardware exits that changed since the last call."""
        self._row_vms = self._vcpus["vm"].copy()
        slots = np.flatnonzero(self._row_vms)
        vcpus = self._vcpus[slots]
        vm_slots = np.flatnonzero(self._vms["vm"])
        vms = self._vms[vm_slots]
        vms["kvm"] = 0
        vms["mm"] = 0
        _add_named_reads(vms, vm_slots, vcpus)
        # Once more after a series has come to rest: its count may have been written before its last bucket.
        moved = vcpus["series"]["count"] != self._series_counts[slots]
        rows, series = np.nonzero(moved | self._moved[slots])
        self._moved[slots] = moved
        self._series_counts[slots] = vcpus["series"]["count"]
        cells = self._changed_cells(slots[rows] * SERIES + series)
        return Totals(slots.astype(np.uint32), vcpus, vm_slots, vms, cells, self._hardware.poll(slots))

    def all_cells(self, slots: npt.NDArray[np.integer[Any]]) -> npt.NDArray[Any]:
        """Every non-empty cell of these vCPU slots as of the last poll, CELL_DTYPE."""
        parts = []
        for slot in slots.astype(np.int64):
            counts = self._cell_counts[slot * _SLOT_CELLS : (slot + 1) * _SLOT_CELLS]
            found = np.flatnonzero(counts)
            parts.append(_cells(slot * _SLOT_CELLS + found, counts[found]))
        return np.concatenate(parts) if parts else np.empty(0, CELL_DTYPE)

    def all_hardware(self, slots: npt.NDArray[np.integer[Any]]) -> npt.NDArray[Any]:
        """Every non-empty cell of the hardware exits of these vCPU slots as of the last poll, HARDWARE_DTYPE."""
        return self._hardware.all_cells(slots)

    def loss(self) -> dict[str, int]:
        """The kernel's loss counters by the names of records.LOSSES."""
        return {name: int(count) for name, count in zip(LOSSES, self._loss, strict=True)}

    def clear_vcpu(self, slot: int) -> None:
        """Zero a row, its histograms and hardware exits, so that the slot can be given back to the kernel."""
        self._buckets[slot * SERIES : (slot + 1) * SERIES] = 0
        self._last[slot * SERIES : (slot + 1) * SERIES] = 0
        self._cell_counts[slot * _SLOT_CELLS : (slot + 1) * _SLOT_CELLS] = 0
        self._hardware.clear(slot)
        for rows in (self._series_counts, self._moved, self._row_vms, self._vcpus):
            rows[slot] = np.zeros((), rows.dtype)

    def clear_vm(self, slot: int) -> None:
        """Zero a VM's row."""
        self._vms[slot] = np.zeros((), VM_DTYPE)

    def _changed_cells(self, series: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        now = self._buckets.take(series, axis=0)
        last = self._last.take(series, axis=0)
        self._last[series] = now
        # u32 arithmetic: a bucket that wrapped since the last poll still gives the right difference.
        difference = np.subtract(now, last, out=last).reshape(-1)
        changed = np.flatnonzero(difference != 0)  # five times as fast on booleans
        cells = (series * BUCKETS)[changed // BUCKETS] + changed % BUCKETS
        counts = self._cell_counts[cells] + difference[changed]
        self._cell_counts[cells] = counts
        return _cells(cells, counts)


def _add_named_reads(vms: npt.NDArray[Any], vm_slots: npt.NDArray[np.int64], vcpus: npt.NDArray[Any]) -> None:
    """Events that name their waiter are counted by the waiter, others by the VM: make the VM's numbers whole."""
    position = np.full(int(vm_slots.max(initial=-1)) + 1, -1)
    position[vm_slots] = np.arange(len(vm_slots))
    known = vcpus[vcpus["vm_slot"] < len(position)]
    rows = position[known["vm_slot"]]
    named = np.bincount(rows[rows >= 0], known["named_reads"][rows >= 0], len(vms)).astype(np.uint64)
    vms["events_read"] += named
    vms["events_done"] += named


def _cells(index: npt.NDArray[np.int64], counts: npt.NDArray[np.uint64]) -> npt.NDArray[Any]:
    cells = np.empty(len(index), CELL_DTYPE)
    cells["cell"] = index
    cells["count"] = counts
    return cells
