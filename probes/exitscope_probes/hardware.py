"""Reading the kernel's counts of hardware exits: a mapped array, looked at only where a vCPU's count has moved."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .exit_reasons import HARDWARE_CELLS
from .records import HARDWARE_DTYPE, SERIES_DTYPE

_CHANGING: Final = ("count", "sum_ns")  # max_ns grows with sum_ns only


class HardwareReader:
    """rows: HARDWARE_ROW_DTYPE (max_vcpus,), shared with the kernel."""

    def __init__(self, rows: npt.NDArray[Any]) -> None:
        self._rows = rows
        max_vcpus = len(rows)
        # Zero pages until a slot is used.
        self._last = np.zeros((max_vcpus, HARDWARE_CELLS), SERIES_DTYPE)
        self._seen = np.zeros(max_vcpus, np.uint64)
        self._moved = np.zeros(max_vcpus, np.bool_)

    def poll(self, slots: npt.NDArray[np.integer[Any]]) -> npt.NDArray[Any]:
        """The cells of these slots that changed since the last call, HARDWARE_DTYPE."""
        seen = self._rows["moved"][slots]
        moved = seen != self._seen[slots]
        # Once more after a row has come to rest: `moved` may have been seen before the cell was.
        looked_at = slots[moved | self._moved[slots]]
        self._moved[slots], self._seen[slots] = moved, seen
        if not len(looked_at):
            return np.empty(0, HARDWARE_DTYPE)
        now, last = self._rows["exit"][looked_at], self._last[looked_at]
        self._last[looked_at] = now
        changed = np.logical_or.reduce([now[name] != last[name] for name in _CHANGING])
        return self._cells(looked_at, now, changed)

    def all_cells(self, slots: npt.NDArray[np.integer[Any]]) -> npt.NDArray[Any]:
        """Every non-empty cell of these slots as of the last poll, HARDWARE_DTYPE."""
        slots = slots[self._seen[slots] != 0]
        last = self._last[slots]
        return self._cells(slots, last, last["count"] != 0)

    def clear(self, slot: int) -> None:
        """Zero a row, so that the slot can be given back to the kernel."""
        for rows in (self._rows, self._last, self._seen, self._moved):
            rows[slot] = np.zeros((), rows.dtype)

    def _cells(
        self, slots: npt.NDArray[np.integer[Any]], rows: npt.NDArray[Any], which: npt.NDArray[np.bool_]
    ) -> npt.NDArray[Any]:
        """The cells that `which` (n, HARDWARE_CELLS) marks of the rows of n slots."""
        row, cell = np.nonzero(which)
        cells = np.empty(len(row), HARDWARE_DTYPE)
        cells["slot"], cells["cell"] = slots[row], cell
        cells["isa"] = self._rows["isa"][slots[row]]
        for name in SERIES_DTYPE.names or ():
            cells[name] = rows[name][row, cell]
        return cells
