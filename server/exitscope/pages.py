"""Where the counters that have counted live: pages of cells, given to a row when it first needs them.

Of a vCPU's 11,000 histogram buckets some hundred ever count. Cell row * width + column of the sheet lives in page
`_table[row, column // PAGE]` of a pool; page 0 is nobody's and stays zero, so a cell without a page reads as zero.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

PAGE: Final = 16
"""Cells: an octave of the histograms."""

_FIRST: Final = 64
_MANY: Final = 1 << 12
_Rows = npt.NDArray[np.integer[Any]] | list[int] | slice | int


class Pages:
    """Pages of a sheet of rows x width. capacity, used: pages of the pool; it doubles."""

    def __init__(self, rows: int, width: int) -> None:
        self.rows, self.width = rows, width
        self.capacity = _FIRST
        self.used = 1
        self.table: npt.NDArray[np.int32] = np.zeros((rows, -(-width // PAGE)), np.int32)  # 0: none
        self._flat = self.table.reshape(-1)
        self._free: list[int] = []

    def reach(self, row: int) -> None:
        """Add rows, if there is none of this number."""
        if row >= self.rows:
            more = max(row + 1, 2 * self.rows) - self.rows
            self.table = np.concatenate((self.table, np.zeros((more, self.table.shape[1]), np.int32)))
            self._flat = self.table.reshape(-1)
            self.rows += more

    def place(self, cells: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.uint32]:
        """Where these cells (n,) are in the pool, (n,) uint32; pages that are missing are given."""
        logical, within = self._split(cells)
        pages = self._flat[logical]
        if not pages.all():
            self._give(logical[pages == 0])
            pages = self._flat[logical]
        placed: npt.NDArray[np.uint32] = (pages * PAGE + within).astype(np.uint32)
        return placed

    def find(self, cells: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
        """The same without giving pages: a cell that has none is found in page 0."""
        logical, within = self._split(cells)
        found: npt.NDArray[np.int64] = self._flat[logical].astype(np.int64) * PAGE + within
        return found

    def give_back(self, row: int) -> npt.NDArray[np.int32]:
        """Take the row's pages away; returns them, (n,): whoever has counted in them must zero them."""
        pages = self.table[row]
        given: npt.NDArray[np.int32] = pages[pages != 0]
        if len(given):  # else nothing is written: a part of the table that nobody has written takes no memory
            pages[:] = 0
            self._free += given.tolist()
        return given

    def _split(self, cells: npt.NDArray[np.integer[Any]]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Number of the page in the flat table, and the place in the page."""
        if self.width % PAGE:
            rows, cells = cells // self.width, cells % self.width
            return rows * self.table.shape[1] + cells // PAGE, cells % PAGE
        return cells // PAGE, cells % PAGE

    def _give(self, logical: npt.NDArray[Any]) -> None:
        """Pages for these places (n,) of the flat table, which have none; a place may be named more than once."""
        if len(logical) < _MANY:
            missing = np.unique(logical)
        else:  # without sorting
            self._flat[logical] = -1
            missing = np.flatnonzero(self._flat == -1)
        reused = min(len(self._free), len(missing))
        fresh = len(missing) - reused
        given = self._free[len(self._free) - reused :][::-1]
        del self._free[len(self._free) - reused :]
        self._flat[missing] = np.append(np.array(given, np.int32), np.arange(self.used, self.used + fresh))
        self.used += fresh
        while self.used > self.capacity:
            self.capacity *= 2


class Sheet:
    """An array of the pool's shape, read by rows and columns."""

    def __init__(self, pages: Pages, pool: npt.NDArray[Any]) -> None:
        self._pages = pages
        self._pool = pool

    @property
    def size(self) -> int:
        """Cells of the sheet."""
        return self._pages.rows * self._pages.width

    def __getitem__(self, key: _Rows | tuple[_Rows, slice | int]) -> npt.NDArray[Any]:
        """[rows], [rows, columns]: (rows, columns), without the axis of a single number; a copy."""
        rows, columns = key if isinstance(key, tuple) else (key, slice(None))
        if isinstance(columns, slice):
            first, end, _ = columns.indices(self._pages.width)
        else:
            first, end = int(columns), int(columns) + 1
        begin = first // PAGE
        pages = self._pages.table[rows, begin : -(-end // PAGE)]
        cells: npt.NDArray[Any] = self._pool.reshape(-1, PAGE)[pages]
        cells = cells.reshape(*pages.shape[:-1], pages.shape[-1] * PAGE)[..., first - begin * PAGE : end - begin * PAGE]
        return cells if isinstance(columns, slice) else cells[..., 0]

    def at(self, cells: npt.NDArray[np.integer[Any]]) -> npt.NDArray[Any]:
        """Of these cells, (n,)."""
        found: npt.NDArray[Any] = self._pool[self._pages.find(cells)]
        return found
