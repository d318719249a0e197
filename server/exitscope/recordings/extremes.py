"""The slowest faults of each slot of time, as they are in the recording."""

from itertools import pairwise
from typing import Final

import numpy as np
import pyarrow as pa

from .columns import OTHER_THREADS, SCHEMA
from .slots import Int64s

MOST: Final = 20
"""Per slot and VM."""

_MANY: Final = 1 << 15


class Extremes:
    """Filled like DigestLog; other threads' faults are left out."""

    def __init__(self) -> None:
        self._tables = [SCHEMA.empty_table()]
        self._keys: list[tuple[Int64s, Int64s, Int64s]] = []  # begin since the start, VM, length
        self._rows = 0

    def add(self, table: pa.Table, since_ns: Int64s, lengths_ns: Int64s, vm: Int64s, slot_ns: int) -> None:
        """n > 0 faults: since_ns (n,) ascending; lengths_ns and index of VM (n,)."""
        vcpus = np.where(table["vcpu"].to_numpy() == OTHER_THREADS, -1, lengths_ns)
        slot = since_ns // slot_ns
        edges = [0, *(np.flatnonzero(np.diff(slot)) + 1).tolist(), len(slot)]
        chosen = []
        for first, last in pairwise(edges):
            inside = np.arange(first, last)
            for one in np.unique(vm[first:last]).tolist():
                mine = inside[vm[first:last] == one]
                if len(mine) > MOST:
                    mine = mine[np.argpartition(vcpus[mine], -MOST)[-MOST:]]
                chosen.append(mine[vcpus[mine] >= 0])
        rows = np.sort(np.concatenate(chosen))
        self._tables.append(table.take(pa.array(rows)))
        self._keys.append((since_ns[rows], vm[rows], lengths_ns[rows]))
        self._rows += len(rows)
        if self._rows > _MANY:
            self._prune(slot_ns)

    def table(self, slot_ns: int) -> pa.Table:
        """Of columns.SCHEMA and `slot`, by slot: at most MOST of each slot and VM."""
        self._prune(slot_ns)
        slots = self._keys[0][0] // slot_ns if self._keys else np.empty(0, np.int64)
        return self._tables[0].append_column("slot", pa.array(slots))

    def _prune(self, slot_ns: int) -> None:
        if not self._keys:
            return
        since, vm, length = (np.concatenate(column) for column in zip(*self._keys, strict=True))
        group = (since // slot_ns << 16) + vm
        order = np.lexsort((-length, group))
        starts = np.flatnonzero(np.diff(group[order], prepend=-1))
        place = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
        rows = np.sort(order[place < MOST])
        table = pa.concat_tables(self._tables).unify_dictionaries().take(pa.array(rows))
        self._tables, self._keys, self._rows = [table], [(since[rows], vm[rows], length[rows])], len(rows)
