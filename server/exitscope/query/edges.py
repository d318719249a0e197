"""What lies before and after whole slots of time: summed as the digest sums, from the records."""

from typing import Any, Final

import numpy as np
import pyarrow as pa

from ..lengths import STAGE_COLUMNS, counted_stages
from ..recordings.parquet import opened
from ..recordings.people import People
from ..recordings.slots import Grid

_COLUMNS: Final = ("vm", "vcpu", "mode", "seen", "begin_ns", *STAGE_COLUMNS)
_BATCH_ROWS: Final = 1 << 17
_FOREVER_NS: Final = 1 << 62
_NO_LIMIT: Final = 1 << 40

Span = tuple[int, int]
"""Begins of faults, CLOCK_MONOTONIC ns."""


class Edges:
    """stages: sums of all stages, in slot 0, of the faults that began in any of the spans [first, last).

    wholes: sums of the whole faults alone, in slot 0, one for each of the inner spans, which lie within the others.
    """

    def __init__(self, path: str, people: People, spans_ns: list[Span], inner_ns: list[Span]) -> None:
        """Raises OSError or pa.ArrowException if the file is gone or damaged."""
        self.stages = Grid(_FOREVER_NS, _NO_LIMIT)
        self.wholes = [Grid(_FOREVER_NS, _NO_LIMIT) for _ in inner_ns]
        self._people = people
        self._inner_ns = inner_ns
        with opened(path) as file:
            place = file.schema_arrow.get_field_index("begin_ns")
            for span in spans_ns:
                groups = [group for group in range(file.num_row_groups) if _overlaps(file, group, place, span)]
                for batch in file.iter_batches(_BATCH_ROWS, row_groups=groups, columns=list(_COLUMNS)):
                    low, high = np.searchsorted(batch.column("begin_ns").to_numpy(), span)
                    if low < high:
                        self._add(pa.Table.from_batches([batch.slice(low, high - low)]))

    def _add(self, table: pa.Table) -> None:
        _, mode, who = self._people.identify(table)
        people, since_ns = len(self._people.who), np.zeros(len(who), np.int64)
        stages = [table[name].to_numpy() for name in STAGE_COLUMNS]
        lengths_ns = np.sum(stages, axis=0)
        counted = counted_stages(mode, table["seen"].to_numpy())
        there = [(0, lengths_ns, None), *zip(range(1, 6), stages, counted, strict=True)]
        self.stages.add(since_ns, who, people, there)
        for grid, span in zip(self.wholes, self._inner_ns, strict=True):
            inside = slice(*np.searchsorted(table["begin_ns"].to_numpy(), span))
            if inside.start < inside.stop:
                grid.add(since_ns[inside], who[inside], people, [(0, lengths_ns[inside], None)])


def _overlaps(file: Any, group: int, place: int, span: Span) -> bool:
    statistics = file.metadata.row_group(group).column(place).statistics
    return statistics is None or not statistics.has_min_max or (statistics.max >= span[0] and statistics.min < span[1])
