"""Columns of time for the charts: rates and percentiles per mode; p99 or age of a lasting fault, stall per vCPU."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from exitscope_probes.histogram import BUCKETS, MIDDLE_NS
from exitscope_probes.records import MODES

from ..latency import percentile_columns
from ..modes import USER_MODES
from .scan import Cells, Key, Part

MAX_TICKS: Final = 300
_MS: Final = 1_000_000
_STEPS_MS: Final = (10, 20, 50, 100, 200, 500)
_STEPS_S: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
_WIDTHS_NS: Final = (*(step * _MS for step in _STEPS_MS), *(step * 1000 * _MS for step in _STEPS_S))


def tick_width_ns(length_ns: int) -> int:
    """A round width, at least 10 ms, such that there are at most MAX_TICKS columns."""
    for width_ns in _WIDTHS_NS:
        if length_ns <= width_ns * MAX_TICKS:
            return width_ns
    hours = -(-length_ns // (_WIDTHS_NS[-1] * MAX_TICKS))
    return int(hours * _WIDTHS_NS[-1])


def tick_columns(
    cells: Cells,
    part: Part,
    keys: list[Key],
    stall: dict[Key, npt.NDArray[np.int64]],
    longest_ns: npt.NDArray[np.int64],
    most: npt.NDArray[np.int64],
    here: npt.NDArray[np.bool_],
    fills: list[dict[str, int] | None],
    gpa: list[dict[str, Any] | None],
) -> list[dict[str, Any]]:
    """One object per tick, as models.RecordingTick. keys: the vCPUs in the order of heat and stall.

    most: how many of them stood still at once, at most; here: (keys, ticks), which of them count among all; fills, gpa:
    of each tick.
    """
    row_of = {key: row for row, key in enumerate(keys)}
    rows = np.array([row_of.get(key, -1) for key in cells.keys] or [-1], np.int64)[cells.vcpu]
    shown = rows >= 0
    modes = _modes(cells, shown, part, longest_ns)
    p99_ns = _heat(cells, shown & (cells.mode < USER_MODES), rows, part.ticks, len(keys))
    edges_ns = part.edges_ns
    lengths_ns = np.diff(edges_ns)
    none = np.zeros(part.ticks, np.int64)
    stalls = np.array([stall.get(key, none) for key in keys], np.int64).reshape(len(keys), part.ticks)
    heat = np.maximum(p99_ns, _going_on(stalls, p99_ns.T > 0).T).tolist()
    shares = np.round(np.clip(stalls / lengths_ns, 0, 1), 4).T.tolist()
    means = np.round((stalls * here).sum(axis=0) / lengths_ns, 4).tolist()
    counted = here.sum(axis=0)
    peaks = np.minimum(most, counted).tolist()
    return [
        {
            "time_ns": int(edges_ns[i] + lengths_ns[i] // 2),
            "modes": modes[i],
            "heat": [value or None for value in heat[i]],
            "stall": shares[i],
            "stalled": {"mean": means[i], "peak": peaks[i], "vcpus": int(counted[i])},
            "fills": fills[i],
            "gpa": gpa[i],
        }
        for i in range(part.ticks)
    ]


def _modes(
    cells: Cells, shown: npt.NDArray[np.bool_], part: Part, longest_ns: npt.NDArray[np.int64]
) -> list[dict[str, dict[str, float]]]:
    """Mode -> rate and percentiles, per tick; modes without a fault are left out."""
    rows = part.ticks * len(MODES)
    place = (cells.tick[shown] * len(MODES) + cells.mode[shown]) * BUCKETS + cells.bucket[shown]
    histograms = np.bincount(place, cells.count[shown], rows * BUCKETS).astype(np.int64).reshape(rows, BUCKETS)
    columns = percentile_columns(histograms, np.tile(longest_ns, part.ticks))
    counts = histograms.sum(axis=1)
    values = [column.tolist() for column in columns]
    found: list[dict[str, dict[str, float]]] = [{} for _ in range(part.ticks)]
    lengths_ns = np.diff(part.edges_ns).tolist()
    for place in np.flatnonzero(counts).tolist():
        tick, mode = divmod(place, len(MODES))
        p50, p90, p99, longest = (column[place] for column in values)
        rate = round(int(counts[place]) * 1e9 / lengths_ns[tick], 3)
        found[tick][MODES[mode]] = {"rate_per_s": rate, "p50": p50, "p90": p90, "p99": p99, "max": longest}
    return found


def _heat(
    cells: Cells, shown: npt.NDArray[np.bool_], rows: npt.NDArray[np.int64], ticks: int, width: int
) -> npt.NDArray[np.int64]:
    """p99 over all modes of each tick and row, (ticks, width) ns; 0: no fault."""
    found = np.zeros(ticks * max(width, 1), np.int64)
    place, bucket, count = (cells.tick * max(width, 1) + rows)[shown], cells.bucket[shown], cells.count[shown]
    order = np.lexsort((bucket, place))
    place, bucket, count = place[order], bucket[order], count[order]
    if len(place):
        cumulative = np.cumsum(count)
        first = np.flatnonzero(np.diff(place, prepend=-1))
        before = cumulative[first] - count[first]
        total = np.append(before[1:], cumulative[-1]) - before
        rank = np.maximum(np.ceil(total * 0.99), 1).astype(np.int64)
        found[place[first]] = MIDDLE_NS[bucket[np.searchsorted(cumulative, before + rank)]]
    return found.reshape(ticks, max(width, 1))[:, :width]


def _going_on(stalls: npt.NDArray[np.int64], begun: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """For how long a vCPU has stood, by the end of each tick, in a fault that began in an earlier one; 0: in none, ns.

    stalls: (vCPUs, ticks) ns; begun: (vCPUs, ticks), whether a fault began there. What it stood in that tick is not
    known apart and left out: the fault is at least so old.
    """
    ages = np.zeros_like(stalls)
    for tick in range(1, stalls.shape[1]):
        ages[:, tick] = np.where(begun[:, tick] | (stalls[:, tick] == 0), 0, ages[:, tick - 1] + stalls[:, tick])
    return ages
