"""Time series: one column per second for fifteen minutes, per VM and per vCPU, in rings of fixed size."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from exitscope_probes.records import MODES

from .rows import MAX_ROWS
from .vms import MAX_VMS

TICKS: Final = 900

VALUES: Final = ("rate_per_s", "p50", "p90", "p99", "max")


class Series:
    """float32 rings: a value has 24 bits, enough for any chart.

    modes: (MAX_VMS + 1, TICKS, modes, VALUES), rate 0 where nothing happened; heat: (MAX_ROWS, TICKS) p99 ns.
    """

    def __init__(self) -> None:
        self._times_ns = np.zeros(TICKS, np.int64)
        self._modes = np.zeros((MAX_VMS + 1, TICKS, len(MODES), len(VALUES)), np.float32)
        self._queue = np.zeros((MAX_VMS + 1, TICKS, 2), np.int32)
        self._heat = np.zeros((MAX_ROWS, TICKS), np.float32)
        self._since = np.zeros(MAX_VMS + 1, np.int64)  # number of a VM's first tick
        self.count = 0

    def begin(self, time_ns: int, vm_rows: list[int]) -> None:
        """A new column for these VMs; whatever is not written stays empty."""
        at = self.count % TICKS
        self._times_ns[at] = time_ns
        self._modes[vm_rows, at] = 0
        self._queue[:, at] = 0
        self._heat[:, at] = 0
        self.count += 1

    def write_vm(self, vm_row: int, mode: int, values: tuple[float, ...]) -> None:
        """VALUES of one mode of one VM in the newest column."""
        self._modes[vm_row, (self.count - 1) % TICKS, mode] = values

    def write_queue(self, vm_row: int, pending: int, total: int) -> None:
        """The uffd queue of one VM in the newest column."""
        self._queue[vm_row, (self.count - 1) % TICKS] = pending, total

    def write_heat(self, rows: npt.NDArray[np.integer[Any]], p99_ns: npt.NDArray[Any]) -> None:
        """p99 over the tick of these rows in the newest column; 0 means no fault."""
        self._heat[rows, (self.count - 1) % TICKS] = p99_ns

    def clear_vm(self, vm_row: int) -> None:
        """Another VM has the row."""
        self._since[vm_row] = self.count

    def clear_row(self, row: int) -> None:
        """Another vCPU has the row."""
        self._heat[row] = 0

    def ticks(self, vm_row: int, rows: npt.NDArray[np.integer[Any]], newest: int = TICKS) -> list[dict[str, Any]]:
        """The newest columns of a VM as S4 `tick` objects, oldest first; heat in the order of rows."""
        first = max(self.count - min(newest, TICKS), int(self._since[vm_row]))
        at = np.arange(first, self.count) % TICKS
        heat = np.rint(self._heat[rows][:, at].T).astype(np.int64).tolist()
        modes = self._modes[vm_row, at]
        queue = self._queue[vm_row, at].tolist()
        return [
            {
                "time_ns": time_ns,
                "modes": {
                    mode: dict(zip(VALUES, (round(value, 3) for value in values), strict=True))
                    for mode, values in zip(MODES, modes[i].tolist(), strict=True)
                    if values[0]
                },
                "heat": [value or None for value in heat[i]],
                "queue": {"pending": queue[i][0], "total": queue[i][1]},
            }
            for i, time_ns in enumerate(self._times_ns[at].tolist())
        ]
