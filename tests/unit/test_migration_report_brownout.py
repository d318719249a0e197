"""Brownout: the sweep against a brute-force count, nanosecond by nanosecond."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from exitscope.migration_report.brownout import Brownout, Sweep

FROM, TO = 1000, 1997


def swept(rows: Any, begins: Any, ends: Any, vcpus: int, tick: int, parts: int = 1) -> Brownout:
    rows, begins, ends = (np.asarray(values, np.int64) for values in (rows, begins, ends))
    order = np.argsort(begins, kind="stable")
    sweep = Sweep(vcpus, FROM, TO, tick)
    for part in np.array_split(order, parts):
        sweep.add(rows[part], begins[part], ends[part])
    return sweep.close()


def brute(rows: Any, begins: Any, ends: Any, vcpus: int) -> npt.NDArray[np.bool_]:
    """Whether each vCPU stands still in each nanosecond, (vcpus, TO - FROM)."""
    still = np.zeros((vcpus, TO - FROM), bool)
    for row, begin, end in zip(rows, begins, ends, strict=True):
        still[row, max(begin - FROM, 0) : max(end - FROM, 0)] = True
    return still


@pytest.mark.parametrize("vcpus", [1, 2, 5])
@pytest.mark.parametrize("parts", [1, 3, 60])
@pytest.mark.parametrize("longest", [4, 60, 900])
@pytest.mark.parametrize("seed", range(4))
def test_it_is_what_counting_every_nanosecond_gives(vcpus: int, parts: int, longest: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    count = 90
    rows = random.integers(0, vcpus, count)
    begins = random.integers(FROM - 300, TO + 50, count)
    ends = begins + random.integers(0, longest, count)
    tick = int(random.choice([1, 7, 100, 997, 2000]))
    found = swept(rows, begins, ends, vcpus, tick, parts)
    still = brute(rows, begins, ends, vcpus)
    at_once = still.sum(axis=0)
    assert found.time_at_ns.tolist() == np.bincount(at_once, minlength=vcpus + 1).tolist()
    columns = range(0, TO - FROM, tick)
    assert found.stall_ns.tolist() == [[int(row[one : one + tick].sum()) for one in columns] for row in still]
    assert found.peak.tolist() == [int(at_once[one : one + tick].max()) for one in columns]
    assert found.lengths_ns.sum() == TO - FROM
    assert found.mean == pytest.approx([at_once[one : one + tick].mean() for one in columns])
    runs = np.diff(np.concatenate(([0], (at_once == vcpus).astype(int), [0])))
    starts, stops = np.flatnonzero(runs == 1), np.flatnonzero(runs == -1)
    lengths = stops - starts
    assert found.all_ns == lengths.max(initial=0)
    if len(lengths):
        assert found.all_from_ns - FROM in starts[lengths == lengths.max()]


def test_nothing_stood_still() -> None:
    found = swept([], [], [], 3, 100)
    assert found.time_at_ns.tolist() == [TO - FROM, 0, 0, 0]
    assert (found.all_ns, found.peak.max(), found.stall_ns.sum()) == (0, 0, 0)


def test_all_of_it() -> None:
    found = swept([0, 1, 0], [FROM - 5, FROM - 9, FROM + 500], [FROM + 500, TO + 5, TO], 2, 100, 3)
    assert found.time_at_ns.tolist() == [0, 0, TO - FROM]
    assert (found.all_ns, found.all_from_ns) == (TO - FROM, FROM)


def test_one_that_goes_on_at_once_joins() -> None:
    """A vCPU whose next fault begins as the last one ends has not run in between."""
    found = swept([0, 1, 0], [FROM + 10, FROM, FROM + 20], [FROM + 20, FROM + 60, FROM + 30], 2, 100, 3)
    assert (found.all_ns, found.all_from_ns) == (20, FROM + 10)
