"""Columns of the counters that are kept per vCPU and per VM."""

from typing import Final

from exitscope_probes.histogram import BUCKETS
from exitscope_probes.records import EXIT_CELLS, FAILURES, FILLS, SERIES

# Columns of the per-vCPU scalars, all int64.
COUNTS: Final = slice(0, SERIES)
SUMS_NS: Final = slice(SERIES, 2 * SERIES)
EXITS: Final = slice(2 * SERIES, 2 * SERIES + EXIT_CELLS)
STALL_NS: Final = 2 * SERIES + EXIT_CELLS
SCALARS: Final = STALL_NS + 1

# Columns of the per-VM scalars.
DEMAND: Final = slice(0, len(FILLS))
BACKGROUND: Final = slice(len(FILLS), 2 * len(FILLS))
FAILED: Final = 2 * len(FILLS)
FAILED_BY: Final = slice(FAILED + 1, FAILED + 1 + len(FAILURES))
VM_SCALARS: Final = FAILED_BY.stop

HISTOGRAM_WIDTH: Final = SERIES * BUCKETS
