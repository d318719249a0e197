"""Bucket geometry and percentiles."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exitscope_probes.histogram import (
    BUCKETS,
    MIDDLE_NS,
    UPPER_NS,
    bucket_floor_ns,
    bucket_of,
    percentiles_ns,
)

LATENCY = st.integers(0, 2**42 - 1)


def test_buckets_follow_each_other_without_gap() -> None:
    edges = bucket_floor_ns()
    assert len(edges) == BUCKETS + 1
    assert edges[0] == 0
    assert (np.diff(edges.astype(np.int64)) > 0).all()
    assert edges[-1] == 2**42
    assert (bucket_of(edges[:-1]) == np.arange(BUCKETS)).all()
    assert (bucket_of(edges[1:] - np.uint64(1)) == np.arange(BUCKETS)).all()


@settings(deadline=None)
@given(LATENCY)
def test_a_latency_is_within_its_bucket_and_near_its_middle(latency_ns: int) -> None:
    bucket = int(bucket_of(np.array([latency_ns], np.uint64))[0])
    assert bucket_floor_ns()[bucket] <= latency_ns < UPPER_NS[bucket]
    if latency_ns >= 64:
        assert abs(int(MIDDLE_NS[bucket]) - latency_ns) <= 0.032 * latency_ns


@settings(deadline=None)
@given(st.integers(2**42, 2**64 - 1))
def test_what_is_longer_than_an_hour_shares_the_last_bucket(latency_ns: int) -> None:
    assert bucket_of(np.array([latency_ns], np.uint64))[0] == BUCKETS - 1


@settings(deadline=None)
@given(st.lists(st.integers(64, 2**42 - 1), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_percentiles_are_within_the_promised_error(latencies: list[int], quantile: float) -> None:
    counts = np.bincount(bucket_of(np.array(latencies, np.uint64)), minlength=BUCKETS)
    exact = sorted(latencies)[max(int(np.ceil(quantile * len(latencies))), 1) - 1]
    assert int(percentiles_ns(counts, (quantile,))[0]) == pytest.approx(exact, rel=0.033)


def test_an_empty_histogram_has_percentiles_of_zero() -> None:
    assert percentiles_ns(np.zeros((2, BUCKETS), np.uint32), (0.5, 0.99)).tolist() == [[0, 0], [0, 0]]
