"""Time series: one column per second for fifteen minutes, per VM and per vCPU, in rings of fixed size."""

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


_Ring = npt.NDArray[np.float32]


class Series:
    """float32 rings: a value has 24 bits, enough for any chart. They grow with the VMs and vCPUs that there were.

    modes: (VM's row, mode) -> (TICKS, VALUES), rate 0 where nothing happened; heat: (vCPU rows, TICKS) p99, or
    the age of a fault that is open longer, ns; stall: (vCPU rows, TICKS) share of the tick that the vCPU stood still.
    """

    def __init__(self) -> None:
        self._times_ns = np.zeros(TICKS, np.int64)
        self._modes: dict[tuple[int, int], _Ring] = {}
        self._vms = np.zeros((1, TICKS, len(VmColumn._fields)), np.float32)
        self._heat = np.zeros((1, TICKS), np.float32)
        self._stall = np.zeros((1, TICKS), np.float32)
        self._gpa = GpaHistory(TICKS)
        self._since = np.zeros(MAX_VMS + 1, np.int64)  # number of a VM's first tick
        self.count = 0

    def begin(self, time_ns: int, vm_rows: list[int]) -> None:
        """A new column for these VMs; whatever is not written stays empty."""
        at = self.count % TICKS
        self._times_ns[at] = time_ns
        for ring in self._modes.values():
            ring[at] = 0
        self._vms = _with_rows(self._vms, max(vm_rows))
        self._vms[vm_rows, at] = 0
        self._heat[:, at] = 0
        self._stall[:, at] = 0
        self.count += 1

    def write_mode(self, vm_row: int, mode: int, values: tuple[float, ...]) -> None:
        """VALUES of one mode of one VM in the newest column."""
        ring = self._modes.get((vm_row, mode))
        if ring is None:
            ring = self._modes[vm_row, mode] = np.zeros((TICKS, len(VALUES)), np.float32)
        ring[(self.count - 1) % TICKS] = values

    def write_vm(self, vm_row: int, column: VmColumn) -> None:
        """The rest of one VM in the newest column."""
        self._vms[vm_row, (self.count - 1) % TICKS] = column

    def write_heat(self, rows: npt.NDArray[np.integer[Any]], slowest_ns: npt.NDArray[Any]) -> None:
        """p99 over the tick of these rows, or the age of a fault that is open longer; 0 means no fault."""
        self._heat = _with_rows(self._heat, int(rows.max(initial=0)))
        self._heat[rows, (self.count - 1) % TICKS] = slowest_ns

    def write_stall(self, rows: npt.NDArray[np.integer[Any]], shares: npt.NDArray[Any]) -> None:
        """Share of the tick that these rows' vCPUs stood still, 0 to 1, in the newest column."""
        self._stall = _with_rows(self._stall, int(rows.max(initial=0)))
        self._stall[rows, (self.count - 1) % TICKS] = shares

    def write_gpa(self, cells: npt.NDArray[Any]) -> None:
        """Where the faults of the newest column were, gpa.CELL_DTYPE (n,)."""
        self._gpa.write(self.count - 1, cells)

    def clear_vm(self, vm_row: int) -> None:
        """Another VM has the row."""
        self._since[vm_row] = self.count
        self._gpa.clear_vm(vm_row)
        for mode in range(len(MODES)):
            self._modes.pop((vm_row, mode), None)

    def clear_row(self, row: int) -> None:
        """Another vCPU has the row."""
        for ring in (self._heat, self._stall):
            if row < len(ring):
                ring[row] = 0

    def ticks(self, vm_row: int, rows: npt.NDArray[np.integer[Any]], newest: int = TICKS) -> list[dict[str, Any]]:
        """The newest columns of a VM as S4 `tick` objects, oldest first; heat and stall in the order of rows.

        vm_row 0, all VMs together, has no `gpa`: the addresses of two VMs are not in one space.
        """
        first = max(self.count - min(newest, TICKS), int(self._since[vm_row]))
        at = np.arange(first, self.count) % TICKS
        most = int(rows.max(initial=0))
        self._heat, self._stall = _with_rows(self._heat, most), _with_rows(self._stall, most)
        self._vms = _with_rows(self._vms, vm_row)
        heat = np.rint(self._heat[np.ix_(rows, at)].T).astype(np.int64).tolist()
        stall = np.round(self._stall[np.ix_(rows, at)].T.astype(np.float64), 3).tolist()
        modes = {
            MODES[mode]: ring[at].tolist()
            for mode in range(len(MODES))
            if (ring := self._modes.get((vm_row, mode))) is not None
        }
        gpa = self._gpa.columns(vm_row, first, self.count) if vm_row else [None] * len(at)
        columns = [VmColumn(*values) for values in self._vms[vm_row, at].tolist()]
        return [
            {
                "time_ns": time_ns,
                "modes": {
                    mode: dict(zip(VALUES, (round(value, 3) for value in ring[i]), strict=True))
                    for mode, ring in modes.items()
                    if ring[i][0]
                },
                "heat": [value or None for value in heat[i]],
                "stall": stall[i],
                "stalled": {
                    "mean": round(column.stalled, 4),
                    "peak": int(column.stalled_most),
                    "vcpus": int(column.vcpus),
                },
                "fills": {"demand": int(column.demand), "background": int(column.background)},
                "gpa": gpa[i],
                "queue": {"pending": int(column.pending), "total": int(column.total)},
            }
            for i, (time_ns, column) in enumerate(zip(self._times_ns[at].tolist(), columns, strict=True))
        ]


def _with_rows(ring: _Ring, row: int) -> _Ring:
    """The ring, longer if it does not have this row yet."""
    if row < len(ring):
        return ring
    longer = np.zeros((max(row + 1, len(ring) * 5 // 4 + 16), *ring.shape[1:]), np.float32)
    longer[: len(ring)] = ring
    return longer
