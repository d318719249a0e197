"""Time series: one column per second for fifteen minutes, of each VM and each vCPU that there was."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from exitscope_probes.records import MODES

from .gpa import GpaHistory
from .vms import MAX_VMS

TICKS: Final = 900

VALUES: Final = ("rate_per_s", "p50", "p90", "p99", "max")


class VmColumn(NamedTuple):
    """What a column says of one VM. stalled: vCPUs standing still, on average and most at once; vcpus: all that it has.

    demand, background: pages filled while somebody waited, and ahead of need. pending, total: the uffd queue.
    """

    stalled: float
    stalled_most: int
    vcpus: int
    demand: int
    background: int
    pending: int
    total: int


_Floats = npt.NDArray[np.float32]


@dataclass(slots=True)
class _Column:
    """One tick. float32: a value has 24 bits, enough for any chart.

    vms: (VM rows, fields of VmColumn); modes: (mode, VM's row) -> VALUES of what happened; heat: (vCPU rows,) p99, or
    the age of a fault that is open longer, ns; stall: (vCPU rows,) share of the tick that the vCPU stood still.
    """

    time_ns: int
    vms: _Floats
    modes: dict[tuple[int, int], tuple[float, ...]]
    heat: _Floats
    stall: _Floats


class Series:
    """The newest TICKS columns. Each takes the room of what there was in its second; it ends with TICKS of them."""

    def __init__(self) -> None:
        self._columns: deque[_Column] = deque(maxlen=TICKS)
        self._gpa = GpaHistory(TICKS)
        self._since = np.zeros(MAX_VMS + 1, np.int64)  # number of a VM's first tick
        self._row_since = np.zeros(1, np.int64)  # of a vCPU row's
        self.count = 0

    def begin(self, time_ns: int, vm_rows: Iterable[int], rows: int) -> None:
        """A new column for these VMs and so many vCPU rows; whatever is not written stays empty."""
        vms = np.zeros((max(vm_rows) + 1, len(VmColumn._fields)), np.float32)
        self._columns.append(_Column(time_ns, vms, {}, np.zeros(rows, np.float32), np.zeros(rows, np.float32)))
        self.count += 1

    def write_mode(self, vm_row: int, mode: int, values: tuple[float, ...]) -> None:
        """VALUES of one mode of one VM in the newest column."""
        self._columns[-1].modes[mode, vm_row] = values

    def write_vm(self, vm_row: int, column: VmColumn) -> None:
        """The rest of one VM in the newest column."""
        self._columns[-1].vms[vm_row] = column

    def write_heat(self, rows: npt.NDArray[np.integer[Any]], slowest_ns: npt.NDArray[Any]) -> None:
        """p99 over the tick of these rows, or the age of a fault that is open longer; 0 means no fault."""
        self._columns[-1].heat[rows] = slowest_ns

    def write_stall(self, rows: npt.NDArray[np.integer[Any]], shares: npt.NDArray[Any]) -> None:
        """Share of the tick that these rows' vCPUs stood still, 0 to 1, in the newest column."""
        self._columns[-1].stall[rows] = shares

    def write_gpa(self, cells: npt.NDArray[Any]) -> None:
        """Where the faults of the newest column were, gpa.CELL_DTYPE (n,)."""
        self._gpa.write(self.count - 1, cells)

    def clear_vm(self, vm_row: int) -> None:
        """Another VM has the row."""
        self._since[vm_row] = self.count
        self._gpa.clear_vm(vm_row)

    def clear_row(self, row: int) -> None:
        """Another vCPU has the row."""
        if row >= len(self._row_since):
            self._row_since = np.append(self._row_since, np.zeros(row + 1, np.int64))
        self._row_since[row] = self.count

    def ticks(self, vm_row: int, rows: npt.NDArray[np.integer[Any]], newest: int = TICKS) -> list[dict[str, Any]]:
        """The newest columns of a VM as S4 `tick` objects, oldest first; heat and stall in the order of rows.

        vm_row 0, all VMs together, has no `gpa`: the addresses of two VMs are not in one space.
        """
        first = max(self.count - min(newest, len(self._columns)), int(self._since[vm_row]))
        gpa = self._gpa.columns(vm_row, first, self.count) if vm_row else [None] * (self.count - first)
        columns = [self._columns[number - self.count] for number in range(first, self.count)]
        since = _of_rows(self._row_since, rows)
        return [
            _shown(column, vm_row, np.where(since <= number, rows, 0), where)
            for number, (column, where) in enumerate(zip(columns, gpa, strict=True), first)
        ]


def _shown(column: _Column, vm_row: int, rows: npt.NDArray[Any], gpa: dict[str, Any] | None) -> dict[str, Any]:
    """A column as a S4 `tick` object. rows: 0 where the row was another vCPU's."""
    vm = VmColumn(*column.vms[vm_row].tolist()) if vm_row < len(column.vms) else VmColumn(0, 0, 0, 0, 0, 0, 0)
    heat = np.rint(_of_rows(column.heat, rows)).astype(np.int64).tolist()
    return {
        "time_ns": column.time_ns,
        "modes": {
            name: dict(zip(VALUES, (round(value, 3) for value in values), strict=True))
            for mode, name in enumerate(MODES)
            if (values := column.modes.get((mode, vm_row)))
        },
        "heat": [value or None for value in heat],
        "stall": np.round(_of_rows(column.stall, rows).astype(np.float64), 3).tolist(),
        "stalled": {"mean": round(vm.stalled, 4), "peak": int(vm.stalled_most), "vcpus": int(vm.vcpus)},
        "fills": {"demand": int(vm.demand), "background": int(vm.background)},
        "gpa": gpa,
        "queue": {"pending": int(vm.pending), "total": int(vm.total)},
    }


def _of_rows(values: npt.NDArray[Any], rows: npt.NDArray[np.integer[Any]]) -> npt.NDArray[Any]:
    """values (n,) of these rows, (rows,); 0 of those that they do not reach."""
    return np.where(rows < len(values), values[np.minimum(rows, len(values) - 1)], 0)
