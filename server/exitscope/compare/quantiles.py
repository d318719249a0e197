"""Quantiles of histograms, between the edges of a bucket, and the tails of Student's t."""

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from exitscope_probes.histogram import BUCKETS, bucket_floor_ns

_EDGES_NS = bucket_floor_ns().astype(np.float64)


def quantiles_ns(counts: npt.NDArray[Any], wanted: Sequence[float]) -> npt.NDArray[np.float64]:
    """Quantiles of histograms of any count, also fractional: (..., BUCKETS) -> (..., len(wanted)) ns.

    Within a bucket values are taken to be spread evenly, so that a quantile moves as the counts do and does not
    jump by a bucket's width. nan where a histogram is empty.
    """
    cumulative = np.cumsum(counts, axis=-1, dtype=np.float64)
    total = cumulative[..., -1]
    columns = []
    for quantile in wanted:
        rank = quantile * total
        bucket = np.minimum((cumulative < rank[..., None]).sum(axis=-1), BUCKETS - 1)
        inside = np.take_along_axis(counts, bucket[..., None], -1)[..., 0].astype(np.float64)
        below = np.take_along_axis(cumulative, bucket[..., None], -1)[..., 0] - inside
        share = np.clip((rank - below) / np.where(inside > 0, inside, 1), 0, 1)
        value = _EDGES_NS[bucket] + share * (_EDGES_NS[bucket + 1] - _EDGES_NS[bucket])
        columns.append(np.where(total > 0, value, np.nan))
    return np.stack(columns, axis=-1)


def middle_stages_ns(
    counts: npt.NDArray[Any], stage_sums_ns: npt.NDArray[Any], low: float = 0.4, high: float = 0.6
) -> npt.NDArray[np.float64]:
    """Mean length of each stage among the faults between two quantiles: what the median fault is made of.

    counts: (BUCKETS,); stage_sums_ns: (BUCKETS, n) sums over the faults of each bucket. Returns (n,) ns.
    """
    cumulative = np.cumsum(counts, dtype=np.float64)
    edges = np.array([low, high]) * cumulative[-1]
    # The share of each bucket's faults that lie between the two ranks.
    upper = np.clip(cumulative, *edges)
    lower = np.clip(np.concatenate([[0.0], cumulative[:-1]]), *edges)
    share = (upper - lower) / np.where(counts > 0, counts, 1)
    taken = float((share * counts).sum())
    means: npt.NDArray[np.float64] = share @ stage_sums_ns / (taken if taken > 0 else 1.0)
    return means


def student_t(confidence: float, freedom: float) -> float:
    """Two-sided quantile of Student's t: 2.07 for 0.95 and 23 degrees of freedom.

    Cornish-Fisher expansion (Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5), within 1 % from
    3 degrees of freedom on.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    freedom = max(freedom, 3.0)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))
