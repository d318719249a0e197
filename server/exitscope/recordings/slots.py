"""Counts, sums and longest lengths per slot of time and key, in bounded memory."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from exitscope_probes.histogram import BUCKETS, bucket_of

MAX_SLOTS: Final = 2048
STAGES: Final = 8
"""Room for stage numbers in a key: 0 the whole fault, 1 to 5 its stages."""

_DENSE: Final = 8
_MANY_ROWS: Final = 1 << 18

Int64s = npt.NDArray[np.int64]
Stage = tuple[int, Int64s, "npt.NDArray[np.bool_] | None"]
"""Its number, its lengths in ns (n,), and which of them count (n,), None: all."""


class Grid:
    """Histograms and sums of lengths by slot, who and stage. More than max_cells or MAX_SLOTS: slots twice as long."""

    def __init__(self, slot_ns: int, max_cells: int) -> None:
        self.slot_ns = slot_ns
        self._max = max_cells
        self._cells = _Sums(("count",))
        self._lengths = _Sums(("count", "sum", "max"))

    def add(self, since_ns: Int64s, who: Int64s, people: int, stages: list[Stage]) -> None:
        """n > 0 faults: since_ns (n,) ascending, from 0; who (n,) below people."""
        while int(since_ns[-1]) // self.slot_ns >= MAX_SLOTS:
            self._coarsen()
        slot = since_ns // self.slot_ns
        first = int(slot[0])
        group = (slot - first) * people + who
        order = np.argsort(group.astype(np.uint16) if int(group.max()) < 1 << 16 else group, kind="stable")
        ordered = group[order]
        starts = np.flatnonzero(np.diff(ordered, prepend=-1))
        slots, keys = first + ordered[starts] // people, ordered[starts] % people * STAGES
        rank = np.repeat(np.arange(len(starts)) * BUCKETS, np.diff(np.append(starts, len(ordered))))
        cells, sums = [], []
        for number, lengths, counted in stages:
            there = np.ones(len(order), bool) if counted is None else counted[order]
            mine = np.where(there, lengths[order], 0)
            counts = np.add.reduceat(there.astype(np.int64), starts)
            totals, longest = np.add.reduceat(mine, starts), np.maximum.reduceat(mine, starts)
            some = counts > 0
            sums.append((slots[some], keys[some] + number, counts[some], totals[some], longest[some]))
            buckets, times = _times((rank + bucket_of(mine.astype(np.uint64)))[there], len(starts) * BUCKETS)
            at = buckets // BUCKETS
            columns = slots[at], (keys[at] + number) * BUCKETS + buckets % BUCKETS, times
            cells.append(tuple(column.astype(np.int32) for column in columns))
        self._cells.add(cells)
        self._lengths.add(sums)
        if self._cells.rows > self._max:
            self._fit(self._max)

    def finish(self, most: int, least_ns: int = 0) -> None:
        """Join slots until there are at most so many cells, or one slot; and until they are so long."""
        self._fit(most)
        while self.slot_ns < least_ns:
            self._coarsen()

    def cells(self) -> dict[str, npt.NDArray[Any]]:
        """slot, key = (who * STAGES + stage) * BUCKETS + bucket, count; int32, sorted."""
        return self._cells.columns()

    def lengths(self) -> dict[str, npt.NDArray[Any]]:
        """slot, key = who * STAGES + stage, count, sum and max in ns; int64, sorted."""
        return self._lengths.columns()

    def _fit(self, most: int) -> None:
        self._cells.merge()
        self._lengths.merge()
        while self._cells.rows > most and self._cells.last_slot > 0:
            self._coarsen()

    def _coarsen(self) -> None:
        self.slot_ns *= 2
        self._cells.halve()
        self._lengths.halve()


_Columns = tuple[npt.NDArray[Any], ...]


class _Sums:
    """Rows of slot, key and values; those of the same slot and key are one after `merge`: `max` the highest, else sums.

    No batch begins before the slot with which the one before it ends, so that only the newest rows can meet others.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = ("slot", "key", *names)
        self._closed: list[_Columns] = []
        self._open: list[_Columns] = []
        self._closed_rows = self._open_rows = 0
        self.last_slot = 0

    @property
    def rows(self) -> int:
        return self._closed_rows + self._open_rows

    def add(self, batch: Sequence[_Columns]) -> None:
        """A batch in any number of parts."""
        self._open += [part for part in batch if len(part[0])]
        self._open_rows += sum(len(part[0]) for part in batch)
        if self._open_rows > _MANY_ROWS:
            self.merge()

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """Merged, by name."""
        self.merge()
        parts = [*self._closed, *self._open] or [tuple(np.empty(0, np.int64) for _ in self._names)]
        return {
            name: np.concatenate(column) for name, column in zip(self._names, zip(*parts, strict=True), strict=True)
        }

    def merge(self) -> None:
        if not self._open:
            return
        merged = self._merged(self._open)
        self.last_slot = int(merged[0][-1])
        cut = int(np.searchsorted(merged[0], self.last_slot))
        if cut:
            self._closed.append(tuple(column[:cut].copy() for column in merged))
            self._closed_rows += cut
        self._open = [tuple(column[cut:].copy() for column in merged)]
        self._open_rows = len(merged[0]) - cut

    def halve(self) -> None:
        """Two slots become one."""
        self.merge()
        parts = [*self._closed, *self._open]
        self._closed, self._open, self._closed_rows, self._open_rows = [], [], 0, 0
        for slot, *others in parts:
            self.add([(slot >> 1, *others)])
        self.merge()

    def _merged(self, parts: list[_Columns]) -> _Columns:
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        where = columns[0].astype(np.int64) << 32 | columns[1]
        order = np.argsort(where, kind="stable")
        starts = np.flatnonzero(np.diff(where[order], prepend=-1))
        merged = [column[order][starts] for column in columns[:2]]
        for name, column in zip(self._names[2:], columns[2:], strict=True):
            join = np.maximum if name == "max" else np.add
            merged.append(join.reduceat(column[order], starts).astype(column.dtype))
        return tuple(merged)


def _times(values: Int64s, below: int) -> tuple[Int64s, Int64s]:
    """The different values, ascending, and how often each is there."""
    if below > _DENSE * len(values):
        return np.unique(values, return_counts=True)
    counts = np.bincount(values, minlength=below)
    found = np.flatnonzero(counts)
    return found, counts[found]
