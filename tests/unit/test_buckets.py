"""The buckets of a recording that is finished: the same counts as in full arrays, in a part of their memory."""

import numpy as np

from exitscope.recordings.buckets import SLOT_CELLS, Buckets


def test_counts_are_those_of_full_arrays_whatever_rows_are_named() -> None:
    random = np.random.default_rng(5)
    full, found = np.zeros((300, SLOT_CELLS), np.int64), Buckets()
    assert found.at(np.array([7 * SLOT_CELLS])).tolist() == [0] and not found.row(299).any()
    for _ in range(20):
        cells = random.choice(full.size, 3000, replace=False)
        counts = random.integers(0, 1 << 40, 3000)
        if random.integers(2):
            found.add(cells, counts)
            full.reshape(-1)[cells] += counts
        else:
            found.put(cells, counts)
            full.reshape(-1)[cells] = counts
        row = int(random.integers(300))
        found.clear(row)
        full[row] = 0
        assert (found.at(cells) == full.reshape(-1)[cells]).all()
    assert all((found.row(row) == full[row]).all() for row in range(300))


def test_a_vcpu_with_few_buckets_in_use_takes_little() -> None:
    found = Buckets()
    for row in range(1000):
        found.put(row * SLOT_CELLS + np.arange(100, 164), np.ones(64, np.int64))
    assert found.nbytes < 1000 * 8_000  # 180 KB each in full
