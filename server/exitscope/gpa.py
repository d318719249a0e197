"""Where in guest memory the faults are: counted by guest physical address, in bins, per VM and tick.

A bin is a power of two long, such that all faults of the VM so far are in at most BINS of them, wherever they are: the
holes of guest memory cost nothing. Bins double when there are too many; ticks that are over keep theirs.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from exitscope_probes.records import ADDRESS_UNKNOWN, MEMSLOT_UNKNOWN, WAITER_OTHER

from .vms import Vm, Vms

BINS: Final = 128
"""As many as a chart has rows for."""

MIN_SHIFT: Final = 18
"""log2 of the shortest bin: 256 KiB."""

MAX_MEMSLOTS: Final = 128
"""Memory slots kept per VM; QEMU uses some ten."""

MAX_CELLS: Final = 1 << 20
"""Non-empty bins kept over all VMs and ticks, 15 bytes each: nine VMs that fault everywhere for 15 min. Beyond that the
oldest ticks lose theirs."""

_MAX_PENDING: Final = 1 << 18
_NEAR: Final = 1 << 18
_PAGE_BYTES: Final = 4096

CELL_DTYPE: Final = np.dtype([("vm_row", "<u2"), ("shift", "u1"), ("bin", "<i8"), ("faults", "<u4")])
"""A non-empty bin of a tick: the faults whose gpa >> shift is `bin`."""

_Int64s = npt.NDArray[np.int64]
_Faults = tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint64], npt.NDArray[np.int16]]
"""VM number, gpa and memslot, (n,) each."""


def fitting(bins: _Int64s, shift: int) -> tuple[_Int64s, int]:
    """Distinct bins (n,) of 1 << shift bytes, joined until there are at most BINS; and their shift."""
    while len(bins) > BINS:
        bins, shift = np.unique(bins >> 1), shift + 1
    return bins, shift


@dataclass(slots=True)
class _Space:
    """One VM's. touched: (n,) distinct bins of 1 << shift bytes; counted: of the open tick, (bins, faults, shift) each.

    memslots: number -> first and last gpa seen.
    """

    shift: int = MIN_SHIFT
    touched: _Int64s = field(default_factory=lambda: np.empty(0, np.int64))
    counted: list[tuple[_Int64s, _Int64s, int]] = field(default_factory=list)
    memslots: dict[int, tuple[int, int]] = field(default_factory=dict)

    def count(self, gpas: npt.NDArray[np.uint64], memslots: npt.NDArray[np.int16]) -> None:
        """Faults (n,), n > 0."""
        bins, faults = _counted((gpas >> np.uint64(self.shift)).astype(np.int64))
        self.counted.append((bins, faults, self.shift))
        self.touched, self.shift = fitting(np.union1d(self.touched, bins), self.shift)
        numbers = [int(memslots[0])] if (memslots == memslots[0]).all() else np.unique(memslots).tolist()
        for number in numbers:
            if number == MEMSLOT_UNKNOWN or (number not in self.memslots and len(self.memslots) >= MAX_MEMSLOTS):
                continue
            mine = gpas if len(numbers) == 1 else gpas[memslots == number]
            first, last = self.memslots.get(number, (int(mine[0]), 0))
            self.memslots[number] = min(first, int(mine.min())), max(last, int(mine.max()))

    def tick(self, vm_row: int) -> npt.NDArray[Any]:
        """The cells of the tick that ends now, CELL_DTYPE (n,); only if something was counted in it."""
        bins, faults, shift = self.counted[0]
        if len(self.counted) > 1 or shift != self.shift:
            places = np.concatenate([bins >> (self.shift - shift) for bins, _, shift in self.counted])
            bins, codes = np.unique(places, return_inverse=True)
            faults = np.bincount(codes, np.concatenate([faults for _, faults, _ in self.counted])).astype(np.int64)
        self.counted = []
        cells = np.empty(len(bins), CELL_DTYPE)
        cells["vm_row"], cells["shift"], cells["bin"], cells["faults"] = vm_row, self.shift, bins, faults
        return cells


def _counted(places: _Int64s) -> tuple[_Int64s, _Int64s]:
    """Distinct values of places (n,), ascending, and how often each is there."""
    first = places.min()
    if places.max() - first >= _NEAR:
        return np.unique(places, return_counts=True)
    counts = np.bincount(places - first)  # no sorting
    found = np.flatnonzero(counts)
    return found + first, counts[found]


class GpaCounts:
    """The faults of the open tick, and the memory slots of each VM so far."""

    def __init__(self) -> None:
        self._spaces: dict[str, _Space] = {}
        self._pending: list[_Faults] = []
        self._kept = 0

    def add(self, records: npt.NDArray[Any], vms: Vms) -> None:
        """Records FAULT_DTYPE (n,); those of waiter class `other`, and those without a gpa, are left out."""
        known = np.flatnonzero((records["gpa"] != ADDRESS_UNKNOWN) & (records["waiter"] != WAITER_OTHER))
        self._pending.append((records["vm"][known], records["gpa"][known], records["memslot"][known]))
        self._kept += len(known)
        if self._kept > _MAX_PENDING:
            self._count(vms)

    def tick(self, vms: Vms) -> npt.NDArray[Any]:
        """The cells of the tick that ends now, CELL_DTYPE (n,), ascending by VM."""
        self._count(vms)
        rows = {vm.id: vm.row for vm in vms}
        self._spaces = {vm_id: space for vm_id, space in self._spaces.items() if vm_id in rows}
        parts = [np.empty(0, CELL_DTYPE)]
        for vm_id, space in sorted(self._spaces.items(), key=lambda one: rows[one[0]]):
            if space.counted:
                parts.append(space.tick(rows[vm_id]))
        return np.concatenate(parts)

    def forget(self) -> None:
        """Another collector: VM numbers mean nothing any more."""
        self._pending, self._kept = [], 0

    def memslots(self, vms: list[Vm]) -> list[dict[str, Any]]:
        """The memory slots of these VMs that faulted: from the first page that did to the end of the last, bytes."""
        return [
            {"vm": vm.id, "memslot": number, "from_gpa": first, "to_gpa": (last // _PAGE_BYTES + 1) * _PAGE_BYTES}
            for vm in vms
            for number, (first, last) in sorted(self._spaces[vm.id].memslots.items() if vm.id in self._spaces else ())
        ]

    def _count(self, vms: Vms) -> None:
        if not self._kept:
            self._pending = []
            return
        owners, gpas, memslots = (np.concatenate(column) for column in zip(*self._pending, strict=True))
        self.forget()
        numbers, codes = np.unique(owners, return_inverse=True)
        if len(numbers) > 1:
            order = np.argsort(codes.astype(np.uint16), kind="stable")
            gpas, memslots = gpas[order], memslots[order]
        edges = np.append(0, np.cumsum(np.bincount(codes)))
        for number, first, last in zip(numbers.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            vm = vms.named(number)
            if vm is not None:
                space = self._spaces.setdefault(vm.id, _Space())
                space.count(gpas[first:last], memslots[first:last])


class GpaHistory:
    """The cells of the ticks that are over."""

    def __init__(self, ticks: int) -> None:
        self._ticks: deque[tuple[int, npt.NDArray[Any]]] = deque()
        self._shifts: dict[int, int] = {}
        self._length = ticks
        self._kept = 0

    def write(self, number: int, cells: npt.NDArray[Any]) -> None:
        """The cells of tick `number`, CELL_DTYPE (n,), ascending by VM."""
        if len(cells):
            self._ticks.append((number, cells))
            self._kept += len(cells)
            rows, firsts = np.unique(cells["vm_row"], return_index=True)
            self._shifts.update(zip(rows.tolist(), cells["shift"][firsts].tolist(), strict=True))
        while self._ticks and (self._ticks[0][0] <= number - self._length or self._kept > MAX_CELLS):
            self._kept -= len(self._ticks.popleft()[1])

    def clear_vm(self, vm_row: int) -> None:
        """Another VM has the row."""
        self._shifts.pop(vm_row, None)

    def columns(self, vm_row: int, first: int, end: int) -> list[dict[str, Any]]:
        """Of ticks first to end - 1: {"bin_bytes", "cells": [[bin, faults], …]}; those without a fault have no cell."""
        columns: list[dict[str, Any]] = [
            {"bin_bytes": 1 << self._shifts.get(vm_row, MIN_SHIFT), "cells": []} for _ in range(first, end)
        ]
        for number, cells in reversed(self._ticks):
            if number < first:
                break
            low, high = np.searchsorted(cells["vm_row"], (vm_row, vm_row + 1))
            if low < high and number < end:
                mine = cells[low:high]
                columns[number - first] = {
                    "bin_bytes": 1 << int(mine["shift"][0]),
                    "cells": np.column_stack((mine["bin"], mine["faults"])).tolist(),
                }
        return columns
