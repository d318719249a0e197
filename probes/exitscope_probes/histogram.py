"""Geometry of the log-linear latency histograms kept in the kernel (bpf/events.h).

Sixteen buckets per power of two above 64 ns, 4 ns wide below: the scheme of HdrHistogram (G. Tene), chosen so
that finding a bucket in BPF is one bit scan and two shifts.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

BUCKETS = 592
UNIT_SHIFT = 2
SUB_BITS = 4
_SUB = 1 << SUB_BITS


def bucket_of(latency_ns: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Bucket index of each latency in ns; what bpf/state.h computes, for tests and replays."""
    units = np.asarray(latency_ns, np.uint64) >> np.uint64(UNIT_SHIFT)
    # frexp is exact below 2^53 ns (104 days); everything from 2^42 ns on shares the last bucket anyway.
    exponent = np.maximum(np.frexp(units.astype(np.float64))[1].astype(np.int64) - 1, SUB_BITS)
    shift = (exponent - SUB_BITS).astype(np.uint64)
    index = (exponent - SUB_BITS) * _SUB + (units >> shift).astype(np.int64)
    return np.minimum(index, BUCKETS - 1)


def bucket_floor_ns() -> npt.NDArray[np.uint64]:
    """Lower edge of every bucket in ns, shape (BUCKETS + 1,): the last entry is the end of the last bucket."""
    index = np.arange(BUCKETS + 1, dtype=np.uint64)
    exponent = np.maximum(index >> np.uint64(SUB_BITS), np.uint64(1)) - np.uint64(1)
    mantissa = index - exponent * np.uint64(_SUB)
    edges: npt.NDArray[np.uint64] = (mantissa << exponent) << np.uint64(UNIT_SHIFT)
    return edges


_EDGES_NS = bucket_floor_ns()
MIDDLE_NS: npt.NDArray[np.uint64] = (_EDGES_NS[:-1] + _EDGES_NS[1:]) // np.uint64(2)
UPPER_NS: npt.NDArray[np.uint64] = _EDGES_NS[1:]


def percentiles_ns(counts: npt.NDArray[np.integer[Any]], quantiles: tuple[float, ...]) -> npt.NDArray[np.uint64]:
    """Percentiles of many histograms at once.

    counts: (..., BUCKETS) of any integer dtype. Returns (..., len(quantiles)) ns, the middle of the bucket that
    holds each quantile (within 3.2 % of it); 0 where a histogram is empty.
    """
    cumulative = np.cumsum(counts, axis=-1, dtype=np.uint64)
    total = cumulative[..., -1:]
    out = np.empty((*cumulative.shape[:-1], len(quantiles)), np.uint64)
    for i, quantile in enumerate(quantiles):
        rank = np.maximum(np.ceil(total * quantile), 1).astype(np.uint64)
        index = np.minimum((cumulative < rank).sum(axis=-1), BUCKETS - 1)
        out[..., i] = np.where(total[..., 0] > 0, MIDDLE_NS[index], 0)
    return out
