"""What some vCPUs did in a window: counts, latencies, stages, stall, exits. Computed on demand."""

from typing import Any

import numpy as np
import numpy.typing as npt

from exitscope_probes.histogram import BUCKETS
from exitscope_probes.records import EXIT_NAMES, MODES, STAGE_FAMILIES, STAGE_SERIES

from .aggregate import Aggregate
from .hardware import Exits
from .latency import summarize, summarize_one
from .modes import USER_MODES
from .scalars import COUNTS, EXITS, STALL_NS, SUMS_NS

STAGES = tuple(dict.fromkeys(stage for _, stage in STAGE_SERIES))
"""Every stage's name, in the order of a fault's life."""


class View:
    """rows: (n,) rows of the counters, BLANK allowed; length_ns: a window on offer."""

    def __init__(self, aggregate: Aggregate, rows: npt.NDArray[np.integer[Any]], length_ns: int) -> None:
        self._aggregate = aggregate
        self._length_ns = length_ns
        self._rows: Any = rows
        if len(rows) and (np.diff(rows) == 1).all():  # neighbours: a slice needs no gather
            self._rows = slice(int(rows[0]), int(rows[-1]) + 1)
        self.filled_ns = aggregate.scalars.filled_ns(length_ns)
        scalars = aggregate.scalars.since(length_ns, self._rows)
        self._counts = np.maximum(scalars[:, COUNTS], 0)
        self._sums_ns = np.maximum(scalars[:, SUMS_NS], 0)
        self._exits = np.maximum(scalars[:, EXITS], 0).sum(axis=0)
        self._stall_ns = scalars[:, STALL_NS]
        self._longest_ns = aggregate.rows.totals["series"]["max_ns"][self._rows]
        self._series: dict[int, npt.NDArray[Any]] = {}

    def modes(self) -> dict[str, dict[str, int | float]]:
        """Whole latency per mode over all rows; modes without a fault are left out."""
        return {
            mode: {
                "rate_per_s": self.rate_per_s(int(self._counts[:, number].sum())),
                **self._together([number]),
            }
            for number, mode in enumerate(MODES)
            if self._counts[:, number].any()
        }

    def everything(self) -> dict[str, int]:
        """Whole latency over all rows and all modes that userspace resolves."""
        return self._together(list(range(USER_MODES)))

    def stages(self) -> dict[str, dict[str, dict[str, int]]]:
        """Family -> stage -> latency over all rows; families without a fault are left out."""
        found: dict[str, dict[str, dict[str, int]]] = {family: {} for family in STAGE_FAMILIES}
        for number, (family, stage) in enumerate(STAGE_SERIES, len(MODES)):
            found[family][stage] = self._together([number])
        return {family: stages for family, stages in found.items() if any(stage["count"] for stage in stages.values())}

    def latency_per_row(self) -> list[dict[str, int]]:
        """Whole latency of each row, over all modes that userspace resolves."""
        return self._per_row(list(range(USER_MODES)))

    def stages_per_row(self) -> list[dict[str, dict[str, int]]]:
        """Stage -> latency of each row; stages of the same name in different modes are counted together."""
        columns = {
            stage: self._per_row([n for n, (_, name) in enumerate(STAGE_SERIES, len(MODES)) if name == stage])
            for stage in STAGES
        }
        return [{stage: columns[stage][i] for stage in STAGES} for i in range(len(self._counts))]

    def stall_per_row(self) -> list[float]:
        """Share of the window's time that each row's vCPU spent inside faults, 0 to 1, open ones included."""
        share = self._stall_ns / max(self.filled_ns, 1)
        rounded: list[float] = np.round(np.clip(share, 0, 1), 4).tolist()
        return rounded

    def rate_per_row(self) -> list[float]:
        """Faults per second of each row, without mode `kernel`."""
        return [self.rate_per_s(count) for count in self._counts[:, :USER_MODES].sum(axis=1).tolist()]

    def exits(self) -> dict[str, int]:
        """Exit reason -> count over all rows; the others are left out."""
        return named_exits(self._exits)

    def hardware_exits(self) -> dict[str, Exits]:
        """Hardware exit reason -> count, time and longest over all rows; the others are left out."""
        return self._aggregate.hardware.over(self._length_ns, self._rows)

    def hardware_exits_per_row(self) -> list[dict[str, int]]:
        """Hardware exit reason -> count of each row."""
        return self._aggregate.hardware.counts_per_row(self._length_ns, self._rows)

    def rate_per_s(self, count: int) -> float:
        """A count of this window as a rate."""
        return round(count * 1e9 / max(self.filled_ns, 1), 2)

    def _histogram(self, number: int) -> npt.NDArray[Any]:
        """Histograms of a series, (n, BUCKETS) uint32."""
        if number not in self._series:
            columns = slice(number * BUCKETS, (number + 1) * BUCKETS)
            self._series[number] = self._aggregate.histograms.since(self._length_ns, self._rows, columns)
        return self._series[number]

    def _used(self, numbers: list[int]) -> list[int]:
        return [number for number in numbers if self._counts[:, number].any()]

    def _together(self, numbers: list[int]) -> dict[str, int]:
        histogram = np.zeros(BUCKETS, np.int64)
        for number in self._used(numbers):
            histogram += self._histogram(number).sum(axis=0, dtype=np.int64)
        return summarize_one(
            histogram,
            int(self._counts[:, numbers].sum()),
            int(self._sums_ns[:, numbers].sum()),
            int(self._longest_ns[:, numbers].max(initial=0)),
        )

    def _per_row(self, numbers: list[int]) -> list[dict[str, int]]:
        histograms: Any = np.zeros((len(self._counts), BUCKETS), np.uint32)
        for number in self._used(numbers):
            histograms = histograms + self._histogram(number)
        return summarize(
            histograms,
            self._counts[:, numbers].sum(axis=1),
            self._sums_ns[:, numbers].sum(axis=1),
            self._longest_ns[:, numbers].max(axis=1),
        )


def named_exits(cells: npt.NDArray[Any]) -> dict[str, int]:
    """Exit reason -> count of the cells (EXIT_CELLS,) that are not 0."""
    return {EXIT_NAMES[i]: int(cells[i]) for i in np.flatnonzero(cells)}
