"""The faults of a recording in the order in which they ended, for who follows the time."""

from collections.abc import Callable, Generator, Mapping
from typing import Final

import numpy as np
import pyarrow as pa

from exitscope_probes.records import FAULT_DTYPE

from ..lengths import end_ns
from .columns import from_table
from .file import RecordingFile
from .parquet import opened
from .tally import Records

_BATCH: Final = 1 << 16
_LONG_NS: Final = 60_000_000_000  # a fault that had lasted for longer at from_ns may be left out


class Ending:
    """Goes forward from `from_ns` with `until`. open: FAULT_DTYPE (n,), those that had begun by then, and not ended.

    numbers: VM id -> number. before: takes those that had ended by from_ns; None: they are not needed.
    """

    def __init__(
        self,
        file: RecordingFile,
        from_ns: int,
        numbers: Mapping[str, int],
        before: Callable[[Records], None] | None,
    ) -> None:
        self.open: Records = np.empty(0, FAULT_DTYPE)
        self._batches = _read(file, from_ns, numbers, before)
        self._next = next(self._batches, np.empty(0, FAULT_DTYPE))

    def until(self, time_ns: int) -> Records:
        """Those that ended until then, FAULT_DTYPE (n,)."""
        begun = [self.open]
        while True:
            if not len(self._next):
                following = next(self._batches, None)
                if following is None:
                    break
                self._next = following
                continue
            cut = int(np.searchsorted(self._next["begin_ns"].astype(np.int64), time_ns, side="right"))
            begun.append(self._next[:cut])
            self._next = self._next[cut:]
            if len(self._next):
                break
        records = np.concatenate(begun)
        ended = end_ns(records) <= time_ns
        self.open = records[~ended]
        done: Records = records[ended]
        return done


def _read(
    file: RecordingFile, from_ns: int, numbers: Mapping[str, int], before: Callable[[Records], None] | None
) -> Generator[Records]:
    """Those that end after from_ns, by their begin."""
    with opened(file.path) as parquet:
        column = parquet.schema_arrow.get_field_index("begin_ns")
        groups = []
        for number in range(parquet.num_row_groups):
            statistics = parquet.metadata.row_group(number).column(column).statistics
            late = statistics is None or not statistics.has_min_max or statistics.max >= from_ns - _LONG_NS
            if late or before is not None:
                groups.append(number)
        if not groups:
            return
        for batch in parquet.iter_batches(_BATCH, row_groups=groups, use_threads=False):
            records = from_table(pa.Table.from_batches([batch]), numbers)
            over = end_ns(records) <= from_ns
            if before is not None and over.any():
                before(records[over])
            if not over.all():
                yield records[~over]
