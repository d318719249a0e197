"""From histograms to count, sum and percentiles: the numbers that every table shows."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from exitscope_probes.histogram import BUCKETS, UPPER_NS, percentiles_ns

QUANTILES: Final = (0.5, 0.9, 0.99)
EMPTY: Final[dict[str, int]] = {"count": 0, "sum": 0, "p50": 0, "p90": 0, "p99": 0, "max": 0}


def summarize(
    histograms: npt.NDArray[Any],
    counts: npt.NDArray[Any],
    sums_ns: npt.NDArray[Any],
    max_ns: npt.NDArray[Any],
) -> list[dict[str, int]]:
    """count, sum, p50, p90, p99 and max in ns of each of n histograms.

    histograms: (n, BUCKETS); counts, sums_ns: (n,); max_ns: (n,), the longest ever seen, which bounds the
    highest bucket. Percentiles are within 3.2 %; `max` is exact if it is the longest ever, else a bucket end.
    """
    p50, p90, p99, highest = percentile_columns(histograms, max_ns)
    columns = (np.maximum(counts, 0), np.maximum(sums_ns, 0), p50, p90, p99, highest)
    return [
        {"count": c, "sum": s, "p50": a, "p90": b, "p99": d, "max": m} if c else dict(EMPTY)
        for c, s, a, b, d, m in zip(*(column.tolist() for column in columns), strict=True)
    ]


def percentile_columns(histograms: npt.NDArray[Any], max_ns: npt.NDArray[Any]) -> tuple[npt.NDArray[np.uint64], ...]:
    """p50, p90, p99 and max, each (n,) ns; 0 where a histogram is empty."""
    percentiles = percentiles_ns(histograms, QUANTILES)
    filled = histograms != 0
    top = BUCKETS - 1 - np.argmax(filled[:, ::-1], axis=1)
    limit = max_ns.astype(np.uint64)
    # The last bucket has no end, and a longest of 0 means that it is not known.
    highest = np.where((top == BUCKETS - 1) | ((limit > 0) & (limit < UPPER_NS[top])), limit, UPPER_NS[top])
    highest = np.where(filled.any(axis=1), highest, 0).astype(np.uint64)
    bounded = np.minimum(percentiles, highest[:, None])
    return bounded[:, 0], bounded[:, 1], bounded[:, 2], highest


def summarize_one(histogram: npt.NDArray[Any], count: int, sum_ns: int, max_ns: int) -> dict[str, int]:
    """The same for one histogram (BUCKETS,)."""
    return summarize(histogram[None], np.array([count]), np.array([sum_ns]), np.array([max_ns]))[0]
