"""Which row of the counters belongs to which vCPU, whatever slot of the kernel's arrays it lives in."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from exitscope_probes.records import VCPU_DTYPE, VCPU_OTHER
from exitscope_probes.settings import MOST_VCPUS

MAX_RESTING: Final = 256
"""Rows kept for vCPUs of VMs that ended; of more only the last totals are."""

MAX_ROWS: Final = MOST_VCPUS + MAX_RESTING + 1
"""As many vCPUs as a collector may follow: there is one limit, the collector's --max-vcpus. Memory grows with use."""

MAX_SLOTS: Final = 1 << 16
"""Slots of the kernel's arrays that are followed at all: a frame that names a higher one is not believed."""


BLANK: Final = 0


class Rows:
    """Rows in use, the kernel slot that feeds each, and the last totals of each.

    totals: VCPU_DTYPE (n,), vm == 0 where a row is free. alive: (n,) bool, its VM still runs. A row may be fed after
    that: the last counts of a VM may come when it has gone. n grows with the rows in use, up to MAX_ROWS.
    Row BLANK is nobody's and stays zero: it stands for a vCPU that no slot has counted yet.
    """

    def __init__(self) -> None:
        self.totals: npt.NDArray[Any] = np.zeros(1, VCPU_DTYPE)
        self.alive = np.zeros(1, bool)
        self.of_slot = np.full(MAX_SLOTS, -1, np.int32)
        self._slot = np.full(1, -1, np.int32)
        self._free: list[int] = []
        self._fresh = BLANK + 1  # the first row that was never taken

    @property
    def free(self) -> int:
        """Rows that can be taken."""
        return len(self._free) + MAX_ROWS - self._fresh

    @property
    def resting(self) -> int:
        """Rows in use whose VM has ended."""
        return self._fresh - 1 - len(self._free) - int(self.alive.sum())

    @property
    def running(self) -> npt.NDArray[np.bool_]:
        """(n,): alive, and its thread has not ended."""
        running: npt.NDArray[np.bool_] = self.alive & (self.totals["exited"] == 0)
        return running

    @property
    def open_since_ns(self) -> npt.NDArray[np.int64]:
        """(n,): when the fault began that it is in now, CLOCK_MONOTONIC ns; 0: in none, or not running."""
        return np.where(self.running, self.totals["open_since_ns"], 0).astype(np.int64)

    def take(self) -> int:
        """A free row. IndexError if there is none."""
        if self._free or self._fresh >= MAX_ROWS:
            return self._free.pop()
        row, self._fresh = self._fresh, self._fresh + 1
        if row >= len(self.alive):
            more = min(max(len(self.alive), 63), MAX_ROWS - len(self.alive))
            self.totals = np.concatenate((self.totals, np.zeros(more, VCPU_DTYPE)))
            self.alive = np.concatenate((self.alive, np.zeros(more, bool)))
            self._slot = np.concatenate((self._slot, np.full(more, -1, np.int32)))
        return row

    def attach(self, row: int, slot: int) -> None:
        """From now on this slot feeds this row, which starts from zero."""
        self.detach_slot(slot)
        self.detach(row)
        self.clear(row)
        self.alive[row] = True
        self.of_slot[slot] = row
        self._slot[row] = slot

    def rest(self, row: int) -> None:
        """Its VM has ended."""
        self.alive[row] = False

    def clear(self, row: int) -> None:
        """Forget the row's totals."""
        self.totals[row] = np.zeros((), VCPU_DTYPE)

    def detach_slot(self, slot: int) -> None:
        """The slot's owner has gone: its row keeps what it has."""
        row = self.of_slot[slot]
        if row >= 0:
            self.detach(int(row))

    def detach(self, row: int) -> None:
        """The same by row."""
        self.alive[row] = False
        if self._slot[row] >= 0:
            self.of_slot[self._slot[row]] = -1
            self._slot[row] = -1

    def release(self, row: int) -> None:
        """Give the row back."""
        self.detach(row)
        self.clear(row)
        self._free.append(row)

    def detach_all(self) -> None:
        """Another collector: no slot means what it meant."""
        for row in np.flatnonzero(self.alive):
            self.detach(int(row))


def is_vcpu(number: int) -> bool:
    """False for the row of a VM's other threads (waiter class `other`)."""
    return number != VCPU_OTHER
