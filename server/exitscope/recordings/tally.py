"""Counting records as the kernel counts faults: the rules of bpf/account.h, for replays."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from exitscope_probes.histogram import BUCKETS, bucket_of
from exitscope_probes.records import (
    HARDWARE_DTYPE,
    MODE_ASYNC,
    MODE_EXIT,
    MODE_MEMORY_FAULT,
    MODE_UFFD,
    SERIES,
    WAITER_VCPU,
)

from ..lengths import STAGE_COLUMNS, counted_stages, latency_ns
from .counters import HARDWARE_COUNTS, HARDWARE_SUMS_NS

_FIRST_STAGE: Final = {MODE_UFFD: 5, MODE_EXIT: 10, MODE_MEMORY_FAULT: 10, MODE_ASYNC: 14}  # series, records.py
_NOTIFY: Final = 1

Records = npt.NDArray[Any]
_Int64s = npt.NDArray[np.int64]


def tally(records: Records, slots: _Int64s, rows: npt.NDArray[Any], cells: _Int64s, stall: bool) -> _Int64s:
    """Add records (n,), whose rows are slots (n,), to rows VCPU_DTYPE and cells (rows, SERIES * BUCKETS), in place.

    stall: also the time stood still, as far as records tell. Returns the flat indexes of the cells that grew.
    """
    where, lengths = _series(records, slots)
    totals = rows["series"]
    counts = np.bincount(where, minlength=totals.size).reshape(totals.shape)
    sums = np.bincount(where, lengths, minlength=totals.size).reshape(totals.shape)
    longest = totals["max_ns"].astype(np.int64).reshape(-1)
    np.maximum.at(longest, where, lengths)
    totals["count"] += counts.astype(np.uint64)
    totals["sum_ns"] += sums.astype(np.uint64)
    totals["max_ns"] = longest.reshape(totals.shape)
    if stall:
        still = records["waiter"] == WAITER_VCPU
        stood = np.bincount(slots[still], latency_ns(records)[still], minlength=len(rows))
        rows["stall_ns"] += stood.astype(np.uint64)
    grown, times = np.unique(where * BUCKETS + bucket_of(lengths.astype(np.uint64)), return_counts=True)
    cells.reshape(-1)[grown] += times
    found: _Int64s = grown.astype(np.int64)
    return found


def _series(records: Records, slots: _Int64s) -> tuple[_Int64s, _Int64s]:
    """(flat index of row and series, length in ns) of what is counted: whole faults, and stages that were seen."""
    modes = records["mode"].astype(np.int64)
    where, lengths = [slots * SERIES + modes], [latency_ns(records)]
    stages = list(enumerate(zip(STAGE_COLUMNS, counted_stages(modes, records["seen"]), strict=True)))
    for mode, first in _FIRST_STAGE.items():
        is_exit = mode in (MODE_EXIT, MODE_MEMORY_FAULT)
        for stage, (name, seen) in stages:
            if is_exit and stage == _NOTIFY:
                continue
            counted = seen & (modes == mode)
            where.append(slots[counted] * SERIES + first + stage - (is_exit and stage > _NOTIFY))
            lengths.append(records[name][counted].astype(np.int64))
    return np.concatenate(where), np.concatenate(lengths)


def hardware_cells(slot: int, isa: int, values: _Int64s) -> npt.NDArray[Any]:
    """HARDWARE_DTYPE (n,) of one row's counters (counters.WIDTH,): its non-empty cells."""
    cells = np.flatnonzero(values[HARDWARE_COUNTS])
    exits = np.zeros(len(cells), HARDWARE_DTYPE)
    exits["slot"], exits["isa"], exits["cell"] = slot, isa, cells
    exits["count"], exits["sum_ns"] = values[HARDWARE_COUNTS][cells], values[HARDWARE_SUMS_NS][cells]
    return exits
