"""Counts of many vCPUs' histogram buckets, of which few ever count: some KB for each vCPU and not 90."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from exitscope_probes.histogram import BUCKETS
from exitscope_probes.records import SERIES

from ..pages import PAGE, Pages

SLOT_CELLS: Final = SERIES * BUCKETS
_FIRST: Final = 64
_Int64s = npt.NDArray[np.int64]


class Buckets:
    """int64 counts of cells row * SLOT_CELLS + column, 0 where nothing was put. Rows are added as they are named."""

    def __init__(self) -> None:
        self._pages = Pages(_FIRST, SLOT_CELLS)
        self._counts = np.zeros(self._pages.capacity * PAGE, np.int64)

    @property
    def nbytes(self) -> int:
        """Of all arrays."""
        return self._counts.nbytes + self._pages.table.nbytes

    def at(self, cells: npt.NDArray[np.integer[Any]]) -> _Int64s:
        """The counts of these cells, (n,)."""
        self._reach(cells)
        counts: _Int64s = self._counts[self._pages.find(cells)]
        return counts

    def put(self, cells: npt.NDArray[np.integer[Any]], counts: npt.NDArray[np.integer[Any]]) -> None:
        """Set the counts (n,) of these cells (n,)."""
        where = self._place(cells)  # before the array is looked at, which may have to grow
        self._counts[where] = counts

    def add(self, cells: npt.NDArray[np.integer[Any]], counts: npt.NDArray[np.integer[Any]]) -> None:
        """Add to these cells (n,), of which none is named twice."""
        where = self._place(cells)
        self._counts[where] += counts

    def row(self, row: int) -> _Int64s:
        """All columns of a row, (SLOT_CELLS,)."""
        if row >= self._pages.rows:
            return np.zeros(SLOT_CELLS, np.int64)
        counts: _Int64s = self._counts.reshape(-1, PAGE)[self._pages.table[row]].reshape(-1)
        return counts

    def clear(self, row: int) -> None:
        """All columns of a row are 0 again."""
        if row < self._pages.rows:
            self._counts.reshape(-1, PAGE)[self._pages.give_back(row)] = 0

    def _place(self, cells: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.uint32]:
        self._reach(cells)
        where = self._pages.place(cells)
        if (more := self._pages.capacity * PAGE - len(self._counts)) > 0:
            self._counts = np.concatenate((self._counts, np.zeros(more, np.int64)))
        return where

    def _reach(self, cells: npt.NDArray[np.integer[Any]]) -> None:
        self._pages.reach(int(cells.max(initial=0)) // SLOT_CELLS)
