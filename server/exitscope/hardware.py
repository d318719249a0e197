"""Hardware exits of every row: counts, times and longest, by reason, over any window on offer."""

from typing import Any, Final, Literal, TypedDict

import numpy as np
import numpy.typing as npt

from exitscope_probes.exit_reasons import HARDWARE_CELLS, ISA_NONE, ISAS, name_of

from .rows import MAX_ROWS, MAX_SLOTS
from .window import Counters

_COUNTS: Final = slice(0, HARDWARE_CELLS)
_SUMS_NS: Final = slice(HARDWARE_CELLS, 2 * HARDWARE_CELLS)
_Rows = npt.NDArray[np.integer[Any]] | slice

HOOK: Final = "hardware_exits"
State = Literal["counted", "silent", "unattached"]
"""counted: this host has shown some; silent: its tracepoints are attached and never fired; unattached: they are not."""


class Exits(TypedDict):
    """Of one reason. max_ns: the longest since the vCPU was first seen."""

    count: int
    sum_ns: int
    max_ns: int


class HardwareExits:
    """See the module. counters: (MAX_ROWS, counts and sums in ns) int64; longest_ns: (MAX_ROWS, HARDWARE_CELLS)."""

    def __init__(self) -> None:
        self.counters = Counters(MAX_ROWS, 2 * HARDWARE_CELLS, np.int64)
        self.longest_ns = np.zeros((MAX_ROWS, HARDWARE_CELLS), np.uint64)
        self.isa = ISA_NONE

    def take(self, cells: npt.NDArray[Any], of_slot: npt.NDArray[np.int32], first: bool) -> None:
        """Bring rows to cumulative cells (n,) HARDWARE_DTYPE. first: they are from before anybody looked."""
        fits = (cells["slot"] < MAX_SLOTS) & (cells["cell"] < HARDWARE_CELLS)
        fits &= (cells["isa"] > ISA_NONE) & (cells["isa"] < len(ISAS))
        rows = np.where(fits, of_slot[np.minimum(cells["slot"], MAX_SLOTS - 1)], -1).astype(np.int64)
        cells, rows = cells[rows >= 0], rows[rows >= 0]
        if not len(cells):
            return
        self.isa = int(cells["isa"][-1])
        self.longest_ns[rows, cells["cell"]] = cells["max_ns"]
        where = rows * self.counters.width + cells["cell"]
        where = np.concatenate((where, where + HARDWARE_CELLS))
        values = np.concatenate((cells["count"], cells["sum_ns"])).astype(np.int64)
        if first:
            self.counters.set_base(where, values)
            return
        increments = values - self.counters.now.at(where)
        grew = increments > 0  # else it fell: the slot is between two owners
        self.counters.add(where[grew], increments[grew])

    def reset_row(self, row: int) -> None:
        """Another vCPU has the row."""
        self.counters.reset_row(row)
        if self.longest_ns[row].any():  # else nothing is written: what nobody has written takes no memory
            self.longest_ns[row] = 0

    def over(self, length_ns: int, rows: _Rows) -> dict[str, Exits]:
        """By reason, most frequent first, over all these rows in a window; reasons that did not occur are left out."""
        counted = self.counters.since(length_ns, rows).sum(axis=0)
        return self._named(counted, rows)

    def ever(self, rows: _Rows) -> dict[str, Exits]:
        """The same since the rows' vCPUs were first seen."""
        return self._named(self.counters.now[rows].sum(axis=0), rows)

    def counts_per_row(self, length_ns: int, rows: _Rows) -> list[dict[str, int]]:
        """Reason -> count in a window, of each row."""
        counted = self.counters.since(length_ns, rows, _COUNTS)
        return [{name_of(self.isa, cell): int(row[cell]) for cell in np.flatnonzero(row > 0)} for row in counted]

    def _named(self, counted: npt.NDArray[np.int64], rows: _Rows) -> dict[str, Exits]:
        counts, sums_ns = counted[_COUNTS], counted[_SUMS_NS]
        longest_ns = self.longest_ns[rows].max(axis=0, initial=0)
        cells = np.flatnonzero((counts > 0) | (sums_ns > 0)).tolist()
        return {
            name_of(self.isa, cell): Exits(
                count=max(int(counts[cell]), 0), sum_ns=max(int(sums_ns[cell]), 0), max_ns=int(longest_ns[cell])
            )
            for cell in sorted(cells, key=lambda cell: (-counts[cell], cell))
        }


def state_of(hooks: list[dict[str, Any]], isa: int) -> State:
    """What this host shows of hardware exits. hooks: as HELLO lists them."""
    if not any(hook.get("hook") == HOOK and hook.get("status") == "attached" for hook in hooks):
        return "unattached"
    return "counted" if isa else "silent"
